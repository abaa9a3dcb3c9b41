"""Gram matrices of layers' inputs: sums of products, from which least squares and post-training masks are computed.

A layer with weight W (out, k) reads inputs X (rows, k), one row per position of every example. G = X^T X holds all that
a least-squares problem over the layer's outputs needs, in memory that does not grow with the examples. A grouped
convolution has one matrix per group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.pruning.matrix_layers import MatrixLayer, Observed, observed
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, as_nested, call_model, n_examples, take, to_device

HELD_OUT = 4  # every fourth batch makes the held-out matrices, the others make the fitted ones
_BATCH = 64  # examples per forward pass
_NUMBERS = 1 << 25  # numbers in the rows of inputs that are multiplied at once: 128 MiB in float32


@dataclass
class Gram:
    """Sums for refitting a pruned layer: X^T X of its inputs X, and X^T D with its inputs D in the unpruned network.

    X and D have one row per position of each example, and k columns. Shapes are (k + 1, k + 1): the last input is one,
    for the bias.
    """

    own: Tensor
    cross: Tensor  # the same tensor as ``own`` where the inputs are those of the dense network
    shift: Tensor | None = None  # (k + 1, out): inputs times what targets have beside the dense layer's outputs

    def centred(self) -> "Gram":
        """Return the Gram matrices for inputs minus their mean; the bias's row and column become zero."""
        n = self.own[-1, -1]
        own = self.own - torch.outer(self.own[:, -1], self.own[-1]) / n
        same = self.cross is self.own
        cross = own if same else self.cross - torch.outer(self.cross[:, -1], self.cross[-1]) / n
        shift = None if self.shift is None else self.shift - torch.outer(self.own[:, -1], self.shift[-1]) / n
        return Gram(own, cross, shift)


@dataclass(frozen=True)
class LayerGrams:
    """Gram matrices X^T X of a layer's inputs X, one per convolution group: from batches to fit, and held-out ones."""

    fitted: tuple[Gram, ...]
    held_out: tuple[Gram, ...]

    def centred(self) -> "LayerGrams":
        """Return the layer's Gram matrices for inputs minus their mean."""
        return LayerGrams(
            tuple(gram.centred() for gram in self.fitted), tuple(gram.centred() for gram in self.held_out)
        )


class _Sums:
    """Sums of one layer over rows of all groups at once: (groups, k + 1, k + 1). Products are in the rows' type."""

    def __init__(self) -> None:
        self.own: Tensor | None = None
        self.cross: Tensor | None = None
        self.shift: Tensor | None = None

    def add(self, rows: Tensor, dense_rows: Tensor | None, shift: Tensor | None) -> None:
        """Add one batch of a layer's inputs to the layer's Gram matrices, which are sums over batches.

        ``rows`` and ``dense_rows`` are the inputs in the pruned and in the dense network, (groups, n, k); ``shift`` is
        the change of the target outputs, (groups, n, out).
        """
        rows = F.pad(rows, (0, 1), value=1.0)
        across = rows.transpose(1, 2)
        self.own = _plus(self.own, across @ rows)
        if dense_rows is not None:
            self.cross = _plus(self.cross, across @ F.pad(dense_rows, (0, 1), value=1.0))
        if shift is not None:
            self.shift = _plus(self.shift, across @ shift)

    def grams(self) -> tuple[Gram, ...]:
        """Return the Gram matrices of a layer's inputs, one per convolution group."""
        assert self.own is not None
        shifts = [None] * len(self.own) if self.shift is None else list(self.shift)
        if self.cross is None:
            return tuple(Gram(own, own, shift) for own, shift in zip(self.own, shifts, strict=True))
        return tuple(map(Gram, self.own, self.cross, shifts))


