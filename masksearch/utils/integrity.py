"""Integrity of files: checksums, format versions, running digests, and one error message for damaged files."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from masksearch.utils.errors import InputError, named_first_line

REMEDY = "remove its folder and run again"
"""What to do about a damaged file, where a caller names nothing else."""

_FORMAT = 1  # of checksums, in JSON files and in safetensors files
_DIGITS = 16  # hex digits of a checksum: 64 bits of SHA-256
_LINE = b'{\n  "checksum": "'
_DAMAGED_LINE = re.compile(rb'\{\s*"[^"]{8}": "\d+:[0-9a-f]{16}"')  # a first line whose name is not "checksum"
_LARGEST = 1 << 63  # of whole numbers in JSON files
_MAX_HEADER = 100_000_000  # bytes, as in safetensors
_MARK = b'\\"checksum\\": \\"'  # in the header of a safetensors file, which is JSON in JSON
_ENTRY = "masksearch"  # of the metadata of safetensors files
_FORMER_ENTRY = "about"  # the same in files of version 1.0 and before, which have no checksum

_MISSHAPEN = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError, RuntimeError,
    AssertionError, MemoryError, StopIteration, ZeroDivisionError,
)  # fmt: skip


@contextmanager
def refusing(path: Path | str, remedy: str = REMEDY) -> Iterator[None]:
    """Context manager in which errors of reading a file with malformed content become an InputError.

    Raises
    ------
    InputError
        For a missing name, a wrong type, length or shape, or data that is nested too deeply. An InputError that the
        code raises stays the same.
    """
    try:
        yield
    except InputError:
        raise
    except _MISSHAPEN as error:
        raise InputError(
            f"{path} is damaged or was changed: its content has another form ({named_first_line(error)}); {remedy}"
        ) from error


class RunningDigest:
    """SHA-256 digest of a file that grows: each part that is appended to the file updates the digest."""

    update: Callable[[bytes], None]
    """Update the digest with bytes that are appended to the file."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.update = self._sha.update

    @property
    def value(self) -> str:
        """SHA-256 digest of all bytes that the growing file has so far: 16 hex digits."""
        return self._sha.hexdigest()[:_DIGITS]

    @classmethod
    def of(cls, content: bytes) -> "RunningDigest":
        """Return a new :class:`RunningDigest` for a growing file whose bytes so far are ``content``."""
        digest = cls()
        digest.update(content)
        return digest


