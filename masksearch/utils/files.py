"""Files without pickle: atomic writes, JSON, tensors as safetensors, and nested states."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from masksearch.utils.errors import InputError

__all__ = ["load_tensors", "load_tree", "read_json", "save_tensors", "save_tree", "write_bytes", "write_json"]

_TENSOR, _ARRAY, _TUPLE = "__tensor__", "__array__", "__tuple__"


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes to a file atomically: after a crash at any moment, the file has its old or its new content."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush ``folder`` to disk, so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` to a file as indented JSON, atomically. Equal content gives equal bytes.

    NaN and infinity, which JSON does not have, become null.
    """
    write_bytes(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    InputError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Write named tensors to a safetensors file, atomically, with ``about`` (any JSON) as its metadata."""
    # One metadata entry, because the order of several is not fixed, and equal content must give equal bytes.
    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, to_safetensors(ready, metadata={"about": json.dumps(about)}))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Read a safetensors file: return {name: tensor on the CPU}, and the ``about`` of :func:`save_tensors`.

    ``about`` is None for files written by other programs.

    Raises
    ------
    InputError
        If the file is missing or is not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as source:
            about = json.loads((source.metadata() or {}).get("about", "null"))
            return {name: source.get_tensor(name) for name in source.keys()}, about  # noqa: SIM118 (not a dict)
    except Exception as error:  # the exception type of safetensors is not public
        raise InputError(f"{path} can't be read as safetensors: {error}") from None


def save_tree(path: str | Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, arrays, numbers, text and None to a file, without pickle."""
    tensors: dict[str, Tensor] = {}
    save_tensors(path, tensors, _flatten(tree, tensors))


def load_tree(path: str | Path) -> Any:
    """Return the nested dicts, lists and tuples that :func:`save_tree` wrote to a file."""
    tensors, skeleton = load_tensors(path)
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
