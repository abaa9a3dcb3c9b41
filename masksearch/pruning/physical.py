"""Physical pruning by masks of filters or blocks: smaller networks, equal outputs in eval mode, and their files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.models import build_model, built_as, is_own_function
from masksearch.spaces.base_space import unwrapped
from masksearch.spaces.block_removal import with_replacements
from masksearch.spaces.channel_attributes import set_attributes
from masksearch.spaces.filter_cut import (
    add_to_record,
    check_shapes,
    cut_tensors,
    named_tensors,
    record_of,
    with_tensors,
)
from masksearch.spaces.filter_mask_space import FilterSpace
from masksearch.spaces.removable_space import RemovableSpace
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.files import load_tensors, read_json, save_tensors, write_json
from masksearch.utils.integrity import check_object, refusing

_FORMAT = "masksearch.pruned"
_REMEDY = "save the network again with save_pruned, or remove its folder and run again"
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "class": str,
    "built_as": (dict, type(None)),
    "dense": str,
    "shapes": dict,
}
_LARGEST = 1 << 20  # of channels, height, width and classes
_ABOUT, _WEIGHTS, _MASK = "network.json", "weights.safetensors", "mask.safetensors"


Removable = RemovableSpace
"""Spaces whose masks remove parts of a network, so that it becomes smaller."""


def prune(model: nn.Module, space: Removable, mask: Mask) -> nn.Module:
    """Return a smaller copy of a network, from which the channels or blocks that a mask prunes are removed.

    In eval mode its outputs equal those of the masked network. The copy has the same class, mode, device and types, and
    no gradients. ``model`` does not change.

    Parameters
    ----------
    model : nn.Module
        The network of the space, or one of the same sizes with other weights.

    Raises
    ------
    InputError
        For a mask of another space, a model of other sizes, or a mask that keeps nothing of a layer.
    """
    _check_space(space, RemovableSpace)
    return space.without_units(model, mask)


def slice_state(space: FilterSpace, mask: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shrink a state dict of the full network to the sizes of the network that :func:`prune` makes.

    ``prune(model, space, mask).load_state_dict(slice_state(space, mask, earlier))`` is the pruned network with the
    weights of an earlier moment. Tensors that the mask doesn't shrink are not copied.

    Raises
    ------
    InputError
        For a mask of another space, a state dict of another network, or a mask that keeps nothing of a layer.
    """
    _check_space(space, FilterSpace)
    space.check_mask(mask)
    check_shapes(space.groups, state, "state")
    return cut_tensors(space.groups, mask.bits, state)


