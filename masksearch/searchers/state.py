"""The state of a searcher as a dataclass, and its form in files."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from masksearch.core.mask import Mask, unpacked_bits
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError


def saved_state(state: Any) -> Any:
    """Return a searcher's state for a file, as nested dicts, lists, numbers, strings, arrays and tensors.

    Parameters
    ----------
    state : dataclass
        Its fields are numbers, strings, None, masks, arrays, tensors, random generators (NumPy's and torch's), other
        dataclasses, lists and tuples of all these, and objects with ``state_dict`` and ``load_state_dict``.
    """
    if is_dataclass(state):
        return {field.name: saved_state(getattr(state, field.name)) for field in fields(state)}
    if isinstance(state, Mask):
        return {"mask": np.packbits(state.bits.numpy())}
    if isinstance(state, np.random.Generator):
        return state.bit_generator.state
    if isinstance(state, torch.Generator):
        return state.get_state()
    if isinstance(state, np.ndarray) and state.dtype == bool:
        return {"bits": np.packbits(state), "shape": state.shape}
    if hasattr(state, "state_dict"):
        return state.state_dict()
    if isinstance(state, list | tuple):
        return type(state)(saved_state(item) for item in state)
    return _copied(state)


def load_state(state: Any, saved: Any, space: MaskSpace) -> Any:
    """Restore a searcher's state that :func:`saved_state` returned.

    Parameters
    ----------
    state : dataclass
        A state of the same search at its beginning. Objects in it that have ``load_state_dict`` are used again.
    saved : dict
        What :func:`saved_state` returned.
    space : MaskSpace
        The space of the state's masks.

    Raises
    ------
    InputError
        If ``saved`` has other fields than ``state``.
    """
    return _loaded(type(state), state, saved, space)


def _loaded(kind: Any, fresh: Any, saved: Any, space: MaskSpace) -> Any:
    """One value of the type ``kind``; ``fresh`` is the value in its place at the beginning, or None."""
    if isinstance(kind, type) and is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        if not isinstance(saved, Mapping) or list(saved) != names:
            raise InputError(
                "state: the search was saved by another version of its searcher, so it can't be resumed; "
                "start it again in another folder"
            )
        kinds = get_type_hints(kind)
        return kind(**{name: _loaded(kinds[name], getattr(fresh, name, None), saved[name], space) for name in names})
    if isinstance(fresh, np.random.Generator):
        fresh.bit_generator.state = saved
        return fresh
    if isinstance(fresh, torch.Generator):
        fresh.set_state(saved)
        return fresh
    if hasattr(fresh, "load_state_dict"):
        fresh.load_state_dict(saved)
        return fresh
    if isinstance(saved, Mapping) and "mask" in saved:
        return Mask(space, torch.from_numpy(unpacked_bits(saved["mask"], space.n_units, "state")))
    if isinstance(saved, Mapping) and "bits" in saved:
        shape = saved["shape"]
        return unpacked_bits(saved["bits"], int(np.prod(shape)), "state").reshape(shape)
    if isinstance(saved, list):
        items = fresh if isinstance(fresh, list) and len(fresh) == len(saved) else [None] * len(saved)
        [item_kind] = get_args(kind) if get_origin(kind) is list else [None]
        return [_loaded(item_kind, item, one, space) for item, one in zip(items, saved, strict=True)]
    if isinstance(saved, tuple):
        return tuple(_loaded(None, None, one, space) for one in saved)
    return _copied(saved)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value
