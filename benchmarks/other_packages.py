"""Pruners of other packages as methods of a sweep: three of Torch-Pruning, and FastNAS of NVIDIA's Model Optimizer.

    masksearch run --plugin benchmarks.other_packages --recipe post_training --scale fastnas --parts global \
        --methods tp_l1 tp_group_norm tp_isomorphic modelopt_fastnas --name other_packages
    python -m benchmarks.collect --into other_packages runs/other_packages_global

The packages choose the filters (pip install torch-pruning nvidia-modelopt torchprofile==0.0.4; later versions of
torchprofile do not fit Model Optimizer 0.47). As this is a plugin, all else is as for every other method of the sweep:
the same dense networks, calibration images, repair, fine-tuning and evaluation. A finished cell is not run again, so
the same command continues on another day. Run it where ``runs`` has the dense networks.

Torch-Pruning removes channels in 100 steps, and rates them anew at each step. Its order of removal is the saliency, and
the mask is the longest part of that order that the share of the MACs allows. FastNAS searches with that share as its
constraint, on the calibration images: a subnet's score is minus its divergence from the dense outputs. The score
computes BatchNorm statistics anew; the package warns, because it does so itself only from 50 batches on. Both return
smaller networks. A kept channel is found again by the scale and shift of its BatchNorm, so the networks need BatchNorm
after each convolution whose filters are pruned.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria import Criterion, filter_l1
from masksearch.criteria.batches_and_loss import Batches, input_batches
from masksearch.pruning.reconstruction import recalibrate
from masksearch.spaces import FilterSpace
from masksearch.utils.errors import InputError

__all__ = ["kept_units", "modelopt_fastnas", "removal_order"]

STEPS = 100
CHANNEL_DIVISOR = 4  # of FastNAS: layers keep multiples of it; 32 by default, more than ResNet-20's first layers have


def kept_units(space: FilterSpace, dense: nn.Module, small: nn.Module) -> Tensor:
    """Return which units a smaller copy of a network keeps, bool (n_units,), by the values of its BatchNorm layers.

    Raises
    ------
    InputError
        If a BatchNorm of the small network has channels that the dense one lacks, or two channels are equal.
    """
    kept, seen = torch.ones(space.n_units, dtype=torch.bool), torch.zeros(space.n_units, dtype=torch.bool)
    parts = dict(small.named_modules())
    for name, norm in dense.named_modules():
        runs = space.groups.by_tensor.get(f"{name}.weight", [])
        if not isinstance(norm, nn.BatchNorm2d) or not runs:
            continue
        places: dict[tuple[float, float], int] = {value: place for place, value in enumerate(_channels(norm))}
        if len(places) < norm.num_features:
            raise InputError(f"model: {name} has equal channels; train the network first")
        found = [places.get(value, -1) for value in _channels(parts[name])]
        if -1 in found:
            raise InputError(f"model: {name} of the pruned network has channels that the dense network lacks")
        units = torch.from_numpy(runs[0].units)
        stays = torch.zeros(len(units), dtype=torch.bool)
        stays[found] = True
        kept[units[~stays & (units >= 0)]] = False
        seen[units[units >= 0]] = True
    if not seen.all():
        raise InputError(f"model: {int((~seen).sum())} units have no BatchNorm, by which kept channels are found")
    return kept


def _channels(norm: Any) -> list[tuple[float, float]]:
    return list(zip(norm.weight.tolist(), norm.bias.tolist(), strict=True))


def removal_order(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    make: Callable[..., Any],
) -> Tensor:
    """Return the step at which a pruner of Torch-Pruning removes each filter, as saliency: (n_units,).

    Parameters
    ----------
    make : callable
        (package, model, example, settings) -> pruner.
    """
    import torch_pruning

    example = _example(batches)
    dense = copy.deepcopy(model).cpu().eval()
    small = copy.deepcopy(dense)
    outputs = [module for module in small.modules() if isinstance(module, nn.Linear)][-1:]
    settings = {"pruning_ratio": 1.0, "iterative_steps": STEPS, "ignored_layers": outputs}
    pruner = make(torch_pruning, small, example, settings)
    order, kept = torch.full((space.n_units,), float(STEPS + 1)), torch.ones(space.n_units, dtype=torch.bool)
    for step in range(1, STEPS + 1):
        pruner.step()
        now = kept_units(space, dense, small)
        order[kept & ~now] = step
        kept = now
    return order


def _l1(package: Any, model: nn.Module, example: Tensor, settings: dict[str, Any]) -> Any:
    """L1 norms of groups, the same share of every layer: the package's default."""
    return package.pruner.BasePruner(model, example, importance=package.importance.MagnitudeImportance(p=1), **settings)


