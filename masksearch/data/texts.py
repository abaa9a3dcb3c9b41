"""Text files as windows of bytes or tokens for language models; each file belongs to one split."""

import hashlib
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksearch.utils.errors import InputError, first_line
from masksearch.utils.user_functions import weights_folder

__all__ = ["RawTexts", "load_tokenizer", "standard_library", "text_folder"]

_LENGTH = 256  # bytes or tokens of a window
_PARTS = ("train", "val", "test")
_SHARE = 13  # of 256: the share of the files that is the test set, and that of the validation set
_HELD_OUT = 512  # windows of the test set, and of the validation set


@dataclass(frozen=True, eq=False)
class RawTexts:
    """Splits of a data set of text, each as (inputs, targets); targets are None for language models.

    Inputs are tokens (n, length), uint8 for bytes and int64 for a tokenizer's numbers; of texts with classes, a dict of
    those and of ``attention_mask``.
    """

    train: tuple[Any, Tensor | None]
    test: tuple[Any, Tensor | None]
    val: tuple[Any, Tensor | None] | None = None  # None: a part of train


def text_folder(folder: Path, length: int | None = None, tokenizer: str | None = None) -> RawTexts:
    """Read all files of a folder and its subfolders, except hidden ones, and cut the text into windows of equal length.

    With a subfolder ``train``, the subfolders ``train``, ``test`` and, if it is there, ``val`` are the splits. Without
    it, a hash of a file's path decides: 5 % of the files are for testing, 5 % for validation. Windows are in random
    order; at most 512 are for testing and at most 512 for validation.

    Parameters
    ----------
    length : int, optional
        Bytes or tokens of a window. Default: 256.
    tokenizer : str, optional
        Folder of a Hugging Face tokenizer. Default: tokens are bytes.

    Raises
    ------
    InputError
        If there is no such folder or no tokenizer, or if training or test files make no window.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; allowed is a folder of text files, with or without train/ and test/")
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    shown = (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return _windows(folder, shown, length, tokenizer)


def standard_library(folder: Path, length: int | None = None, tokenizer: str | None = None) -> RawTexts:
    """Read the source files of Python's standard library, except tests, and cut the texts into windows of equal length.

    ``folder`` is not used; the other parameters are those of :func:`text_folder`.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = (path for path in sorted(folder.rglob("*.py")) if not {"site-packages", "test"} & set(path.parts))
    return _windows(folder, paths, length, tokenizer)


def load_tokenizer(folder: str) -> Any:
    """Return the Hugging Face tokenizer of a local folder; nothing is downloaded.

    Raises
    ------
    InputError
        If Transformers is not installed, or the folder has no tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(f"tokenizer {folder}: it needs the package transformers: pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(weights_folder(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"tokenizer {folder}: Transformers can't load it ({first_line(error)})") from None


def _windows(folder: Path, paths: Iterable[Path], length: int | None, tokenizer: str | None) -> RawTexts:
    length, encode = length or _LENGTH, _bytes if tokenizer is None else _encoder(tokenizer)
    divided = (folder / "train").is_dir()
    parts: dict[str, list[Tensor]] = {}
    for path in paths:
        name = path.relative_to(folder)
        part = name.parts[0] if divided else _part_of(str(name))
        if part in _PARTS:
            parts.setdefault(part, []).append(encode(path.read_bytes() + b"\n"))
    windows = {}
    for part, tokens in parts.items():
        joined = torch.cat(tokens)
        rows = joined[: len(joined) // length * length].view(-1, length)
        if len(rows):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            windows[part] = rows[order if part == "train" else order[:_HELD_OUT]]
    for part in ("train", "test"):
        if part not in windows:
            raise InputError(
                f"{folder}: the {len(parts.get(part, ()))} files for {part} have fewer than {length} bytes or tokens; "
                "give more text, a smaller text_length, or folders train, val and test"
            )
    return RawTexts(
        (windows["train"], None), (windows["test"], None), (windows["val"], None) if "val" in windows else None
    )


def _part_of(name: str) -> str:
    number = hashlib.sha256(name.encode()).digest()[0]
    return "test" if number < _SHARE else "val" if number < 2 * _SHARE else "train"


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _encoder(folder: str) -> Callable[[bytes], Tensor]:
    tokenizer = load_tokenizer(folder)

    def encode(content: bytes) -> Tensor:
        text = content.decode("utf-8", errors="replace")
        return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)

    return encode
