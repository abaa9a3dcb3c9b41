"""Inputs and targets of any form: one tensor, a tuple of tensors or a dict of tensors with one first dimension."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.utils.errors import InputError, first_line

Nested = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""Inputs or targets of n examples: one tensor (n, ...), or a tuple or dict of such tensors."""


def as_device(device: object, also: str = "", advice: str = "'cpu'") -> torch.device:
    """Return ``device`` as a ``torch.device``, after a small test computation on it.

    The error message lists ``also`` before the allowed devices, and ends with ``advice``: what to give instead.

    Raises
    ------
    InputError
        If PyTorch has no such device, or can't compute on it.
    """
    try:
        found = torch.device(device)  # type: ignore[call-overload]
        if found not in _USED:
            (torch.ones(1, device=found) + 1).item()  # fails on devices that have no memory, such as meta
            _USED.add(found)
    except Exception as error:  # of a backend: a missing module, a driver, a name
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        name = str(device)
        if name in here or (name == "cuda" and "cuda:0" in here):  # a device that is there, and is full or in use
            raise InputError(f"device: {name!r}; PyTorch can't use it: {first_line(error)}") from None
        raise InputError(
            f"device: {name[:40]!r}; allowed are {also}cpu, cuda, cuda:1 or mps, and PyTorch finds only "
            f"{' and '.join(here)} on this machine: give {advice}"
        ) from None
    return found


_USED: set[torch.device] = set()  # devices that have computed


def as_nested(value: object, what: str) -> Nested:
    """Return inputs or targets as a tensor, a tuple or a plain dict of tensors on the CPU, without gradients.

    Parameters
    ----------
    value : Tensor, array, sequence or mapping
        A list or tuple that holds tensors, or a tuple that holds arrays, is a tuple of tensors; other lists and arrays
        become one tensor.

    Raises
    ------
    InputError
        If a part is no tensor, has no first dimension, or has another number of examples than the first part.
    """
    nested: Nested
    if isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__")):
        nested = {str(name): _tensor(value[name], f"{what}[{name!r}]") for name in value.keys()}  # noqa: SIM118
    elif (isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)) or (
        isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value)
    ):
        nested = tuple(_tensor(part, f"{what}[{place}]") for place, part in enumerate(value))
    else:
        nested = _tensor(value, what)
    parts = tensors_of(nested)
    if not parts:
        raise InputError(f"{what}: an empty {type(value).__name__}; at least one tensor is needed")
    if any(len(part) != len(parts[0]) for part in parts):
        lengths = ", ".join(str(len(part)) for part in parts)
        raise InputError(f"{what}: its tensors have {lengths} examples; all need the same number")
    return nested


def _tensor(value: object, what: str) -> Tensor:
    try:
        if isinstance(value, list) and any(isinstance(part, np.ndarray) for part in value):
            value = np.stack(value)  # torch converts a list of arrays slowly
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        kind, reason = type(value).__name__, first_line(error)
        raise InputError(f"{what}: a {kind} is no tensor ({reason}); allowed are tensors") from None
    if tensor.ndim == 0:
        raise InputError(f"{what}: a single number; a tensor (n, ...) is needed")
    return tensor


def tensors_of(value: Nested | None) -> list[Tensor]:
    """Return a list of all tensors in inputs or targets (a tensor, tuple or dict), in order; [] for None."""
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value]
    return list(value.values() if isinstance(value, dict) else value)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply ``function`` to every tensor of inputs or targets; return a tensor, tuple or dict of the same structure.

    None stays None.
    """
    if value is None:
        return None
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: function(tensor) for name, tensor in value.items()}
    return tuple(function(tensor) for tensor in value)


def call_model(model: nn.Module, inputs: Nested) -> Any:
    """Call a network with inputs x: ``model(x)`` for a tensor, ``model(*x)`` for a tuple, ``model(**x)`` for a dict."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def n_examples(value: Nested) -> int:
    """Return the number of examples in inputs or targets, which is the first dimension of each of their tensors."""
    return len(tensors_of(value)[0])


def take(value: Any, index: slice | Tensor) -> Any:
    """Return the examples at ``index`` of inputs or targets: views for a slice, copies for a tensor of indices."""
    return map_tensors(lambda tensor: tensor[index], value)


def to_device(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """Return inputs or targets on ``device``, in the same form: a tensor, tuple or dict."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), value)


def concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate batches of inputs or targets along the first dimension; all batches have the same structure."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return {name: torch.cat([part[name] for part in parts]) for name in first}
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def describe(value: Nested | None) -> str:
    """Return type and shape of one example of the inputs as text, such as ``float32 3x32x32`` or ``{ids: int64 9}``."""
    if value is None:
        return "none"
    if isinstance(value, Tensor):
        shape = "x".join(map(str, value.shape[1:]))
        return f"{str(value.dtype).removeprefix('torch.')} {shape}".rstrip()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {describe(tensor)}" for name, tensor in value.items()) + "}"
    return "(" + ", ".join(map(describe, value)) + ")"


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return all tensors in a network's outputs, in order, including those inside tuples, dicts and dataclasses.

    Attributes of other objects count, too.
    """
    found: list[Tensor] = []
    seen: set[int] = set()

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, str | bytes | int | float | nn.Module | type) or value is None or id(value) in seen:
            return
        else:
            seen.add(id(value))
            if isinstance(value, Mapping):
                parts = list(value.values())
            elif isinstance(value, list | tuple | set):
                parts = list(value)
            else:
                parts = list(getattr(value, "__dict__", {}).values())
            for part in parts:
                walk(part)

    walk(outputs)
    return found
