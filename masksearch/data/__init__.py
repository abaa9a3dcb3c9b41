"""Data sets: the table of published ones, and the function that loads them by name.

A row's function returns pixels and labels as published. :class:`Data` makes splits and normalisation, the same way for
every row and for your own tensors.
"""

from dataclasses import dataclass
from pathlib import Path

from masksearch.data.data import Data
from masksearch.data.image_folder import read_folder
from masksearch.data.sources import Source, cifar10, digits, from_torchvision
from masksearch.data.split import RawImages, Split
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

__all__ = ["DATASETS", "Data", "DatasetRow", "Split", "load_data"]


@dataclass(frozen=True)
class DatasetRow:
    """A data set of the table."""

    read: Source
    about: str
    augment: bool = False  # whether random crops and horizontal flips suit the data set


def _folder(path: Path, download: bool) -> RawImages:
    return read_folder(path)


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
        "imagefolder": DatasetRow(_folder, "imagefolder:PATH: your own PATH/{train,test}/<class>/*, all of one size"),
    },
)


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    search_examples: int | None = None,
    train_examples: int | None = None,
    val_examples: int | None = None,
) -> Data:
    """Load a data set of the table, split and normalised.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`; ``imagefolder:PATH`` reads your own folder of images.
    root : path, optional
        The folder of the data sets. Default: ``data`` in the current folder.
    download : bool
        Whether to download a data set that is not in ``root``.
    search_examples, train_examples, val_examples : int, optional
        See :meth:`Data.from_tensors`.

    Raises
    ------
    InputError
        If the table has no such data set, it is not under ``root``, or it can't be read or split.
    """
    kind, colon, path = name.partition(":")
    row = DATASETS[kind]
    if bool(path) != (kind == "imagefolder") or (colon and not path):
        raise InputError(f"data set {name!r} can't be read; allowed are imagefolder:PATH and names without a colon")
    raw = row.read(Path(path) if path else Path("data" if root is None else root), download)
    return Data.from_tensors(
        name,
        (raw.train_images, raw.train_labels),
        (raw.test_images, raw.test_labels),
        classes=raw.classes,
        augment=row.augment,
        search_examples=search_examples,
        train_examples=train_examples,
        val_examples=val_examples,
    )