def check_tensors(
    found: Any, needed: Mapping[str, Tensor], path: Path | str, remedy: str = REMEDY
) -> dict[str, Tensor]:
    """Check that tensors read from a file have the names, types and shapes of the tensors ``needed``; return them.

    Raises
    ------
    InputError
        For a missing or additional tensor, and another type or shape; the message names the first one.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}, and named tensors are needed; {remedy}")
    for name, tensor in needed.items():
        own = found.get(name)
        if not isinstance(own, Tensor):
            raise InputError(f"{path} has no tensor {name!r}; {remedy}")
        if own.shape != tensor.shape or own.dtype != tensor.dtype:
            raise InputError(
                f"{path} has {own.dtype} {tuple(own.shape)} for {name!r}; {tensor.dtype} {tuple(tensor.shape)} is "
                f"needed; {remedy}"
            )
    if extra := sorted(map(str, set(found) - set(needed))):
        raise InputError(f"{path} has the tensor {extra[0]!r}, which is not needed; {remedy}")
    return dict(found)


# JSON: the first line of an object is its checksum.


def seal_json(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object as indented text with a checksum as its first entry, computed from all other lines."""
    plain = {name: value for name, value in content.items() if name != "checksum"}
    text = (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode()
    if not plain:
        return text
    return _LINE + _sum(text) + b'",\n' + text.removeprefix(b"{\n")


def unseal_json(content: bytes, path: Path | str, remedy: str = REMEDY) -> Any:
    """Return the content of a JSON text; if the text has a checksum, first check it.

    Raises
    ------
    InputError
        If the text is no JSON, has numbers beyond 64 bits, does not have its checksum, or is of a later version.
    """
    if content.startswith(_LINE):
        line, _, rest = content.partition(b"\n")[2].partition(b"\n")
        claimed = line.strip().removeprefix(b'"checksum": "').removesuffix(b'",')
        _check_sum(claimed, _sum(b"{\n" + rest), path, remedy)
        content = b"{\n" + rest
    elif _DAMAGED_LINE.match(content):
        raise InputError(f"{path} is damaged or was changed: its first entry is no checksum; {remedy}")
    found = parse_json(content, path, remedy)
    if isinstance(found, dict) and "checksum" in found:
        raise InputError(f"{path} was changed after it was written: its checksum is not the first entry; {remedy}")
    return found


def parse_json(content: bytes, path: Path | str, remedy: str = REMEDY) -> Any:
    """Return the value of a JSON text; raise an InputError for invalid JSON, and for numbers beyond 64 bits."""
    try:
        return json.loads(content, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise InputError(f"{path} is damaged or was changed: its JSON is nested too deeply; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); {remedy}") from None


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _LARGEST:
        raise ValueError(f"the number {text[:24]}{'...' * (len(text) > 24)} is beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:24]} is not finite")
    return value


def check_object(content: Any, path: Path | str, needed: Mapping[str, type | tuple[type, ...]], remedy: str) -> None:
    """Raise an InputError unless ``content`` is a JSON object with all entries of ``needed``, {name: type}."""
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, and an object is needed; {remedy}")
    for name, kind in needed.items():
        if name not in content:
            raise InputError(f"{path} has no {name!r}; {remedy}")
        if not isinstance(content[name], kind) or (kind is int and isinstance(content[name], bool)):
            raise InputError(f"{path} has a {type(content[name]).__name__} as {name!r}; {remedy}")


# Tensors: the checksum of the whole file is in the header.


def tensor_metadata(about: Any) -> dict[str, str]:
    """Return metadata for a safetensors file: the JSON value ``about``, and zeros in place of the file's checksum.

    :func:`seal_tensors` fills in the checksum.
    """
    return {_ENTRY: json.dumps({"checksum": f"{_FORMAT}:{'0' * _DIGITS}", "about": about})}


def seal_tensors(content: bytes) -> list[bytes | memoryview]:
    """Write the checksum into the bytes of a safetensors file; return the bytes as parts to join in order.

    The file has :func:`tensor_metadata`.
    """
    place = content.index(_MARK) + len(_MARK) + len(f"{_FORMAT}:")
    view = memoryview(content)
    sha = hashlib.sha256(view[:place])
    sha.update(view[place + _DIGITS :])
    return [view[:place], sha.hexdigest()[:_DIGITS].encode(), view[place + _DIGITS :]]


def check_tensor_file(path: Path, remedy: str = REMEDY) -> bool:
    """Raise an InputError if a safetensors file differs from its checksum; return False if it has no checksum.

    Raises
    ------
    InputError
        If the bytes are not those that were written, or are of a later version.
    """
    with path.open("rb") as source:
        size = int.from_bytes(head := source.read(8), "little")
        if size > _MAX_HEADER:
            return False  # no safetensors, which the reader says
        header = source.read(size)
        place = header.find(_MARK)
        if place < 0:
            return False
        begin = place + len(_MARK)
        claimed = header[begin : header.find(b"\\", begin)]
        cut = begin + claimed.find(b":") + 1
        _check_sum(claimed, _sum_of(head + header[:cut], header[cut + _DIGITS :], source), path, remedy)
    return True


def about_of(metadata: Mapping[str, str], path: Path, remedy: str, *, checked: bool) -> Any:
    """Return the JSON value ``about`` that was saved beside the tensors, given a safetensors file's metadata.

    ``checked`` says whether the file has a checksum: files of this version without one are damaged.

    Raises
    ------
    InputError
        If the file is damaged, or of another program.
    """
    if _ENTRY in metadata and not checked:
        raise InputError(f"{path} is damaged or was changed: it has no checksum; {remedy}")
    if _ENTRY not in metadata and _FORMER_ENTRY not in metadata:
        raise InputError(f"{path} is damaged, or another program has written it; {remedy}")
    with refusing(path, remedy):
        return json.loads(metadata[_ENTRY])["about"] if _ENTRY in metadata else json.loads(metadata[_FORMER_ENTRY])


def _sum(content: bytes) -> bytes:
    return f"{_FORMAT}:{hashlib.sha256(content).hexdigest()[:_DIGITS]}".encode()


def _sum_of(before: bytes, after: bytes, rest: BinaryIO) -> bytes:
    sha = hashlib.sha256(before)
    sha.update(after)
    while part := rest.read(1 << 20):
        sha.update(part)
    return f"{_FORMAT}:{sha.hexdigest()[:_DIGITS]}".encode()


def _check_sum(claimed: bytes, right: bytes, path: Path | str, remedy: str) -> None:
    if claimed == right:
        return
    version = claimed.partition(b":")[0]
    if version.isdigit() and int(version[:9]) > _FORMAT:
        raise InputError(
            f"{path} was written by a later version of masksearch (checksum format {version[:9].decode()}); install "
            f"that version, or {remedy}"
        )
    raise InputError(f"{path} is damaged or was changed: its checksum does not fit its content; {remedy}")


def folder_remedy(folder: Path | str) -> str:
    """Return advice for error messages about a damaged file in a folder of results: remove the folder and run again."""
    return f"remove the folder {folder} and run again"
