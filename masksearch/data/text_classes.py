"""Texts with classes, as tokens of a Hugging Face tokenizer: folders of files, and docstrings of Python's library."""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksearch.data.texts import RawTexts, load_tokenizer
from masksearch.utils.errors import InputError

__all__ = ["class_folder", "docstrings"]

_LENGTH = 64  # tokens
_PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "unittest", "urllib", "xml")
_LEAST = 30  # characters of a docstring
_SHARE = 16  # of 256: the share of docstrings that is the test set, and that of the validation set

_Text = tuple[str, int]  # text and class


def class_folder(folder: Path, length: int | None = None, tokenizer: str | None = None) -> RawTexts:
    """Read the texts of ``folder/{train,val,test}/<class>/*``, one per file; classes are numbered alphabetically.

    A folder ``val`` is optional. Longer texts are cut, shorter ones padded.

    Parameters
    ----------
    length : int, optional
        Tokens of a text. Default: 64.
    tokenizer : str, optional
        Folder of a Hugging Face tokenizer; it must be given.

    Raises
    ------
    InputError
        Without a tokenizer, or if train/ or test/ is missing or empty, or they have different classes.
    """
    parts = {part: folder / part for part in ("train", "test", "val") if (folder / part).is_dir()}
    names = {part: sorted(path.name for path in own.iterdir() if path.is_dir()) for part, own in parts.items()}
    for part in ("train", "test"):
        if not names.get(part):
            raise InputError(f"no texts in {folder / part}; allowed are train/<class>/* and test/<class>/*")
    for part, classes in names.items():
        if unmatched := sorted(set(names["train"]) ^ set(classes)):
            raise InputError(f"{folder}: train/ and {part}/ need the same classes; only one has {', '.join(unmatched)}")
    texts = {
        part: [
            (path.read_text(encoding="utf-8", errors="replace"), number)
            for number, name in enumerate(names[part])
            for path in sorted((own / name).iterdir())
        ]
        for part, own in parts.items()
    }
    return _tokenised(texts, length, tokenizer, f"textfolder:{folder}")


def docstrings(folder: Path, length: int | None = None, tokenizer: str | None = None) -> RawTexts:
    """Read the docstrings of eight packages of Python's standard library; the class of a docstring is its package.

    A hash decides whether a docstring is for testing (a sixteenth), for validation (a sixteenth) or for training.
    ``folder`` is not used; the other parameters are those of :func:`class_folder`.
    """
    texts: dict[str, list[_Text]] = {"train": [], "test": [], "val": []}
    for text, number in sorted(dict(_docstrings()).items()):
        first = hashlib.sha256(text.encode()).digest()[0]
        texts["test" if first < _SHARE else "val" if first < 2 * _SHARE else "train"].append((text, number))
    return _tokenised(texts, length, tokenizer, "docstrings")


def _docstrings() -> Iterator[_Text]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for number, package in enumerate(_PACKAGES):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= _LEAST:
                        yield text, number


def _tokenised(texts: dict[str, list[_Text]], length: int | None, tokenizer: str | None, name: str) -> RawTexts:
    if tokenizer is None:
        raise InputError(f"data set {name!r} has texts, which a tokenizer reads; give model transformers:FOLDER")
    encode = load_tokenizer(tokenizer)

    def pair(chosen: Sequence[_Text]) -> tuple[dict[str, Tensor], Tensor]:
        words: Any = [text for text, _ in chosen]
        tokens = encode(words, padding="max_length", truncation=True, max_length=length or _LENGTH, return_tensors="pt")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        return inputs, torch.tensor([number for _, number in chosen])

    return RawTexts(pair(texts["train"]), pair(texts["test"]), pair(texts["val"]) if texts.get("val") else None)
