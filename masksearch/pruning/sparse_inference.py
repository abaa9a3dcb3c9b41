"""Sparse inference: masked layers become sparse (CSR) matrix products where measurements show that these are faster."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.cost import time_runs
from masksearch.pruning.semi_structured_layers import SemiStructured, semi_structured
from masksearch.pruning.sparse_layer_choice import Choice, check_equal, choose_form, inputs_of, zeros_of
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import batch_of, check_batch, copied, device_of, evaluated
from masksearch.utils.nested import Nested, as_device, call_model

__all__ = [
    "BreakEven",
    "Choice",
    "Deployed",
    "SemiStructured",
    "SparseConv1x1",
    "SparseLinear",
    "break_even",
    "semi_structured",
    "sparse",
]


class _SparseProduct(nn.Module):
    """Base of sparse layers: a weight (out, in) as CSR buffers, so that moving, copying and saving work."""

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        with _quiet():
            rows = weight.detach().to_sparse_csr()
        self.register_buffer("crow_indices", rows.crow_indices().int())  # int32: MKL needs no conversion
        self.register_buffer("col_indices", rows.col_indices().int())
        self.register_buffer("values", rows.values())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def extra_repr(self) -> str:
        """Return sizes and density of the layer's weight as text; ``print(network)`` shows the text."""
        return f"{self.shape[1]}, {self.shape[0]}, density={len(self.values) / (self.shape[0] * self.shape[1]):.3g}"

    def multiply(self, columns: Tensor) -> Tensor:
        """Return the product of the sparse weight and ``columns`` (in, n), plus the bias: (out, n)."""
        matrix = torch.sparse_csr_tensor(
            self.crow_indices, self.col_indices, self.values, self.shape, check_invariants=False
        )
        if columns.shape[1] == 1:
            vector = torch.mv(matrix, columns[:, 0])
            return (vector if self.bias is None else vector + self.bias)[:, None]
        return matrix @ columns if self.bias is None else torch.addmm(self.bias[:, None], matrix, columns)


class SparseLinear(_SparseProduct):
    """``nn.Linear`` that stores and multiplies only non-zero weights (CSR). For inference: nothing is trainable."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sparse linear layer's outputs (..., out features) for inputs (..., in features)."""
        rows = x.reshape(-1, self.shape[1])
        return self.multiply(rows.t()).t().contiguous().view(*x.shape[:-1], self.shape[0])


class SparseConv1x1(_SparseProduct):
    """``nn.Conv2d`` with a 1x1 kernel that stores and multiplies only non-zero weights (CSR). For inference."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> None:
        super().__init__(weight.flatten(1), bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the 1x1 convolution's outputs (n, out channels, h / stride, w / stride) for images (n, c, h, w)."""
        x = x[..., :: self.stride[0], :: self.stride[1]]
        # Image by image: pixels are columns, so that no dimension has to be permuted.
        return torch.stack([self.multiply(image.flatten(1)).view(-1, *image.shape[1:]) for image in x])


class Deployed(NamedTuple):
    """Result of :func:`sparse`: a copy with sparse layers, and the dense and sparse time of each layer with zeros."""

    model: nn.Module
    choices: list[Choice]


