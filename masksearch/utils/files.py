"""Files without pickle: atomic writes, JSON, tensors as safetensors, and nested states."""

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from masksearch.utils.errors import InputError
from masksearch.utils.integrity import (
    REMEDY,
    about_of,
    check_object,
    check_tensor_file,
    refusing,
    seal_json,
    seal_tensors,
    tensor_metadata,
    unseal_json,
)

_NAME_BYTES = 200  # of a folder's name; file systems take 255
_TENSOR, _ARRAY, _TUPLE = "__tensor__", "__array__", "__tuple__"


def write_bytes(path: str | Path, *content: bytes | memoryview) -> None:
    """Write bytes to a file atomically: if the process dies at any moment, the file has the old or the new content.

    Raises
    ------
    OSError
        If the disk is full or fails; the error has the name of the file and the number of bytes.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            sink.writelines(content)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise named(error, path, sum(map(len, content))) from None


def named(error: OSError, path: Path, size: int | None = None) -> OSError:
    """Return a copy of an OSError whose message also names the file and the number of bytes to be written."""
    wanted = "" if size is None else f" (writing {size:,} bytes)"
    return type(error)(error.errno or errno.EIO, f"{error.strerror or error}{wanted}", str(path))


def is_folder_name(name: str) -> bool:
    """Return whether a text can be a folder's name: printable, valid UTF-8, no path separators, no dot in front."""
    fits = 0 < len(name.encode("utf-8", "surrogateescape")) <= _NAME_BYTES
    return fits and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\")


def remove_litter(folder: Path, name: str = "*", *, below: bool = False) -> None:
    """Remove unfinished files from a folder, which :func:`write_bytes` left in processes that were killed.

    The caller holds the lock of the folder, so that no other process is writing there.

    Parameters
    ----------
    name : str
        Name or pattern of the files that were being written.
    below : bool
        Also look in all folders below ``folder``.
    """
    pattern = f".{name}.*.part"
    for part in folder.rglob(pattern) if below else folder.glob(pattern):
        if part.name.split(".")[-2] != str(os.getpid()):
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush ``folder`` to disk, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` to a file as indented JSON, atomically. Equal contents give files with equal bytes.

    The first entry of an object is its checksum. NaN and infinity, which JSON does not have, become null.
    """
    content = _finite(content)
    if isinstance(content, dict):
        write_bytes(path, seal_json(content))
    else:
        write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def read_json(
    path: str | Path, needed: Mapping[str, type | tuple[type, ...]] | None = None, remedy: str = REMEDY
) -> Any:
    """Return the content of a JSON file; if the file has a checksum, check it first and leave it out.

    Parameters
    ----------
    needed : mapping, optional
        Names and types of the entries that the object in the file must have.
    remedy : str
        What to do about a damaged file, for the error.

    Raises
    ------
    InputError
        If the file is missing, is not JSON, does not have its checksum, or lacks a needed entry.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {path}; {remedy}") from None
    found = unseal_json(content, path, remedy)
    if needed is not None:
        check_object(found, path, needed, remedy)
    return found


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Write named tensors to a safetensors file, atomically; its metadata have ``about`` (any JSON) and a checksum."""
    # One metadata entry, because the order of several is not fixed, and equal content must give equal bytes.
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, *seal_tensors(to_safetensors(ready, metadata=tensor_metadata(about))))


def load_tensors(path: str | Path, remedy: str = REMEDY) -> tuple[dict[str, Tensor], Any]:
    """Read a safetensors file; return {name: tensor on the CPU} and the JSON value ``about`` in its metadata.

    Parameters
    ----------
    remedy : str
        What to do about a damaged file, for the error.

    Raises
    ------
    InputError
        If the file is missing, is not safetensors, is of another program, or does not have its checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}; {remedy}")
    checked = check_tensor_file(path, remedy)
    try:
        with safe_open(path, framework="pt") as source:
            metadata = source.metadata()
            tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # the exception type of safetensors is not public
        raise InputError(f"{path} can't be read as safetensors ({error}); {remedy}") from None
    return tensors, about_of(metadata or {}, path, remedy, checked=checked)


def save_tree(path: str | Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, arrays, numbers, text and None to a file, without pickle."""
    tensors: dict[str, Tensor] = {}
    save_tensors(path, tensors, _flatten(tree, tensors))


def load_tree(path: str | Path, remedy: str = REMEDY) -> Any:
    """Return the nested dicts, lists and tuples that :func:`save_tree` wrote to a file.

    Raises
    ------
    InputError
        As for :func:`load_tensors`, and if the file has tensors of another function.
    """
    tensors, skeleton = load_tensors(path, remedy)
    with refusing(path, remedy):
        return _unflatten(skeleton, tensors)


def _flatten(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor | np.ndarray):
        key = str(len(tensors))
        tensors[key] = torch.as_tensor(node)
        return {_TENSOR if isinstance(node, Tensor) else _ARRAY: key}
    if isinstance(node, Mapping):
        # Pairs, because keys in JSON are strings and an optimiser's state has numbers as keys.
        return {"__dict__": [[key, _flatten(value, tensors)] for key, value in node.items()]}
    if isinstance(node, tuple):
        return {_TUPLE: [_flatten(value, tensors) for value in node]}
    if isinstance(node, list):
        return [_flatten(value, tensors) for value in node]
    if isinstance(node, np.generic):
        return node.item()
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"a {type(node).__name__} can't be kept in a file without pickle")


def _unflatten(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unflatten(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == _ARRAY:
        return tensors[content].numpy()
    if kind == _TUPLE:
        return tuple(_unflatten(value, tensors) for value in content)
    return {key: _unflatten(value, tensors) for key, value in content}