def gram_matrices(
    own: nn.Module, dense: nn.Module, layers: Sequence[MatrixLayer], batches: Sequence[Nested]
) -> dict[str, LayerGrams]:
    """Return {layer name: Gram matrices X^T X of the layer's inputs X}, from running network ``own`` on ``batches``.

    ``cross`` relates them to the inputs of the same layer in network ``dense``, which may be the same network. A layer
    whose outputs are added to a shortcut gets ``shift``: the targets are the dense outputs of the sum.
    """
    sums: dict[str, tuple[_Sums, _Sums]] = {layer.name: (_Sums(), _Sums()) for layer in layers}
    for number, batch in enumerate(batches):
        seen = _observe(own, layers, batch, shortcuts=own is not dense)
        targets = seen if own is dense else _observe(dense, layers, batch, shortcuts=True)
        for layer in layers:
            module = dense.get_submodule(layer.name)
            part = sums[layer.name][number % HELD_OUT == HELD_OUT - 1]
            given, wanted = seen[layer.name], targets[layer.name]
            for place, inputs in enumerate(given.inputs):
                dense_inputs = None if own is dense else wanted.inputs[place]
                shift = None
                if own is not dense and len(given.shortcuts) == len(wanted.shortcuts) == len(given.inputs):
                    shift = layer.shift(dense, wanted.shortcuts[place] - given.shortcuts[place])
                _add(part, layer, module, inputs, dense_inputs, shift)
    return {name: LayerGrams(fitted.grams(), held_out.grams()) for name, (fitted, held_out) in sums.items()}


def _add(
    sums: _Sums, layer: MatrixLayer, module: Any, inputs: Tensor, dense_inputs: Tensor | None, shift: Tensor | None
) -> None:
    """Add the rows of a batch, some examples at a time: unfolded inputs of large images need much memory."""
    per_example = layer.input_rows(module, inputs[:1]).numel()
    size = max(1, _NUMBERS // max(1, per_example))
    for start in range(0, len(inputs), size):
        part = slice(start, start + size)
        sums.add(
            layer.input_rows(module, inputs[part]),
            None if dense_inputs is None else layer.input_rows(module, dense_inputs[part]),
            None if shift is None else layer.output_rows(module, shift[part]),
        )


def _observe(model: nn.Module, layers: Sequence[MatrixLayer], batch: Nested, shortcuts: bool) -> dict[str, Observed]:
    with observed(model, layers, shortcuts) as found, torch.no_grad():
        call_model(model, batch)
    return found


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    part = part.double().cpu()
    return part if total is None else total.add_(part)


def calibration_inputs(split: Any, n: int, generator: torch.Generator) -> list[Nested]:
    """Draw ``n`` random examples of a data split; return their inputs in four or more batches of at most 64."""
    order = torch.randperm(len(split), generator=generator)[:n]
    sizes = [len(part) for part in order.split(max(1, min(_BATCH, len(order) // HELD_OUT)))]
    return [inputs for inputs, _ in islice(split.batches(order, sizes), len(sizes))]


def calibration_batches(examples: Any, device: torch.device) -> list[Nested]:
    """Return inputs as a list of at least four batches on ``device``, so that every fourth batch can be held out.

    Raises
    ------
    InputError
        If there are fewer than eight examples, or fewer than four batches.
    """
    if isinstance(examples, Tensor | dict) or (isinstance(examples, tuple) and examples):
        inputs = as_nested(examples, "examples")
        n = n_examples(inputs)
        if n < 2 * HELD_OUT:
            raise InputError(f"examples: {n} of them; at least {2 * HELD_OUT} are needed to repair a network")
        size = min(_BATCH, n // HELD_OUT)
        parts = [take(inputs, slice(start, start + size)) for start in range(0, n - n % size, size)]
    else:
        parts = [as_nested(batch, "examples") for batch in examples]
        if len(parts) < HELD_OUT:
            raise InputError(f"examples: {len(parts)} batches; at least {HELD_OUT} are needed to repair a network")
    return [to_device(part, device) for part in parts]
