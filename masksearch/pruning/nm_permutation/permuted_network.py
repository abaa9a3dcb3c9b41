"""A network with permuted channels: equal outputs, and an order of channels that suits N:M pruning."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.layout import Layer
from masksearch.pruning.gram_matrices import calibration_batches
from masksearch.pruning.matrix_layers import MatrixLayer, input_sums, matrix_layers
from masksearch.pruning.nm_permutation.column_order import ColumnOrder, anneal, greedy_swaps
from masksearch.spaces import FilterSpace, filter_space
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, require
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested, call_model, map_tensors, output_tensors, take
from masksearch.utils.registry import choose
from masksearch.utils.seeds import derive, numpy_generator

Method = Literal["annealing", "greedy"]


@dataclass(frozen=True)
class PermutedLayer:
    """One layer's result of reordering channels for N:M pruning: importance lost before and after, search effort."""

    name: str
    channels: int
    consumers: tuple[str, ...]  # layers that read the channels, whose energy counts
    lost_before: float  # share of the energy that N:M pruning loses in the original order
    lost: float  # share that it loses in the order found
    swaps: int  # swaps whose gain was computed
    seconds: float


@dataclass(frozen=True)
class PermutedNetwork:
    """Result of :func:`permute_channels`: the permuted network, and the importance that N:M pruning loses per layer.

    It prints as a table.
    """

    model: nn.Module
    n: int
    m: int
    layers: tuple[PermutedLayer, ...]
    left_out: tuple[tuple[str, str], ...]  # (layer, reason why its channels stay in order)

    def __str__(self) -> str:
        width = max(len("channels of"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'channels of':{width}}  number  lost energy, before -> after  swaps per second"]
        for layer in self.layers:
            rate = f"{layer.swaps / layer.seconds:,.0f}" if layer.seconds else "-"
            energy = f"{layer.lost_before:.4f} -> {layer.lost:.4f}"
            lines.append(f"{layer.name:{width}}  {layer.channels:6}  {energy:>28}  {rate:>16}")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            by_reason.setdefault(reason, []).append(name)
        lines += [f"left out: {_some(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"PermutedNetwork({self.n}:{self.m}, {len(self.layers)} layers)"


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} others"


@torch.no_grad()
def permute_channels(
    model: nn.Module,
    examples: Nested | Iterable[Nested],
    n: int = 2,
    m: int = 4,
    *,
    method: Method = "annealing",
    swaps: int = 500_000,
    seconds: float | None = None,
    seed: int = 0,
) -> PermutedNetwork:
    """Reorder a network's channels without changing its outputs, so that N:M pruning loses less importance.

    The energy of a weight is w^2 times the mean square of its input; that of a layer counts as a share of its total.
    Outputs do not change: producers and consumers of a channel are permuted together, along the units of
    :func:`masksearch.filter_space` with ``norms=True``, and the permuted network is compared with the original in
    float64. Memory: two matrices (channels, rows of all consumers) in float64.

    Parameters
    ----------
    model : nn.Module
        A trained network; it does not change.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs, from which the mean squares are computed. At least 8.
    n, m : int
        Kept weights per group, and weights per group.
    method : {"annealing", "greedy"}
        Simulated annealing of swaps, or the best swap of all pairs again and again (Pool and Yu 2021).
    swaps : int
        Annealing: swaps per layer, over which the temperature falls. Greedy search ends at the first order that no swap
        improves.
    seconds : float, optional
        Time per layer in the place of ``swaps``; greedy search escapes by random swaps until then. The order then
        depends on the speed of the machine.
    seed : int
        Seed of the swaps.

    Returns
    -------
    PermutedNetwork
        A copy of the network in eval mode, and the energies of every layer.

    Raises
    ------
    InputError
        For invalid n and m, and if the network has no channels to permute.
    """
    require("n", n, 1 <= n < m, f"a whole number from 1 to {m - 1}")
    choose("method", method, ["annealing", "greedy"])
    require("swaps", swaps, swaps >= 1, "1 or more")
    batches = calibration_batches(examples, device_of(model))
    example = take(batches[0], slice(1))
    network = copy_network(model).eval()
    space = filter_space(network, example, norms=True)
    layers = {layer.name: layer for layer in matrix_layers(network, batches[0])}
    one_matrix = {name: layer for name, layer in layers.items() if layer.groups == 1}
    sums = input_sums(network, one_matrix, batches, lambda rows: rows.square().sum(1))
    squares = {name: total[0] / count for name, (total, count) in sums.items()}  # mean of every input, float64 (k,)
    found, left_out = [], list(space.left_out)
    for layer in space.layers:
        values, consumers = _energies(network, space, layer, layers, squares)
        if not consumers:
            left_out.append((layer.name, "no linear layer or 1x1 convolution reads one input per channel"))
        elif layer.size % m:
            left_out.append((layer.name, f"{layer.size} channels, not a multiple of {m}"))
        else:
            columns = ColumnOrder(values, n, m)
            before = columns.lost
            generator = numpy_generator(derive(seed, "nm_permutation"), layer.name)
            if method == "annealing":
                effort = anneal(columns, swaps, generator, seconds)
            else:
                effort = greedy_swaps(columns, 0, generator, seconds)
            original = copy_network(network)
            _permute(network, space, layer, columns.order)
            if not _equal(original, network, example):
                network = original
                left_out.append((layer.name, "outputs change with the order of its channels"))
                continue
            found.append(
                PermutedLayer(layer.name, layer.size, consumers, before, columns.lost, effort.swaps, effort.seconds)
            )
    if not found:
        raise InputError(
            f"model: {type(model).__name__} has no channels that can be reordered to improve {n}:{m} masks"
        )
    return PermutedNetwork(network, n, m, tuple(found), tuple(left_out))


def _energies(
    network: nn.Module, space: FilterSpace, layer: Layer, layers: dict[str, MatrixLayer], squares: dict[str, Tensor]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the energies (channels, rows of all consumers) of the channels' weights, and the consumers.

    A consumer reads exactly the channels of the layer, one input each, in their order.
    """
    parts, consumers = [], []
    for run in space.groups.runs:
        name = run.tensor.removesuffix(".weight")
        if run.dim != 1 or name not in squares or run.tensor == name:
            continue
        whole = len(run.units) == layer.size and bool((run.units == np.arange(layer.start, layer.stop)).all())
        matrix = layers[name].matrix(network.get_submodule(name))[0, :, :-1]
        if whole and matrix.shape[1] == layer.size:
            energy = matrix.cpu().square() * squares[name].cpu()
            total = float(energy.sum())
            if total > 0:
                parts.append(energy.T.numpy() / total)
                consumers.append(name)
    return (np.concatenate(parts, 1) if parts else np.zeros((layer.size, 0))), tuple(consumers)


def _permute(network: nn.Module, space: FilterSpace, layer: Layer, order: np.ndarray) -> None:
    """Put unit ``order[i]`` of the layer in the place of unit i, in all tensors, in place."""
    tensors = {**dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers())}
    done: set[tuple[int, int]] = set()
    for run in space.groups.runs:
        tensor = tensors[run.tensor]
        if (id(tensor), run.dim) in done:  # a shared tensor
            continue
        done.add((id(tensor), run.dim))
        inside = (run.units >= layer.start) & (run.units < layer.stop)
        if not inside.any():
            continue
        places = np.flatnonzero(inside)
        by_unit = places[np.argsort(run.units[places], kind="stable")].reshape(layer.size, -1)
        source = np.arange(len(run.units))
        source[by_unit] = by_unit[order]
        tensor.copy_(tensor.index_select(run.dim, torch.from_numpy(source).to(tensor.device)).clone())


def _equal(one: nn.Module, other: nn.Module, example: Nested) -> bool:
    """Whether two networks give the same outputs in float64, to 1e-9 of their standard deviation."""
    inputs = map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, example)
    pairs = zip(
        output_tensors(call_model(copy_network(one).double(), inputs)),
        output_tensors(call_model(copy_network(other).double(), inputs)),
        strict=True,
    )
    return all(
        float((a - b).abs().max()) <= 1e-9 * max(float(a.std()), 1e-12) for a, b in pairs if a.is_floating_point()
    )