def sparse(model: nn.Module, example_input: Nested, seconds: float = 0.2) -> Deployed:
    """Return a copy of a network for inference, in which sparse layers replace dense ones where they run faster.

    Every linear layer and 1x1 convolution with zeros in its weight is timed dense and sparse on its inputs from the
    example batch. It becomes sparse only if the 95 % interval of the sparse time lies below that of the dense time.
    Results depend on batch size and machine.

    Parameters
    ----------
    model : nn.Module
        It does not change. The copy is in eval mode; masks of ``torch.nn.utils.prune`` count as zeros.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        A batch of the intended size.
    seconds : float
        Time to measure each layer.

    Returns
    -------
    Deployed
        The copy and the choices. The copy's outputs are checked: the largest difference to the network's is at most
        1e-4 of their standard deviation in float32 (3e-2 in half precision).

    Raises
    ------
    InputError
        If the network can't process ``example_input``, or the copy's outputs differ.
    """
    check_batch(model, example_input)
    device = device_of(model)
    batch = batch_of(example_input, None, device)
    with evaluated(model), torch.no_grad():
        inputs, outputs = inputs_of(model, batch)
        replaced: dict[nn.Module, nn.Module] = {}
        choices = []
        for name, layer in model.named_modules():
            if name in inputs and (sparse_layer := _sparse_form(layer)) is not None:
                with _quiet():
                    choice = choose_form(name, layer, sparse_layer, inputs[name], seconds)
                choices.append(choice)
                if choice.chosen == "sparse":
                    replaced[layer] = sparse_layer
        deployed = copied(model, replaced).eval()
        check_equal(outputs, call_model(deployed, batch), type(model).__name__)
    return Deployed(deployed, choices)


def _sparse_form(layer: nn.Module) -> nn.Module | None:
    """Return the sparse form of a layer with zeros, or None. Subclasses have none, because they may compute more."""
    if type(layer) not in (nn.Linear, nn.Conv2d) or not zeros_of(layer):
        return None
    if layer.weight.device.type == "cpu" and layer.weight.dtype.itemsize < 4:
        return None  # torch has no sparse products in half precision on the CPU
    if isinstance(layer, nn.Linear):
        return SparseLinear(layer.weight, layer.bias).eval()
    if isinstance(layer, nn.Conv2d):
        unpadded = layer.padding in ((0, 0), "valid", "same") and (layer.padding != "same" or layer.stride == (1, 1))
        if layer.kernel_size == (1, 1) and layer.groups == 1 and unpadded:
            return SparseConv1x1(layer.weight, layer.bias, layer.stride).eval()  # type: ignore[arg-type]
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warning that CSR support is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        yield


@dataclass(frozen=True)
class BreakEven:
    """Speedup of a sparse linear layer at several sparsities, and the sparsity above which it beats a dense layer."""

    size: int  # input features = output features
    rows: int  # batch size
    speedups: dict[float, float]  # sparsity -> dense over sparse seconds (medians)
    sparsity: float | None  # lowest measured one above which sparse is always faster; None: there is none


def break_even(
    sizes: Sequence[int] = (256, 1024, 2048),
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    rows: Sequence[int] = (1, 64),
    device: torch.device | str = "cpu",
    seconds: float = 0.2,
) -> list[BreakEven]:
    """Measure the sparsity above which sparse square linear layers run faster than dense ones on this machine.

    Weights are float32 with random zeros; dense and sparse layers are timed in turns.

    Parameters
    ----------
    sizes, sparsities, rows : sequences
        Features of the layers, shares of zeros, and batch sizes; all combinations are measured.
    device : torch.device or str
        Device of the layers.
    seconds : float
        Time to measure each combination.

    Raises
    ------
    InputError
        For a sparsity outside [0, 1).
    """
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise InputError(f"sparsities: {sparsity!r}; each must lie in [0, 1)")
    device, generator, table = as_device(device), torch.Generator().manual_seed(0), []
    for size, count in product(sizes, rows):
        x = torch.randn(count, size, generator=generator).to(device)
        speedups = {}
        for sparsity in sorted(sparsities):
            weight = torch.randn(size, size, generator=generator)
            weight[torch.rand(size, size, generator=generator) < sparsity] = 0
            sparse_layer, weight = SparseLinear(weight, None).to(device), weight.to(device)
            with torch.no_grad(), _quiet():
                times = time_runs(
                    {"dense": partial(F.linear, x, weight), "sparse": partial(sparse_layer, x)}, device, seconds
                )
            speedups[sparsity] = times["dense"].median / times["sparse"].median
        losing = [sparsity for sparsity, speedup in speedups.items() if speedup <= 1]
        winning = [sparsity for sparsity in speedups if sparsity > max(losing, default=-1.0)]
        table.append(BreakEven(size, count, speedups, min(winning, default=None)))
    return table
