"""Data sets: the table of published ones and of folders, and the function that loads them by name.

A row's function returns pixels and labels as published, or windows of text. :class:`Data` makes splits and
normalisation, the same way for every row and for your own tensors, data sets and loaders.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from masksearch.data.data import Data
from masksearch.data.image_folder import read_folder
from masksearch.data.in_memory_split import Split, content_digest
from masksearch.data.sources import cifar10, digits, from_torchvision
from masksearch.data.streamed_splits import LoaderSplit, StreamedSplit
from masksearch.data.text_classes import class_folder, docstrings
from masksearch.data.texts import RawTexts, standard_library, text_folder
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.nested import tensors_of
from masksearch.utils.registry import Table
from masksearch.utils.user_functions import call_function, import_function, names_function

__all__ = ["DATASETS", "Data", "DatasetRow", "LoaderSplit", "Split", "StreamedSplit", "load_data"]


@dataclass(frozen=True)
class DatasetRow:
    """Definition of a data set in the table ``DATASETS``: the function that reads it, and a description."""

    read: Callable[..., Any]  # images: (data root, whether to download) -> RawImages; text: as text_folder
    about: str  # description in one line
    augment: bool = False  # whether random crops and horizontal flips suit the data set
    task: str = "classification"
    text: bool = False  # whether examples are texts
    has_folder: bool = False  # whether the user names a folder, NAME:PATH


DATASETS: Table[DatasetRow] = Table(
    "data set",
    {
        "digits": DatasetRow(digits, "1,797 handwritten digits, 1x8x8, that come with scikit-learn"),
        "mnist": DatasetRow(from_torchvision("MNIST"), "70,000 handwritten digits, 1x28x28"),
        "fashion_mnist": DatasetRow(from_torchvision("FashionMNIST"), "70,000 pieces of clothing, 1x28x28"),
        "cifar10": DatasetRow(cifar10, "60,000 photographs of 10 classes, 3x32x32", augment=True),
        "cifar100": DatasetRow(
            from_torchvision("CIFAR100"), "60,000 photographs of 100 classes, 3x32x32", augment=True
        ),
        "imagefolder": DatasetRow(
            lambda path, download: read_folder(path),
            "imagefolder:PATH: your images in PATH/{train,val,test}/<class>/*",
            has_folder=True,
        ),
        "standard_library": DatasetRow(
            standard_library, "text: the source files of Python's standard library", task="language_model", text=True
        ),
        "text": DatasetRow(
            text_folder,
            "text:PATH: your text files in PATH, or in PATH/{train,val,test}",
            task="language_model",
            text=True,
            has_folder=True,
        ),
        "docstrings": DatasetRow(
            docstrings, "texts with classes: docstrings of Python's standard library, by package", text=True
        ),
        "textfolder": DatasetRow(
            class_folder,
            "textfolder:PATH: your texts with classes in PATH/{train,val,test}/<class>/*",
            text=True,
            has_folder=True,
        ),
    },
)


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int | None = None,
    text_length: int | None = None,
    tokenizer: str | None = None,
    search_examples: int | None = None,
    train_examples: int | None = None,
    val_examples: int | None = None,
) -> Data:
    """Load a data set by its name in ``DATASETS``, with fixed splits, and images normalised.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`; ``imagefolder:PATH`` reads your own folder of images, with or without ``val/``;
        ``text:PATH`` your own text files, for a language model; ``textfolder:PATH`` your own texts with classes;
        ``module:function`` and ``path/to/file.py:function`` name a function of yours that returns a :class:`Data`.
    root : path, optional
        The folder of the data sets. Default: ``data`` in the current folder.
    download : bool
        Whether to download a data set that is not in ``root``.
    image_size : int, optional
        For ``imagefolder``: resize the shorter side of every image to this number of pixels, and cut out the middle
        square.
    text_length : int, optional
        For text: bytes or tokens of an example. Default: 256; of texts with classes 64.
    tokenizer : str, optional
        For text: folder of a Hugging Face tokenizer. Default: tokens are bytes; texts with classes need one.
    search_examples, train_examples, val_examples : int, optional
        See :meth:`Data.from_tensors`.

    Raises
    ------
    InputError
        If the table has no such data set, it is not under ``root``, or it can't be read or split.
    """
    check_type("data set", name, str, "a name of ms.data.DATASETS, imagefolder:PATH, text:PATH or module:function")
    kind, colon, path = name.partition(":")
    sizes: dict[str, Any] = {
        "search_examples": search_examples,
        "train_examples": train_examples,
        "val_examples": val_examples,
    }
    if kind not in DATASETS and names_function(name):
        return _own(name, image_size=image_size, text_length=text_length, **sizes)
    row = DATASETS[kind]
    if bool(path) != row.has_folder or (colon and not path):
        raise InputError(
            f"data set {name!r} can't be read; allowed are imagefolder:PATH, text:PATH, module:function and names "
            "without a colon"
        )
    if image_size is not None and kind != "imagefolder":
        raise InputError(f"image_size: {image_size}; images of {kind} have their own size, so leave it out")
    if row.text:
        texts: RawTexts = row.read(Path(path), text_length, tokenizer)
        pairs = [pair for pair in (texts.train, texts.test, texts.val) if pair is not None]
        content = content_digest(tensor for pair in pairs for part in pair for tensor in tensors_of(part))
        return replace(Data.from_tensors(name, *pairs, task=row.task, **sizes), content=content)
    if text_length is not None:
        raise InputError(f"text_length: {text_length}; {kind} has images, so leave it out")
    if kind == "imagefolder":
        raw = read_folder(Path(path), image_size)
    else:
        raw = row.read(Path("data" if root is None else root), download)
    data = Data.from_tensors(
        name,
        (raw.train_images, raw.train_labels),
        (raw.test_images, raw.test_labels),
        getattr(raw, "val", None),  # rows of plugins may lack it
        classes=raw.classes,
        augment=row.augment,
        **sizes,
    )
    return replace(data, content=_content(kind, raw))


_PUBLISHED = {
    "digits": ("22283464ce585aa2",),
    "mnist": ("05ab87c0464c87c8",),
    "cifar10": ("060f3df6f41050d5",),  # in JPEG files; torchvision's files have published checksums
}
"""Name of a data set -> digests of its published images and labels."""


def _content(kind: str, raw: Any) -> str:
    """Digest of images and labels, 16 hex digits; empty if they are the published ones."""
    if getattr(raw, "verified", False):
        return ""
    val = getattr(raw, "val", None) or ()
    tensors = map(torch.as_tensor, (raw.train_images, raw.train_labels, raw.test_images, raw.test_labels, *val))
    digest = content_digest(tensors)
    return "" if digest in _PUBLISHED.get(kind, ()) else digest


def _own(name: str, **settings: int | None) -> Data:
    """Return the data that a user's function makes."""
    given = {setting: value for setting, value in settings.items() if value is not None}
    function = import_function(name, "data set")
    unknown = sorted(set(given) - set(signature(function).parameters))
    if unknown:
        raise InputError(f"{unknown[0]}: {given[unknown[0]]}; {name} has no such parameter, so leave it out")
    data = call_function(function, name, "data set", **given)
    if not isinstance(data, Data):
        raise InputError(f"data set: {name} returned a {type(data).__name__}; ms.Data is needed")
    return replace(data, name=name)
