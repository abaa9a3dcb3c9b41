"""Multiply-adds (MACs) per layer, counted by ``torch.utils.flop_counter``, and operators that it can't count."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import batch_of, check_batch, device_of, evaluated, forward, with_hooks
from masksearch.utils.nested import Nested
from masksearch.utils.registry import choose

aten = torch.ops.aten


class Macs(int):
    """Number of multiply-adds (MACs) of a network as an int, with the MACs of each layer.

    Attributes
    ----------
    per_layer : dict
        Layer name -> MACs, in the network's order: layers with a weight of two or more dimensions (0 for an
        embedding, which multiplies nothing), and modules that multiply activations with each other (attention).
    per_weight : dict
        Name of a parameter of two or more dimensions -> MACs of its products with activations, a part of ``per_layer``.
        Weights that layers share have one name, and the MACs of all these layers.
    uncounted : Counter
        Operator -> number of its uncounted runs, for operators that multiply tensors and have no formula, such as
        normalisations and scales. If it is empty, ``per_layer`` is complete.
    """

    per_layer: dict[str, int]
    per_weight: dict[str, int]
    uncounted: Counter[str]
    _products: dict[str, dict[str, int]]  # layer -> {parameter: MACs}

    def __new__(
        cls, per_layer: Mapping[str, int], uncounted: Mapping[str, int], products: Mapping[str, Mapping[str, int]]
    ) -> "Macs":
        """Create the int as the sum of ``per_layer``; ``products`` has the MACs of each layer by parameter."""
        self = super().__new__(cls, sum(per_layer.values()))
        self.per_layer, self.uncounted = dict(per_layer), Counter(uncounted)
        self._products = {layer: dict(macs) for layer, macs in products.items()}
        totals: dict[str, int] = {}
        for macs in self._products.values():
            for weight, count in macs.items():
                totals[weight] = totals.get(weight, 0) + count
        self.per_weight = totals
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.per_layer, self.uncounted, self._products

    def without_weights(self, layer: str) -> int:
        """Return the MACs of a layer that multiply no weight, such as those of attention between activations."""
        return self.per_layer[layer] - sum(self._products.get(layer, {}).values())


def macs(model: nn.Module, example_input: Nested) -> Macs:
    """Return the multiply-adds (MACs) of a network's forward pass of one input, in eval mode; 1 MAC = 2 FLOPs.

    1 MAC = 2 FLOPs. The formulas of ``torch.utils.flop_counter`` count the products of convolutions, linear layers, all
    matrix products and attention; additions of biases and elementwise operators do not count. Causal attention counts
    as full attention, a sparse matrix as a dense one. An operator's MACs belong to the layer whose weight it multiplies
    with, else to the innermost module that runs it.

    Parameters
    ----------
    model : nn.Module
        Mode, buffers, gradients and the global random state do not change.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        A batch; the MACs of its first input are counted.

    Raises
    ------
    InputError
        If the network doesn't take ``example_input``.
    """
    check_batch(model, example_input)
    # Newer versions of torch refuse operators that take functions unless they may be skipped.
    lenient: dict[str, Any] = (
        {"skip_unsupported": True} if "skip_unsupported" in signature(FlopCounterMode).parameters else {}
    )
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS, **lenient)
    attribution = _Attribution(model, counter)
    with evaluated(model), with_hooks(model, attribution.enter, attribution.leave), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FlopCounterMode does not have")  # such operators are in `uncounted`
        # Without gradients some modules run fused operators without a formula (fast paths of attention).
        with torch.enable_grad(), _no_fused_attention_blocks(), counter, attribution:
            forward(model, batch_of(example_input, 1, device_of(model)))
    counts = attribution.macs
    names = [
        name
        for name, module in model.named_modules()
        if counts[name] or any(p.ndim > 1 for p in _parameters_of(module).values())
    ]
    return Macs({name: counts[name] for name in names}, attribution.uncounted, _products(model, attribution))


def _products(model: nn.Module, attribution: "_Attribution") -> dict[str, dict[str, int]]:
    """Return {layer: {parameter: MACs}}, with 0 for a layer's own weights that multiply nothing.

    A layer may multiply with a tensor that it computes from its weight, such as a masked weight: then the layer's MACs
    are its weight's.
    """
    products: dict[str, dict[str, int]] = {name: {} for name, _ in model.named_modules()}
    for weight in attribution.weights:
        products[weight.rpartition(".")[0]][weight] = 0
    for (layer, weight), macs in attribution.products.items():
        products[layer][weight] = macs
    for layer, found in products.items():
        weight = f"{layer}.weight" if layer else "weight"
        if attribution.macs[layer] and weight in found and not any(found.values()):
            found[weight] = attribution.macs[layer]
    return products


def effective_macs(counted: Macs, densities: Mapping[str, float]) -> Macs:
    """Return a network's MACs without pruned weights: products with a weight, times the weight's share of kept entries.

    Parameters
    ----------
    counted : Macs
        The MACs of the dense network.
    densities : mapping
        Name of a weight, or of its layer if that is the name without ".weight" -> kept / all entries, as
        ``mask.densities()``. Weights that are left out are dense, and so are products of activations.

    Raises
    ------
    InputError
        For an unknown weight or layer, or a density outside [0, 1].
    """
    by_weight = {}
    for name, density in densities.items():
        weight = name if name in counted.per_weight else f"{name}.weight" if name else "weight"
        if weight not in counted.per_weight:
            choose("layer in densities", name, [known.removesuffix(".weight") for known in counted.per_weight])
        if not 0 <= density <= 1:
            raise InputError(f"densities: {density!r} for layer {name!r}; it must lie in [0, 1]")
        by_weight[weight] = density
    products = {
        layer: {weight: round(count * by_weight.get(weight, 1.0)) for weight, count in macs.items()}
        for layer, macs in counted._products.items()
    }
    layers = {
        layer: counted.without_weights(layer) + sum(products.get(layer, {}).values()) for layer in counted.per_layer
    }
    return Macs(layers, counted.uncounted, products)


# Formulas for products of vectors, attention on a CPU, and fused recurrent layers, which torch (up to 2.14) does not
# have. In FLOPs, the unit of torch's counter.
def _mv_flops(matrix: Any, vector: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(matrix)


def _addmv_flops(added: Any, matrix: Any, vector: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(matrix)


def _dot_flops(left: Any, right: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(left)


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _lstm_flops(inputs: Any, input_weight: Any, hidden_weight: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(inputs[:-1]) * (prod(input_weight) + prod(hidden_weight))


def _cudnn_rnn_flops(inputs: Any, weights: Any, *rest: Any, **_: Any) -> int:
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


_MORE_FORMULAS = {
    aten.mv: _mv_flops,
    aten.addmv: _addmv_flops,
    aten.dot: _dot_flops,
    aten.vdot: _dot_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten.mkldnn_rnn_layer: _lstm_flops,
    aten._cudnn_rnn: _cudnn_rnn_flops,
}

# Operators that take several tensors and multiply none.
_MOVERS = {"cat", "stack", "copy_", "index_put", "index_put_", "scatter", "scatter_", "slice_scatter", "select_scatter"}
_MOVERS |= {"as_strided_", "set_", "resize_as_", "_unsafe_view", "masked_scatter", "index_copy", "_index_put_impl_"}


class _Attribution(TorchDispatchMode):
    """Assign the FLOPs that the counter adds for every operator to a layer, and to the weights that it multiplies."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter
        self.running = [""]  # innermost module last
        self.macs: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.products: Counter[tuple[str, str]] = Counter()  # (layer, parameter) -> MACs
        self.owners: dict[int, list[str]] = {}  # storage of a parameter -> modules that have it
        self.weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
        self._places: dict[int, list[tuple[range, str]]] = {}  # storage -> places of parameters in it
        for name, parameter in self.weights.items():
            if (storage := _storage(parameter)) is not None:
                start = int(parameter.storage_offset())
                self._places.setdefault(storage, []).append((range(start, start + parameter.numel()), name))
        for name, module in model.named_modules(remove_duplicate=False):
            for parameter in _parameters_of(module).values():
                if (storage := _storage(parameter)) is not None:
                    self.owners.setdefault(storage, []).append(name)

    def enter(self, name: str) -> None:
        self.running.append(name)

    def leave(self, name: str) -> None:
        self.running.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        flops = self.counter.get_total_flops() - before
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if flops:
            self._assign(flops // 2, operands)
        elif not isinstance(func, torch._ops.OpOverload):  # an operator that takes functions: its products are unknown
            self.uncounted[str(func)] += 1
        elif self._multiplies(func, operands, result):
            self.uncounted[str(func._overloadpacket)] += 1
        return result

    def _assign(self, macs: int, operands: list[Tensor]) -> None:
        """Count the MACs of an operator for a layer, and for its weights: several share them by number of entries.

        The layer is the innermost module if a weight of its own is an operand, else the module of the first weight,
        else the innermost module. Recurrent layers multiply with several weights in one operator.
        """
        matrices = [operand for operand in operands if operand.ndim > 1]
        owners = [self.owners.get(_storage(matrix) or 0, []) for matrix in matrices]
        first = next((modules[0] for modules in owners if modules), self.running[-1])
        layer = self.running[-1] if any(self.running[-1] in modules for modules in owners) else first
        self.macs[layer] += macs
        sizes: dict[str, int] = {}
        for matrix, modules in zip(matrices, owners, strict=True):
            if layer in modules and (weight := self._weight_of(matrix)) is not None:
                sizes[weight] = sizes.get(weight, 0) + matrix.numel()
        for weight, size in sizes.items():
            self.products[layer, weight] += macs * size // sum(sizes.values())

    def _weight_of(self, operand: Tensor) -> str | None:
        """Return the name of the parameter that ``operand`` is, or is a view of."""
        places = self._places.get(_storage(operand) or 0, [])
        return next((name for place, name in places if operand.storage_offset() in place), None)

    def _multiplies(self, func: torch._ops.OpOverload, operands: list[Tensor], result: Any) -> bool:
        """Return whether an operator without a formula multiplies tensors of numbers, judged by its declaration."""
        packet = func._overloadpacket
        if packet in self.counter.flop_registry:  # counted: no products
            return False
        if func.namespace not in ("aten", "prim", "prims"):
            return True  # a custom operator: unknown, so it is reported
        numbers = [operand for operand in operands if operand.is_floating_point() or operand.is_complex()]
        name = packet.__name__
        if torch.Tag.pointwise in func.tags:
            outer = name in ("mul", "mul_") and all(result.numel() > number.numel() for number in numbers)
            return len(numbers) > 1 and (outer or any(_storage(number) in self.owners for number in numbers))
        if name.lstrip("_").startswith(("linalg", "fft")):
            return bool(numbers)
        return len(numbers) > 1 and not func.is_view and name not in _MOVERS


@contextmanager
def _no_fused_attention_blocks() -> Iterator[None]:
    """Make ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` run separate operators."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module._parameters.items() if parameter is not None}


def _storage(tensor: Tensor) -> int | None:
    """Return a number that is equal for tensors in the same memory, such as views of one parameter."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else None
