"""All costs of a network, one row per layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from masksearch.cost.counting import macs
from masksearch.cost.forward import batch_of, check_batch, device_of, evaluated, forward, watched
from masksearch.cost.memory import live_bytes
from masksearch.cost.sizes import compressed, dense, kept_entries, tensors_of
from masksearch.cost.timing import Timing, synchronize, timing_of

__all__ = ["LayerCost", "table"]

_FEWEST_RUNS = 11


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs."""

    layer: str  # "" is the network itself: what it does outside its layers
    kind: str  # class of the module
    macs: int  # of one input
    effective_macs: int  # those times the density
    params: int
    nonzero_params: int
    density: float  # kept / all, of weights with two or more dimensions; 1 where there are none
    dense_bytes: int  # a file of its own: a safetensors header is in it
    compressed_bytes: int
    seconds: Timing  # of the example batch, without the layers inside it
    live_bytes: int  # input and activations alive at once, at most, while it ran on the example batch


def table(
    model: nn.Module, example_input: Tensor, masks: Mapping[str, Tensor] | None = None, seconds: float = 1.0
) -> list[LayerCost]:
    """Costs of every layer that has parameters or multiplies, in the network's order.

    Parameters
    ----------
    model : nn.Module
        Left as it was found.
    example_input : Tensor (n, ...)
        MACs are of one input; seconds and live bytes are of this batch.
    masks : mapping, optional
        Parameter name -> bool tensor, as in :func:`masksearch.cost.disk`.
    seconds : float
        How long to run the network for the layers' timings. A layer is waited for before the next one begins, so that
        on a GPU the sum is more than the network's latency.

    Raises
    ------
    InputError
        If the network doesn't take ``example_input``, or a mask fits no parameter.
    """
    check_batch(model, example_input)
    tensors = tensors_of(model)
    own = {name: _own_parameters(name, module, tensors) for name, module in model.named_modules()}
    kept = kept_entries(tensors, [name for names in own.values() for name in names], masks)
    counted = macs(model, example_input)
    batch = batch_of(example_input, len(example_input), device_of(model))
    live = live_bytes(model, batch)
    timings = _time_layers(model, batch, seconds)
    rows = []
    for name, module in model.named_modules():
        if (name not in counted.per_layer and not own[name]) or name not in timings:
            continue
        parts = {parameter: tensors[parameter] for parameter in own[name]}
        marks = {parameter: kept[parameter] for parameter in parts if parameter in kept}
        weights = [mark for mark in marks.values() if mark.ndim > 1]
        density = sum(int(mark.sum()) for mark in weights) / sum(map(torch.numel, weights)) if weights else 1.0
        layer_macs = counted.per_layer.get(name, 0)
        rows.append(
            LayerCost(
                layer=name,
                kind=type(module).__name__,
                macs=layer_macs,
                effective_macs=round(layer_macs * density),
                params=sum(map(torch.numel, parts.values())),
                nonzero_params=sum(
                    int((part[marks[key]] if key in marks else part).count_nonzero()) for key, part in parts.items()
                ),
                density=density,
                dense_bytes=len(dense(parts)),
                compressed_bytes=len(compressed(parts, marks)),
                seconds=timings[name],
                live_bytes=live[name],
            )
        )
    return rows


def _own_parameters(layer: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of a module's own parameters, as a file has them; a tied one is its first layer's."""
    names = [f"{layer}.{name}" if layer else name for name in module._parameters]
    return [base for name in names if (base := name if name in tensors else name.removesuffix("_orig")) in tensors]


def _time_layers(model: nn.Module, batch: Tensor, seconds: float) -> dict[str, Timing]:
    """Seconds of every module without those inside it, by name."""
    device = batch.device
    started: list[list[float]] = []  # of each running module: when it began, and seconds spent in modules inside it
    spent: dict[str, float] = {}
    times: dict[str, list[float]] = {}

    def enter(name: str) -> None:
        synchronize(device)
        started.append([perf_counter(), 0.0])

    def leave(name: str) -> None:
        synchronize(device)
        begin, inside = started.pop()
        total = perf_counter() - begin
        if started:
            started[-1][1] += total
        spent[name] = spent.get(name, 0.0) + total - inside  # a layer may run twice

    with evaluated(model), torch.no_grad(), watched(model, enter, leave):
        forward(model, batch)  # warms up
        end = perf_counter() + seconds
        runs = 0
        while runs < _FEWEST_RUNS or perf_counter() < end:
            spent.clear()
            model(batch)
            runs += 1
            for name, own in spent.items():
                times.setdefault(name, []).append(own)
    return {name: timing_of(own) for name, own in times.items()}
