"""Choice between a dense and a sparse weight for a layer, from measured times on the layer's own inputs."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.cost import Timing, time_runs
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import forward
from masksearch.utils.nested import Nested

_TOLERANCE = 1e-4  # of the outputs' standard deviation, for float32; sparse products add in another order
_TOLERANCE_LOW = 3e-2  # for bfloat16 and float16, with 8 and 11 significant bits


@dataclass(frozen=True)
class Choice:
    """Result of timing one layer with a dense and with a sparse weight: both times, and the weight that was chosen."""

    layer: str
    shape: tuple[int, ...]  # of the weight
    sparsity: float  # share of zeros in the weight
    rows: int  # inputs (pixels, tokens) per forward pass of the example batch
    dense: Timing
    sparse: Timing
    chosen: str  # "sparse" or "dense"

    @property
    def speedup(self) -> float:
        """Speedup of a layer by a sparse weight: median dense time / median sparse time; below 1, sparse is slower."""
        return self.dense.median / self.sparse.median


def inputs_of(model: nn.Module, batch: Nested) -> tuple[dict[str, Tensor], Any]:
    """Run a network on a batch; return {name: input} of linear and Conv2d layers, and the network's outputs."""
    inputs: dict[str, Tensor] = {}
    hooks = ExitStack()
    # torch's encoder passes these weights to a fused operator that needs dense ones.
    fused = {
        part
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for part in module.children()
    }
    for name, module in model.named_modules():

        def record(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                inputs.setdefault(name, args[0])

        if isinstance(module, nn.Linear | nn.Conv2d) and module not in fused:
            hooks.enter_context(module.register_forward_pre_hook(record))
    with hooks:
        return inputs, forward(model, batch)


def zeros_of(layer: nn.Module) -> int:
    """Return the number of entries of a layer's weight that are 0."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.numel() - int(weight.count_nonzero())


def choose_form(name: str, layer: nn.Module, sparse_layer: nn.Module, x: Tensor, seconds: float) -> Choice:
    """Time a dense layer and its sparse copy on the input ``x``; return both times, and which of the two to use.

    The sparse layer is chosen only if the 95 % interval of its time lies below that of the dense layer.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    times = time_runs({"dense": partial(layer, x), "sparse": partial(sparse_layer, x)}, x.device, seconds)
    dense, as_rows = times["dense"], times["sparse"]
    return Choice(
        layer=name,
        shape=tuple(weight.shape),
        sparsity=zeros_of(layer) / weight.numel(),
        rows=x.numel() // weight.shape[1],
        dense=dense,
        sparse=as_rows,
        chosen="sparse" if as_rows.high < dense.low else "dense",
    )


def check_equal(dense: Any, sparse: Any, name: str) -> None:
    """Raise an InputError if outputs of a network and of its sparse copy differ by more than rounding errors."""
    for expected, output in zip(_tensors(dense), _tensors(sparse), strict=True):
        tolerance = _TOLERANCE if expected.dtype in (torch.float32, torch.float64) else _TOLERANCE_LOW
        spread = float(expected.double().std()) if expected.numel() > 1 else float(expected.double().abs())
        difference = float((expected.double() - output.double()).abs().max())
        if not difference <= tolerance * max(spread, 1e-12):
            raise InputError(
                f"model: {name} with sparse layers gives other outputs: they differ by {difference:.2g}; at most "
                f"{tolerance:g} of their standard deviation {spread:.2g} is allowed"
            )


def _tensors(tree: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]
