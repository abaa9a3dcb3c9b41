"""Sizes of networks: numbers of parameters and bytes on disk, dense and under a weight mask."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose


def params(model: nn.Module) -> int:
    """Return the number of parameters of a network, trainable or not; shared parameters count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero_params(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> int:
    """Return the number of parameters of a network that are neither zero nor pruned.

    Parameters
    ----------
    model : nn.Module
        Masks of ``torch.nn.utils.prune`` on its layers count as applied.
    masks : mapping, optional
        Parameter name -> bool tensor of its shape, True = kept; ``space.parameter_masks(mask)`` gives them.

    Raises
    ------
    InputError
        If a mask fits no parameter.
    """
    tensors, names = tensors_of(model), _parameter_names(model)
    kept = kept_entries(tensors, names, masks)
    return sum(int((tensors[name][kept[name]] if name in kept else tensors[name]).count_nonzero()) for name in names)


@dataclass(frozen=True)
class Disk:
    """Sizes in bytes of a network's weights as a file: with all weights (dense), and compressed without zeros."""

    dense: int  # bytes as safetensors of all parameters and buffers
    compressed: int  # bytes with kept weights and one bit per weight of masked tensors, other tensors in full
    codec: str  # name, version and level of the compression


def disk(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Disk:
    """Return how many bytes a network's weights take as a dense and as a compressed file; no file is written.

    The compressed file holds the kept values of masked tensors in order, and one bit per entry for the mask; deflate
    then shrinks the bits of very sparse masks.

    Parameters
    ----------
    model : nn.Module
        As in :func:`nonzero_params`.
    masks : mapping, optional
        As in :func:`nonzero_params`. Default: non-zero entries of parameters of two or more dimensions are kept.

    Raises
    ------
    InputError
        If a mask fits no parameter.
    """
    tensors = tensors_of(model)
    kept = kept_entries(tensors, _parameter_names(model), masks)
    return Disk(len(dense(tensors)), len(compressed(tensors, kept)), f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level 6")


def dense(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content (bytes) of an uncompressed safetensors file with all entries of the given tensors."""
    return to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()})


def compressed(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file, as zlib-compressed bytes, with only the unpruned entries of tensors.

    ``kept`` holds bool tensors by name. A masked tensor is stored as ``NAME.values`` (its kept entries) and
    ``NAME.bits`` (its mask).
    """
    content: dict[str, Tensor] = {}
    shapes = {}
    for name, tensor in tensors.items():
        if name not in kept or bool(kept[name].all()):
            content[name] = tensor.contiguous()
        else:
            shapes[name] = list(tensor.shape)
            content[f"{name}.values"] = tensor[kept[name]]
            content[f"{name}.bits"] = torch.from_numpy(np.packbits(kept[name].numpy()))
    return zlib.compress(to_safetensors(content, metadata={"shapes": json.dumps(shapes)}), level=6)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return {name: tensor on the CPU} of a network's parameters and persistent buffers; shared tensors appear once.

    ``weight_orig`` and ``weight_mask`` of ``torch.nn.utils.prune`` become the masked ``weight``.
    """
    state = {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors: dict[str, Tensor] = {}
    places = set()
    for name, tensor in state.items():
        base = name.removesuffix("_orig")
        if name.endswith("_orig") and f"{base}_mask" in state:
            tensors[base] = (tensor * state[f"{base}_mask"]).cpu()
        elif name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in state:
            continue
        elif (place := (tensor.data_ptr(), tensor.shape, tensor.stride())) not in places or not tensor.numel():
            places.add(place)  # the state dict holds tied weights twice
            tensors[name] = tensor.cpu()
    return tensors


def kept_entries(
    tensors: Mapping[str, Tensor], names: list[str], masks: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return {parameter name: bool mask of kept entries}: the given masks, or, without any, the entries that are not 0.

    The masks are on the CPU. Without masks, only parameters of two or more dimensions are in the result.

    Raises
    ------
    InputError
        If a mask fits no parameter in ``names``.
    """
    if masks is None:
        return {name: tensors[name] != 0 for name in names if tensors[name].ndim > 1}
    for name, keep in masks.items():
        choose("parameter in masks", name, names)
        if keep.shape != tensors[name].shape or keep.dtype != torch.bool:
            raise InputError(
                f"masks: {keep.dtype} of shape {tuple(keep.shape)} for {name}; a bool tensor "
                f"{tuple(tensors[name].shape)} is needed"
            )
    return {name: keep.cpu() for name, keep in masks.items()}


def _parameter_names(model: nn.Module) -> list[str]:
    """Return the names in :func:`tensors_of` that are parameters."""
    tensors = tensors_of(model)
    found = (name if name in tensors else name.removesuffix("_orig") for name, _ in model.named_parameters())
    return [name for name in found if name in tensors]
