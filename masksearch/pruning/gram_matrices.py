"""Gram matrices of layers' inputs: the sums from which least squares, energies and post-training masks are computed.

A layer with weight W (out, k) reads inputs X (rows, k), one row per position of every example. G = X^T X holds all that
a least-squares problem over the layer's outputs needs, in memory that does not grow with the examples. A grouped
convolution has one matrix per group.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, as_nested, call_model, n_examples, take, to_device

HELD_OUT = 4  # every fourth batch makes the held-out matrices, the others make the fitted ones
_BATCH = 64  # examples per forward pass


@dataclass(frozen=True)
class MatrixLayer:
    """A layer that multiplies rows of inputs by a matrix: linear, or a 1-D or 2-D convolution."""

    name: str
    groups: int
    centred: bool  # no bias, and a BatchNorm behind it, which takes any offset of the outputs

    def matrix(self, module: Any) -> Tensor:
        """Return the weight as matrices (groups, out / groups, k + 1) in float64; the last column is the bias."""
        weight = module.weight.detach().flatten(1).cpu().double()
        bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach().cpu()
        return torch.cat([weight, bias[:, None].double()], dim=1).unflatten(0, (self.groups, -1))

    def kept_entries(self, keep: Tensor) -> Tensor:
        """Return a bool mask of the weight's shape as matrices (groups, out / groups, k)."""
        return keep.cpu().flatten(1).unflatten(0, (self.groups, -1))

    def store(self, module: Any, matrix: Tensor) -> None:
        """Copy matrices (groups, out / groups, k + 1) into the weight and the bias, if there is one."""
        rows = matrix.flatten(0, 1)
        with torch.no_grad():
            module.weight.copy_(rows[:, :-1].reshape(module.weight.shape).to(module.weight))
            if module.bias is not None:
                module.bias.copy_(rows[:, -1].to(module.bias))

    def input_rows(self, module: Any, inputs: Tensor) -> Tensor:
        """Return a batch of inputs as matrices (groups, rows, k): a row per position of every example."""
        if isinstance(module, nn.Linear):
            return inputs.flatten(0, -2)[None]
        kernel, dilation, padding, stride = module.kernel_size, module.dilation, module.padding, module.stride
        if isinstance(module, nn.Conv1d):
            inputs, kernel, dilation, padding, stride = (
                inputs[:, :, None], (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)
            )  # fmt: skip
        rows = F.unfold(inputs, kernel, dilation, padding, stride).transpose(1, 2).flatten(0, 1)
        return rows.unflatten(1, (self.groups, -1)).transpose(0, 1)


def matrix_layers(model: nn.Module, batch: Nested) -> list[MatrixLayer]:
    """Return the layers of a model that :class:`MatrixLayer` can describe, in the order in which they first run."""
    order: list[str] = []
    modules = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(lambda *_, name=name: order.append(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            call_model(model, take(batch, slice(2)))
    finally:
        for hook in hooks:
            hook.remove()
    layers = {}
    for place, name in enumerate(order):
        module = modules[name]
        if name in layers or not _is_matrix(module):
            continue
        behind = modules[order[place + 1]] if place + 1 < len(order) else None
        centred = module.bias is None and isinstance(behind, _BatchNorm)
        layers[name] = MatrixLayer(name, getattr(module, "groups", 1), centred)
    return list(layers.values())


def _is_matrix(module: Any) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


@dataclass
class Gram:
    """Sums over rows: inputs times inputs (k + 1, k + 1), and inputs times dense inputs. The last column is one."""

    own: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, k: int) -> "Gram":
        """Return the sums over no rows."""
        return cls(torch.zeros(k + 1, k + 1, dtype=torch.float64), torch.zeros(k + 1, k + 1, dtype=torch.float64))

    def add(self, rows: Tensor, dense_rows: Tensor | None) -> None:
        """Add rows of inputs and dense inputs (None: the same). Products are in the rows' type, sums in float64."""
        rows = F.pad(rows, (0, 1), value=1.0)
        own = (rows.T @ rows).double().cpu()
        self.own += own
        self.cross += own if dense_rows is None else (rows.T @ F.pad(dense_rows, (0, 1), value=1.0)).double().cpu()

    def centred(self) -> "Gram":
        """Return the sums over deviations from the mean; the last row and column become zero."""
        n = self.own[-1, -1]
        return Gram(
            self.own - torch.outer(self.own[:, -1], self.own[-1]) / n,
            self.cross - torch.outer(self.cross[:, -1], self.cross[-1]) / n,
        )


@dataclass(frozen=True)
class LayerGrams:
    """Gram matrices of one layer, a matrix per group: of most batches, and of the held-out ones."""

    fitted: tuple[Gram, ...]
    held_out: tuple[Gram, ...]

    def centred(self) -> "LayerGrams":
        """Return the sums over deviations from the mean."""
        return LayerGrams(
            tuple(gram.centred() for gram in self.fitted), tuple(gram.centred() for gram in self.held_out)
        )


def gram_matrices(
    own: nn.Module, dense: nn.Module, layers: Sequence[MatrixLayer], batches: Sequence[Nested]
) -> dict[str, LayerGrams]:
    """Return the Gram matrices of the inputs of layers in network ``own``, by name of the layer.

    ``cross`` relates them to the inputs of the same layer in network ``dense``, which may be the same network.
    """
    grams: dict[str, LayerGrams] = {}
    for number, batch in enumerate(batches):
        seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        targets: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        with _inputs_of(own, seen), torch.no_grad():
            call_model(own, batch)
        if own is dense:
            targets = seen
        else:
            with _inputs_of(dense, targets), torch.no_grad():
                call_model(dense, batch)
        for layer in layers:
            module = dense.get_submodule(layer.name)
            for inputs, dense_inputs in zip(seen[layer.name], targets[layer.name], strict=True):
                rows = layer.input_rows(module, inputs)
                dense_rows = None if own is dense else layer.input_rows(module, dense_inputs)
                if layer.name not in grams:
                    empty = [tuple(Gram.empty(rows.shape[2]) for _ in rows) for _ in range(2)]
                    grams[layer.name] = LayerGrams(*empty)
                held_out = number % HELD_OUT == HELD_OUT - 1
                for group, gram in enumerate(grams[layer.name].held_out if held_out else grams[layer.name].fitted):
                    gram.add(rows[group], None if dense_rows is None else dense_rows[group])
    return grams


@contextmanager
def _inputs_of(model: nn.Module, found: dict[str, list[Tensor]]) -> Iterator[None]:
    """Within the block, append the inputs of the named layers."""
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].detach()))
        for name, own in found.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def calibration_batches(examples: Any, device: torch.device) -> list[Nested]:
    """Return batches of inputs on the device, at least four, so that one is held out.

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