def _group_norm(package: Any, model: nn.Module, example: Tensor, settings: dict[str, Any]) -> Any:
    """Group norms of DepGraph, one threshold for all layers, without its sparse training."""
    importance = package.importance.GroupMagnitudeImportance(p=2)
    return package.pruner.GroupNormPruner(model, example, importance=importance, global_pruning=True, **settings)


def _isomorphic(package: Any, model: nn.Module, example: Tensor, settings: dict[str, Any]) -> Any:
    """Isomorphic pruning: one threshold for all groups of the same structure."""
    importance = package.importance.GroupMagnitudeImportance(p=2)
    settings = settings | {"global_pruning": True, "isomorphic": True}
    return package.pruner.BasePruner(model, example, importance=importance, **settings)


def modelopt_fastnas(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    mask: Mask,
    *,
    alive: Mask | None = None,
    loss: Any = None,
) -> Mask:
    """Return the mask of the subnet that FastNAS of Model Optimizer finds with as many MACs as ``mask`` has."""
    import modelopt.torch.prune as mtp

    inputs = [batch.cpu() for batch in input_batches(batches, "modelopt_fastnas")]
    dense = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        wanted = [F.log_softmax(dense(batch), 1) for batch in inputs]

    def score(network: nn.Module) -> float:
        recalibrate(network, inputs)
        with torch.no_grad():
            found = [F.log_softmax(network.eval()(batch), 1) for batch in inputs]
        pairs = zip(found, wanted, strict=True)
        return -float(sum(F.kl_div(*pair, reduction="sum", log_target=True) for pair in pairs))

    rules = {
        "nn.Conv2d": {"*": {"channel_divisor": CHANNEL_DIVISOR}},
        "nn.BatchNorm2d": {"*": {"feature_divisor": CHANNEL_DIVISOR}},
    }
    small, _ = mtp.prune(
        model=copy.deepcopy(dense),
        mode=[("fastnas", rules)],
        constraints={"flops": f"{100 * space.share(mask, 'macs'):.4f}%"},
        dummy_input=inputs[0][:1],
        config={
            "data_loader": inputs,
            "collect_func": lambda batch: batch,
            "score_func": score,
            "max_iter_data_loader": len(inputs),
        },
    )
    return Mask(space, kept_units(space, dense, small))


def _example(batches: Batches) -> Tensor:
    first = input_batches(batches, "Torch-Pruning")[0]
    if not isinstance(first, Tensor):
        raise InputError(f"batches: inputs are a {type(first).__name__}; Torch-Pruning's methods need one tensor")
    return first[:1].cpu()


def _of_torch_pruning(make: Callable[..., Any], source: str) -> Criterion:
    return Criterion(
        partial(removal_order, make=make),
        source,
        weights="trained",
        needs_batches=True,
        unlabelled=True,
        granularities=("filter",),
    )


def _filter_l1(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return L1 norms: FastNAS' mask replaces the mask that they give, at its share of the MACs."""
    _example(batches)
    return filter_l1(model, space)


MASKSEARCH = {
    "criteria": {
        "tp_l1": _of_torch_pruning(_l1, "Torch-Pruning: L1 norms of groups, equal shares of layers"),
        "tp_group_norm": _of_torch_pruning(_group_norm, "Torch-Pruning: group norms, all layers together"),
        "tp_isomorphic": _of_torch_pruning(_isomorphic, "Torch-Pruning: isomorphic pruning by group norms"),
        "modelopt_fastnas": Criterion(
            _filter_l1,
            "Model Optimizer: FastNAS",
            weights="trained",
            needs_batches=True,
            unlabelled=True,
            granularities=("filter",),
            rearrange=modelopt_fastnas,
        ),
    }
}
