"""The knife: parameters and buffers without the removed positions, in a copy of the network whose layers know their sizes."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from masksearch.errors import InputError
from masksearch.spaces.filter_groups import Groups

__all__ = ["check_shapes", "cut", "cut_tensors", "fit_sizes"]


def check_shapes(groups: Groups, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise an :class:`InputError` if a tensor that masks cut is missing or has another shape."""
    for name in groups.by_tensor:
        if name not in tensors or tuple(tensors[name].shape) != groups.shapes[name]:
            has = f"shape {tuple(tensors[name].shape)}" if name in tensors else "no such tensor"
            raise InputError(f"{what}: {has} for {name!r}, which the filter space knows as {groups.shapes[name]}")


def cut_tensors(groups: Groups, bits: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, each without the positions that a mask removes; those that it doesn't touch as they are.

    Raises
    ------
    InputError
        If nothing would be left of a dimension.
    """
    small = dict(tensors)
    for name, runs in groups.by_tensor.items():
        if name in small:
            for run in runs:
                keep = run.kept(bits).nonzero().flatten()
                if not len(keep):
                    raise InputError(f"mask: keeps nothing of layer {name.rpartition('.')[0]!r}; at least 1 is needed")
                small[name] = small[name].index_select(run.dim, keep.to(small[name].device))
    return small


def cut(model: nn.Module, groups: Groups, bits: Tensor) -> nn.Module:
    """A copy of ``model`` without the units that ``bits`` (n_units,) removes. The model is only read."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    check_shapes(groups, tensors, f"model: {type(model).__name__} has")
    with torch.no_grad():
        small = cut_tensors(groups, bits, tensors)
    # deepcopy looks here first: it takes the cut tensor wherever it comes across the whole one.
    replaced = {id(tensors[name]): _like(tensors[name], small[name]) for name in groups.by_tensor}
    copied = copy.deepcopy(model, replaced)
    fit_sizes(copied)
    return copied


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def fit_sizes(model: nn.Module) -> None:
    """Make what layers say about their sizes follow from their weights."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, _ConvNd):
            first, second = layer.weight.shape[:2]
            if layer.transposed:
                if layer.groups == 1:
                    layer.in_channels, layer.out_channels = first, second
            else:
                if layer.groups == layer.in_channels > 1:  # depthwise: groups leave with their channels
                    layer.groups = first // (layer.out_channels // layer.groups)
                layer.in_channels, layer.out_channels = second * layer.groups, first
        elif isinstance(layer, _NormBase):
            kept = layer.weight if layer.weight is not None else layer.running_mean
            if kept is not None:
                layer.num_features = len(kept)
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = len(layer.weight)
