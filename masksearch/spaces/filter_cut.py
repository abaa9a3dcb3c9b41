"""Physical pruning of networks: copies with smaller parameters and buffers, without the removed channels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from masksearch.spaces.channel_attributes import set_attributes
from masksearch.spaces.filter_groups import Groups
from masksearch.spaces.head_attributes import Sizes, pruned_sizes, set_sizes
from masksearch.spaces.masked_norms import remove_norm_hooks
from masksearch.spaces.norm_rules import fit_group_norm
from masksearch.spaces.pruned_attention import fit_attention
from masksearch.spaces.pruned_recurrent import fit_recurrent
from masksearch.utils.copies import copy_network, empty_caches
from masksearch.utils.errors import InputError


def check_shapes(groups: Groups, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise an :class:`InputError` if a tensor has a wrong shape, or a parameter that masks can shrink is missing.

    ``what`` names the owner of the tensors in the message.
    """
    for name in groups.by_tensor:
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != groups.shapes[name] and (shape is not None or name in groups.parameters):
            has = "no" if shape is None else f"shape {shape} for"
            raise InputError(f"{what} has {has} {name!r}; this filter space needs shape {groups.shapes[name]}")


def cut_tensors(groups: Groups, bits: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the channels that a mask removes; ``bits`` is the mask, a bool tensor (n_units,).

    Tensors without such positions are returned without a copy.

    Raises
    ------
    InputError
        If the mask removes all positions of a dimension.
    """
    small = dict(tensors)
    for name, runs in groups.by_tensor.items():
        if name in small:
            for run in runs:
                keep = run.kept(bits).nonzero().flatten()
                if not len(keep):
                    raise InputError(
                        f"mask: keeps nothing of layer {name.rpartition('.')[0]!r}; at least 1 unit is needed"
                    )
                small[name] = small[name].index_select(run.dim, keep.to(small[name].device))
    return small


def filled_tensors(groups: Groups, bits: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that :func:`cut_tensors` made in their full shapes, with zeros for the removed channels."""
    whole = dict(tensors)
    for name, runs in groups.by_tensor.items():
        if name in whole:
            for run in runs:
                keep = run.kept(bits).nonzero().flatten().to(whole[name].device)
                shape = list(whole[name].shape)
                shape[run.dim] = groups.shapes[name][run.dim]
                whole[name] = whole[name].new_zeros(shape).index_copy(run.dim, keep, whole[name])
    return whole


def cut(model: nn.Module, groups: Groups, bits: Tensor) -> nn.Module:
    """Return a smaller copy of a network without the channels that a mask removes; ``bits`` is the mask."""
    tensors = named_tensors(model)
    check_shapes(groups, tensors, f"model: {type(model).__name__}")
    with torch.no_grad():
        small = cut_tensors(groups, bits, tensors)
    sizes = pruned_sizes(model, groups, bits)
    copied = with_tensors(model, {name: small[name] for name in groups.by_tensor}, sizes)
    numbers = new_numbers(groups, bits)
    set_attributes(copied, numbers)
    add_to_record(copied, record_of(model), numbers)
    return copied


@dataclass
class PruningRecord:
    """Record that a pruned network carries: the shapes before all pruning, and the sizes that pruning has changed.

    A network that :func:`cut` made has it as its attribute ``pruning_record``.
    """

    dense: dict[str, list[int]]  # shape of every parameter and buffer of the first network
    numbers: list[tuple[str, str, int | None, int]]  # (module, attribute, index or None, number) that differ from it


def record_of(model: nn.Module) -> PruningRecord:
    """Return a network's record of pruning; if it is not pruned, a record with its present shapes."""
    record: PruningRecord | None = vars(model).get("pruning_record")
    return record or PruningRecord({name: list(tensor.shape) for name, tensor in named_tensors(model).items()}, [])


def add_to_record(small: nn.Module, record: PruningRecord, numbers: Iterable[tuple[str, str, int | None, int]]) -> None:
    """Store in a pruned network the record of all earlier pruning, with the sizes that this pruning has changed."""
    known = {(module, attribute, index): number for module, attribute, index, number in [*record.numbers, *numbers]}
    vars(small)["pruning_record"] = PruningRecord(record.dense, [(*place, n) for place, n in known.items()])


def new_numbers(groups: Groups, bits: Tensor) -> list[tuple[str, str, int | None, int]]:
    """Return the new values of attributes that count channels: (module, attribute, index or None, value) for each."""
    return [(*size.place, size.n_kept(bits)) for size in groups.sizes]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return {name: tensor} of a network's parameters and buffers, including non-persistent buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor], sizes: Sizes | None) -> nn.Module:
    """Return a copy of a network with new parameters and buffers, and with fitting ``in_channels`` and other sizes.

    ``sizes`` holds the numbers that do not follow from shapes, {module: {attribute: value}}.
    """
    replaced: dict[int, Any] = {}  # as deepcopy's memo: the copy has the new tensor wherever the model has the old one
    for name, old in named_tensors(model).items():
        if name in tensors:
            new = tensors[name]
            replaced[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    copied = copy_network(model, replaced)
    remove_norm_hooks(copied)
    _fit_sizes(copied)
    fit_attention(copied)
    set_sizes(copied, sizes or {})
    empty_caches(copied)
    return copied


def _fit_sizes(model: nn.Module) -> None:
    """Set the size attributes of layers (``out_features``, ``groups``, ...) from the shapes of their weights."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, _ConvNd):
            first, second = layer.weight.shape[:2]
            if layer.groups == layer.in_channels > 1:  # depthwise: one group per channel that is left
                layer.groups = first if layer.transposed else first // (layer.out_channels // layer.groups)
            widths = (first, second * layer.groups)
            layer.in_channels, layer.out_channels = widths if layer.transposed else widths[::-1]
        elif isinstance(layer, _NormBase):
            kept = layer.weight if layer.weight is not None else layer.running_mean
            if kept is not None:
                layer.num_features = len(kept)
        elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            if layer.weight is not None and layer.weight.ndim == 1:
                layer.normalized_shape = tuple(layer.weight.shape)
        elif isinstance(layer, nn.GroupNorm):
            fit_group_norm(layer)
        elif isinstance(layer, nn.Embedding):
            layer.embedding_dim = layer.weight.shape[1]
        elif isinstance(layer, nn.RNNBase):
            fit_recurrent(layer)
        elif type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):  # of Hugging Face, a transposed linear layer
            vars(layer).update(zip(("nx", "nf"), layer.get_parameter("weight").shape, strict=True))
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = len(layer.weight)
