"""What a weight mask buys: layers as sparse (CSR) products where that is measured to be faster on this machine."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.cost import Timing, time_runs
from masksearch.cost.forward_pass import batch_of, check_batch, copied, device_of, evaluated, forward
from masksearch.utils.errors import InputError

__all__ = ["BreakEven", "Choice", "Deployed", "SparseConv1x1", "SparseLinear", "break_even", "sparse"]

_TOLERANCE = 1e-4  # of the outputs' standard deviation, float32; a sparse product adds in another order
_TOLERANCE_LOW = 3e-2  # for bfloat16 and float16, which carry 8 and 11 bits


class _SparseProduct(nn.Module):
    """A weight (out, in) in compressed rows, its three parts buffers, so that it moves, copies and saves as usual."""

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        with _quiet():
            rows = weight.detach().to_sparse_csr()
        self.register_buffer("crow_indices", rows.crow_indices().int())  # int32: MKL multiplies them as they are
        self.register_buffer("col_indices", rows.col_indices().int())
        self.register_buffer("values", rows.values())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def extra_repr(self) -> str:
        """Shape and density, for the printed network."""
        return f"{self.shape[1]}, {self.shape[0]}, density={len(self.values) / (self.shape[0] * self.shape[1]):.3g}"

    def multiply(self, columns: Tensor) -> Tensor:
        """Columns (in, n) -> weight @ columns + bias (out, n)."""
        matrix = torch.sparse_csr_tensor(
            self.crow_indices, self.col_indices, self.values, self.shape, check_invariants=False
        )
        if columns.shape[1] == 1:
            vector = torch.mv(matrix, columns[:, 0])
            return (vector if self.bias is None else vector + self.bias)[:, None]
        return matrix @ columns if self.bias is None else torch.addmm(self.bias[:, None], matrix, columns)


class SparseLinear(_SparseProduct):
    """``nn.Linear`` with its non-zero weights only. For inference: nothing in it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (..., in) -> outputs (..., out)."""
        rows = x.reshape(-1, self.shape[1])
        return self.multiply(rows.t()).t().contiguous().view(*x.shape[:-1], self.shape[0])


class SparseConv1x1(_SparseProduct):
    """A 1x1 ``nn.Conv2d`` (unpadded, one group) with its non-zero weights only. For inference."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> None:
        super().__init__(weight.flatten(1), bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, in, h, w) -> outputs (n, out, h / stride, w / stride)."""
        x = x[..., :: self.stride[0], :: self.stride[1]]
        # Image by image: the pixels are columns already, and no dimension has to change places.
        return torch.stack([self.multiply(image.flatten(1)).view(-1, *image.shape[1:]) for image in x])


@dataclass(frozen=True)
class Choice:
    """Why a layer is sparse or dense."""

    layer: str
    shape: tuple[int, ...]  # of the weight
    sparsity: float
    rows: int  # inputs (pixels, tokens) that one forward pass of the example batch multiplies with the weight
    dense: Timing
    sparse: Timing
    chosen: str  # "sparse" or "dense"

    @property
    def speedup(self) -> float:
        """Dense over sparse seconds: below 1, sparsity costs time."""
        return self.dense.median / self.sparse.median


class Deployed(NamedTuple):
    """A network for inference, and what was measured for each of its layers with zeros."""

    model: nn.Module
    choices: list[Choice]


def sparse(model: nn.Module, example_input: Tensor, seconds: float = 0.2) -> Deployed:
    """A copy whose linear layers and 1x1 convolutions are sparse products where that is faster, measured here and now.

    Every such layer with zeros in its weight is timed both ways on what the example batch brings it. It becomes sparse
    only if the 95 % interval of the sparse time lies below that of the dense time; where zeros buy nothing, the layer
    stays dense, and the choices show both times. Another batch size or machine may choose otherwise.

    Parameters
    ----------
    model : nn.Module
        Left as it was found. Its copy is in eval mode; masks of ``torch.nn.utils.prune`` count as zeros.
    example_input : Tensor (n, ...)
        A batch of the size to be served.
    seconds : float
        How long each layer is timed.

    Returns
    -------
    Deployed
        The copy and the choices. Its outputs are the network's: the largest difference is checked to be at most 1e-4 of
        their standard deviation in float32 (3e-2 in half precision).

    Raises
    ------
    InputError
        If the network doesn't take ``example_input``, or the copy's outputs differ.
    """
    check_batch(model, example_input)
    device = device_of(model)
    batch = batch_of(example_input, len(example_input), device)
    with evaluated(model), torch.no_grad():
        inputs, wanted = _inputs_of(model, batch)
        replaced: dict[nn.Module, nn.Module] = {}
        choices = []
        for name, layer in model.named_modules():
            if name in inputs and (twin := _twin(layer)) is not None:
                choice = _choose(name, layer, twin, inputs[name], seconds)
                choices.append(choice)
                if choice.chosen == "sparse":
                    replaced[layer] = twin
        deployed = copied(model, replaced).eval()
        _check_equal(wanted, deployed(batch), type(model).__name__)
    return Deployed(deployed, choices)


def _inputs_of(model: nn.Module, batch: Tensor) -> tuple[dict[str, Tensor], Any]:
    """What each layer that could be sparse gets (the first time it runs), by name; and the network's outputs."""
    inputs: dict[str, Tensor] = {}
    hooks = []
    # Torch's own encoder hands these weights to a fused operator, which wants them dense.
    fused = {
        part
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for part in module.children()
    }
    for name, module in model.named_modules():

        def note(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                inputs.setdefault(name, args[0])

        if isinstance(module, nn.Linear | nn.Conv2d) and module not in fused:
            hooks.append(module.register_forward_pre_hook(note))
    try:
        return inputs, forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()


def _twin(layer: nn.Module) -> nn.Module | None:
    """The sparse form of a layer that has one and has zeros to leave out. Subclasses may do more than they inherit."""
    if type(layer) not in (nn.Linear, nn.Conv2d) or not _zeros(layer):
        return None
    if layer.weight.device.type == "cpu" and layer.weight.dtype.itemsize < 4:
        return None  # torch has no sparse products in half precision there
    if isinstance(layer, nn.Linear):
        return SparseLinear(layer.weight, layer.bias).eval()
    if isinstance(layer, nn.Conv2d):
        unpadded = layer.padding in ((0, 0), "valid", "same") and (layer.padding != "same" or layer.stride == (1, 1))
        if layer.kernel_size == (1, 1) and layer.groups == 1 and unpadded:
            return SparseConv1x1(layer.weight, layer.bias, layer.stride).eval()  # type: ignore[arg-type]
    return None


def _zeros(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.numel() - int(weight.count_nonzero())


def _choose(name: str, layer: nn.Module, twin: nn.Module, x: Tensor, seconds: float) -> Choice:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    with _quiet():
        times = time_runs({"dense": partial(layer, x), "sparse": partial(twin, x)}, x.device, seconds)
    dense, as_rows = times["dense"], times["sparse"]
    return Choice(
        layer=name,
        shape=tuple(weight.shape),
        sparsity=_zeros(layer) / weight.numel(),
        rows=x.numel() // weight.shape[1],
        dense=dense,
        sparse=as_rows,
        chosen="sparse" if as_rows.high < dense.low else "dense",
    )


def _check_equal(wanted: Any, got: Any, name: str) -> None:
    for one, other in zip(_tensors(wanted), _tensors(got), strict=True):
        tolerance = _TOLERANCE if one.dtype in (torch.float32, torch.float64) else _TOLERANCE_LOW
        spread = float(one.double().std()) if one.numel() > 1 else float(one.double().abs())
        difference = float((one.double() - other.double()).abs().max())
        if not difference <= tolerance * max(spread, 1e-12):
            raise InputError(
                f"model: {name} with sparse layers gives other outputs: {difference:.2g} apart at a standard deviation "
                f"of {spread:.2g}; at most {tolerance:g} of it is allowed"
            )


def _tensors(tree: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notice, once per process, that its CSR tensors are new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        yield


@dataclass(frozen=True)
class BreakEven:
    """From which sparsity on a sparse product is faster than the dense one, at one size."""

    size: int  # inputs and outputs of a linear layer
    rows: int  # inputs multiplied at once
    speedups: dict[float, float]  # sparsity -> dense over sparse seconds (medians)
    sparsity: float | None  # the lowest measured one from which on sparse wins at every higher one; None: it never does


def break_even(
    sizes: Sequence[int] = (256, 1024, 2048),
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    rows: Sequence[int] = (1, 64),
    device: torch.device | str = "cpu",
    seconds: float = 0.2,
) -> list[BreakEven]:
    """Measure square linear layers, zeros in random places, float32, dense and sparse in turns, on this machine.

    Parameters
    ----------
    sizes, sparsities, rows : sequences
        What to measure: every combination.
    device : torch.device or str
        Where.
    seconds : float
        How long each combination is timed.

    Raises
    ------
    InputError
        For a sparsity outside [0, 1).
    """
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise InputError(f"sparsities: {sparsity!r}; each must lie in [0, 1)")
    device, generator, table = torch.device(device), torch.Generator().manual_seed(0), []
    for size, count in product(sizes, rows):
        x = torch.randn(count, size, generator=generator).to(device)
        speedups = {}
        for sparsity in sorted(sparsities):
            weight = torch.randn(size, size, generator=generator)
            weight[torch.rand(size, size, generator=generator) < sparsity] = 0
            twin, weight = SparseLinear(weight, None).to(device), weight.to(device)
            with torch.no_grad(), _quiet():
                times = time_runs({"dense": partial(F.linear, x, weight), "sparse": partial(twin, x)}, device, seconds)
            speedups[sparsity] = times["dense"].median / times["sparse"].median
        losing = [sparsity for sparsity, speedup in speedups.items() if speedup <= 1]
        winning = [sparsity for sparsity in speedups if sparsity > max(losing, default=-1.0)]
        table.append(BreakEven(size, count, speedups, min(winning, default=None)))
    return table
