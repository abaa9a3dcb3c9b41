"""Costs of a cell's network: parameters, MACs, bytes, memory, and measured latencies."""

import copy
from collections.abc import Mapping
from dataclasses import replace
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

    Effective MACs: the products of each weight times its density under ``masks`` (parameter name -> bool tensor of its
    shape), and all products of activations.
    """
    counted = cost.macs(network, example)
    densities = {name: float(kept.float().mean()) for name, kept in masks.items() if name in counted.per_weight}
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
    """For every layer of the full network: its MACs and weights, and what ``network`` has left under ``masks``.

    A layer is a weight, named as in masks: without ".weight". Products of activations, as in attention, are layers
    without weights.
    """
    whole, left = cost.macs(full, example), cost.macs(network, example)
    sizes, sizes_left = ({name: p.numel() for name, p in model.named_parameters()} for model in (full, network))
    layers = {}
    for weight, macs in whole.per_weight.items():
        kept = masks.get(weight)
        n_left = sizes_left.get(weight, 0) if kept is None else int(kept.sum())  # 0: its block is removed
        macs_left = left.per_weight.get(weight, 0)
        layers[weight.removesuffix(".weight")] = LayerCost(
            macs=macs,
            weights=sizes[weight],
            macs_left=macs_left if kept is None else round(macs_left * n_left / kept.numel()),
            weights_left=n_left,
        )
    for layer in whole.per_layer:
        if products := whole.without_weights(layer):
            remaining = left.without_weights(layer) if layer in left.per_layer else 0
            before = layers.get(layer, LayerCost(macs=0, weights=0, macs_left=0, weights_left=0))
            layers[layer] = replace(before, macs=before.macs + products, macs_left=before.macs_left + remaining)
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
