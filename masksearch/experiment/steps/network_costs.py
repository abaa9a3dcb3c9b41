"""Costs of a cell's network: parameters, MACs, bytes, memory, and measured latencies."""

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from masksearch import cost
from masksearch.core.mask import Mask
from masksearch.experiment.context import CellContext
from masksearch.experiment.result_parts import Latency, LayerCost, NetworkCost
from masksearch.utils.forward_passes import batch_of
from masksearch.utils.nested import Nested, call_model, to_device

__all__ = ["network_cost", "ticket_costs"]

_LATENCY_RUNS = 100  # timed at most: the median of more runs of a small network hardly gains precision
_BATCHES = (1, 64)


def ticket_costs(
    context: CellContext, network: nn.Module, mask: Mask
) -> tuple[NetworkCost, dict[str, LayerCost], Latency]:
    """Return the costs of a trained masked network (lottery ticket): in total, for each layer, and measured latency.

    Filters and blocks are removed from the network, unless a layer is empty.
    """
    pruned = context.space.removes_parts and not mask.empty_layers()
    masks = {} if pruned else context.space.parameter_masks(mask)
    example, full = to_device(context.example, context.device), context.build().to(context.device)
    return (
        network_cost(network, masks, example),
        _layer_costs(network, masks, full, example),
        _latency(copy.deepcopy(network), full, example, context.settings.run.latency_seconds),
    )


def network_cost(network: nn.Module, masks: Mapping[str, Tensor], example: Nested) -> NetworkCost:
    """Return a network's parameters, MACs (1 MAC = 2 FLOPs), file size, and peak memory in one example's forward pass.

    Effective MACs: each layer's MACs times its density under ``masks`` (parameter name -> bool tensor of its shape).
    """
    counted = cost.macs(network, example)
    densities = {
        name.removesuffix(".weight"): float(kept.float().mean())
        for name, kept in masks.items()
        if name.removesuffix(".weight") in counted.per_layer
    }
    disk = cost.disk(network, masks or None)
    return NetworkCost(
        params=cost.params(network),
        nonzero_params=cost.nonzero_params(network, masks or None),
        macs=int(counted),
        effective_macs=int(cost.effective_macs(counted, densities)),
        uncounted=dict(counted.uncounted),
        peak_bytes=cost.peak_memory(network, example),
        bytes=disk.dense,
        compressed_bytes=disk.compressed,
    )


def _layer_costs(
    network: nn.Module, masks: Mapping[str, Tensor], full: nn.Module, example: Nested
) -> dict[str, LayerCost]:
    """For every layer of the full network: its MACs and weights, and what ``network`` has left under ``masks``."""
    whole, left = cost.macs(full, example).per_layer, cost.macs(network, example).per_layer
    weights = {name: dict(model.named_parameters()) for name, model in (("full", full), ("left", network))}
    layers = {}
    for name, macs in whole.items():
        weight = f"{name}.weight"
        if weight not in weights["full"]:
            continue
        kept = masks.get(weight)
        if weight not in weights["left"]:  # its block is removed
            layers[name] = LayerCost(macs=macs, weights=weights["full"][weight].numel(), macs_left=0, weights_left=0)
            continue
        n_left = weights["left"][weight].numel() if kept is None else int(kept.sum())
        layers[name] = LayerCost(
            macs=macs,
            weights=weights["full"][weight].numel(),
            macs_left=left[name] if kept is None else round(left[name] * n_left / kept.numel()),
            weights_left=n_left,
        )
    return layers


def _latency(network: nn.Module, full: nn.Module, example: Nested, seconds: float) -> Latency:
    """Median seconds of a forward pass of 1 and of 64 examples, of the ticket and of the dense network in turn.

    Each measurement takes ``seconds``, or longer for at least 11 runs of both networks.
    """
    device = next(network.parameters()).device
    measured = {}
    network.eval(), full.eval()
    with torch.no_grad():
        for size in _BATCHES:
            batch = batch_of(example, size, device)
            runs = {"ticket": partial(call_model, network, batch), "dense": partial(call_model, full, batch)}
            for name, timing in cost.time_runs(runs, device, seconds, _LATENCY_RUNS).items():
                measured[f"{name}_batch_{size}"] = timing.median
    return Latency(**measured)