def restore_state(space: Removable, mask: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Expand a state dict of the pruned network to the full network's sizes, with zeros for what was removed.

    The inverse of :func:`slice_state`, for later rounds of pruning, which rank the units of the full network. In eval
    mode both networks give equal outputs.

    Raises
    ------
    InputError
        For a mask of another space, or a state dict of other sizes than the mask leaves.
    """
    _check_space(space, RemovableSpace)
    for name, shape in space.shapes_left(mask).items():
        if name in state and tuple(state[name].shape) != shape:
            raise InputError(
                f"state: shape {tuple(state[name].shape)} for {name!r}; this mask leaves {shape}; give the state of a "
                "network pruned by it"
            )
    return space.restored(mask, state)


def save_pruned(path: str | Path, small: nn.Module, space: Removable, mask: Mask) -> None:
    """Write a pruned network to the folder ``path``: weights and mask as safetensors, the architecture as JSON.

    A network that was pruned several times is saved with the last space and mask.

    Parameters
    ----------
    small : nn.Module
        A network made by :func:`prune` with this space and mask; it may be retrained.

    Raises
    ------
    InputError
        If ``small`` is not of the sizes that the mask leaves.
    """
    _check_space(space, RemovableSpace)
    expected, replacements = space.shapes_left(mask), space.replacements(mask)
    tensors = named_tensors(small)
    for name in tensors.keys() - expected.keys():
        raise InputError(
            f"small: {type(small).__name__} has {name!r}, which this mask removes; give the network pruned by it"
        )
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            has = tuple(tensors[name].shape) if name in tensors else "no such tensor"
            raise InputError(
                f"small: {type(small).__name__} has {has} for {name!r}; this mask leaves {shape}; give the "
                "network pruned by it"
            )
    small = unwrapped(small)
    built, record = built_as(small), record_of(small)
    about = {
        "format": _FORMAT,
        "class": type(small).__name__,
        "built_as": None if built is None else asdict(built),
        "dense": _fingerprint(record.dense if "pruning_record" in vars(small) else space.shapes),
        "numbers": record.numbers,
        "space": space.fingerprint,
        "sizes": getattr(small, "_pruned_sizes", {}),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        **({"replacements": replacements} if replacements else {}),
    }
    folder = Path(path)
    mask.save(folder / _MASK)
    save_tensors(folder / _WEIGHTS, tensors)
    write_json(folder / _ABOUT, about)  # last: a folder with this file is complete


def load_pruned(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a network saved by :func:`save_pruned`, on the CPU, in eval mode; classes of your own need ``model``.

    Parameters
    ----------
    path : str or Path
        A folder of :func:`save_pruned`.
    model : nn.Module, optional
        A new, full-size instance of the network's class, also if the network was pruned several times. Networks of
        ``build_model`` need none.

    Raises
    ------
    InputError
        If the folder holds no pruned network, a class of your own comes without an instance, or the instance has other
        parameters than the network that was pruned.
    """
    check_type("path", path, (str, Path), "the path of a folder")
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"path: there is no folder {folder}; give a folder that save_pruned has written")
    about = read_json(folder / _ABOUT, {"format": object}, _REMEDY)
    if about["format"] != _FORMAT:
        raise InputError(f"{folder} holds no pruned network of this version; {_REMEDY}")
    check_object(about, folder / _ABOUT, _NEEDED, _REMEDY)
    with refusing(folder / _ABOUT, _REMEDY):
        if model is None:
            model = _build(about, folder)
        if _fingerprint(record_of(model).dense) != about["dense"]:
            raise InputError(
                f"model: {type(model).__name__} has other parameters than the {about['class']} of {folder} had before "
                "it was pruned for the first time; give an instance made with the same arguments"
            )
        tensors, _ = load_tensors(folder / _WEIGHTS, _REMEDY)
        if {name: list(tensor.shape) for name, tensor in tensors.items()} != about["shapes"]:
            raise InputError(f"{folder / _WEIGHTS} doesn't belong to {folder / _ABOUT}: shapes differ; {_REMEDY}")
        small = with_tensors(model, tensors, about.get("sizes"))
        set_attributes(small, about.get("numbers", []))
        if replacements := about.get("replacements"):
            small = with_replacements(small, replacements)
        add_to_record(small, record_of(model), about.get("numbers", []))
    return small.eval()


def _build(about: dict[str, Any], folder: Path) -> nn.Module:
    built = about["built_as"]
    if built is None:
        raise InputError(
            f"{folder} holds a {about['class']}, whose class masksearch can't build; give model=, a new full-size one"
        )
    channels, height, width = built["shape"]
    numbers = (channels, height, width, built["classes"])
    if not all(type(number) is int and 1 <= number <= _LARGEST for number in numbers):
        raise InputError(f"{folder / _ABOUT} has the sizes {numbers}; numbers from 1 to {_LARGEST:,} are needed")
    if is_own_function(built["name"]):
        raise InputError(f"{folder} holds a network of {built['name']}; give model=, a fresh instance of it")
    return build_model(built["name"], (channels, height, width), built["classes"])


def _check_space(space: object, kind: type) -> None:
    if isinstance(space, kind):
        return
    why = "only filters have slices, so make a filter space"
    if not getattr(space, "removes_parts", False):
        why = (
            "only removed filters and blocks make a network smaller; save masked weights with "
            "torch.save(model.state_dict(), path), which keeps their zeros"
        )
    raise InputError(f"space: a {getattr(space, 'granularity', type(space).__name__)} space; {why}")


def _fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    named = sorted((name, list(shape)) for name, shape in shapes.items())
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
