"""Data of an experiment: examples in disjoint, normalised splits for training, validation and test."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from masksearch.data.split import Split, stratified_order
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator

__all__ = ["Data", "gather"]


def gather(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Read every item of a map-style data set: images (n, c, h, w) and labels (n,).

    Raises
    ------
    InputError
        If the data set has no length or no items, or its images differ in shape.
    """
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        raise InputError(
            f"data set {type(dataset).__name__} has no items or no length; allowed are map-style data sets"
        )
    images, labels = [], []
    # Transforms may draw random numbers; the state of torch's global generator is restored.
    with torch.random.fork_rng(devices=[]):
        for index in range(len(dataset)):
            image, label = dataset[index]
            images.append(_tensor(image))
            labels.append(torch.as_tensor(label))
            if images[-1].shape != images[0].shape:
                raise InputError(
                    f"image {index} of {type(dataset).__name__} has shape {tuple(images[-1].shape)}; "
                    f"all need that of image 0, {tuple(images[0].shape)}"
                )
    return torch.stack(images), torch.stack(labels)


def _tensor(image: Any) -> Tensor:
    if not isinstance(image, Image.Image):
        return torch.as_tensor(image)
    pixels = torch.from_numpy(np.array(image))  # (h, w) or (h, w, c)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


SPLIT_SEED = 0  # a constant, because results are comparable only on equal splits
MAX_VAL = 10_000  # of the training images; small sets give a fifth
MAX_SEARCH = 2_000  # of the validation images; small sets give half


@dataclass(frozen=True, eq=False)
class Data:
    """Training, validation and test examples, on the CPU.

    ``train``, ``val`` and ``test`` are disjoint. ``val`` has two parts: scorers use ``search``; the difference to
    ``rest`` shows how far a search has overfitted. Made by :func:`~masksearch.data.load_data`, :meth:`from_tensors` or
    :meth:`from_datasets`.
    """

    name: str
    train: Split
    val: Split
    test: Split
    search_examples: int  # number of examples at the beginning of val that make up search
    classes: int
    mean: Tensor  # (c,), of the training pixels in [0, 1]; was subtracted from the inputs
    std: Tensor  # (c,), of the training pixels; the inputs were divided by it
    augment: bool  # whether random crops and horizontal flips suit the images

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.val)} val ({self.search_examples} search), {len(self.test)} test"
        return f"Data({self.name!r}, {'x'.join(map(str, self.shape))}, {self.classes} classes: {sizes})"

    @property
    def search(self) -> Split:
        """The validation examples that scorers use."""
        return self.val[: self.search_examples]

    @property
    def rest(self) -> Split:
        """The other validation examples."""
        return self.val[self.search_examples :]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""
        _, c, h, w = self.train.inputs.shape
        return c, h, w

    @classmethod
    def from_tensors(
        cls,
        name: str,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        val: tuple[Tensor, Tensor] | None = None,
        *,
        classes: int | None = None,
        augment: bool = False,
        search_examples: int | None = None,
        train_examples: int | None = None,
        val_examples: int | None = None,
    ) -> "Data":
        """Split and normalise images and labels.

        Parameters
        ----------
        name : str
            Name of the data set, for reports.
        train, test : (images, labels)
            Images (n, c, h, w). ``uint8`` pixels are divided by 255 and normalised per channel, with mean and
            standard deviation of the training images without those of ``val``. Floating-point images are not changed:
            a trained network expects the normalisation of its training.
        val : (images, labels), optional
            Default: a class-stratified fifth of ``train``, at most 10,000 images, always the same ones.
        classes : int, optional
            Labels are 0 to ``classes`` - 1. Default: as many as the training labels have.
        augment : bool
            Whether random crops and horizontal flips suit the images.
        search_examples : int, optional
            Number of images of ``val`` for searching. Default: half of them, at most 2,000.
        train_examples : int, optional
            Number of training images, a fixed, class-stratified choice. Default: all. The other splits do not change.
        val_examples : int, optional
            Number of validation images, the first ones of ``val``. Default: all. The others are not used.

        Raises
        ------
        InputError
            For labels outside the classes, images that are not finite, splits without images, different numbers of
            images and labels, images of different shapes, test labels that no training image has, and more examples
            than there are.
        """
        splits = {"train": _checked("train", train), "test": _checked("test", test)}
        if val is not None:
            splits["val"] = _checked("val", val)
        classes = int(splits["train"].targets.max()) + 1 if classes is None else classes
        for part, split in splits.items():
            _check_alike(part, split, splits["train"], classes)

        order = stratified_order(splits["train"].targets, numpy_generator(SPLIT_SEED, "splits"))
        if val is None:
            n_val = min(MAX_VAL, len(order) // 5)
            if n_val < 2:
                raise InputError(f"train has {len(order)} images; a fifth of them is val, which takes at least 10")
            splits["val"] = splits["train"][order[:n_val]]
            order = order[n_val:]
        else:
            # search is a prefix of val, so that val must not stay sorted by class.
            val_order = stratified_order(splits["val"].targets, numpy_generator(SPLIT_SEED, "val"))
            splits["val"] = splits["val"][val_order]
        n_val = len(splits["val"])
        if val_examples is not None:
            _check_count("val_examples", val_examples, n_val, "the images of the whole val")
            splits["val"], n_val = splits["val"][:val_examples], val_examples
        search_examples = min(MAX_SEARCH, n_val // 2) if search_examples is None else search_examples
        _check_count("search_examples", search_examples, n_val - 1, "one image of val has to be left for rest")

        full = splits["train"][order]
        mean, std = _statistics(full.inputs)
        train_examples = len(full) if train_examples is None else train_examples
        _check_count("train_examples", train_examples, len(full), "the training images without those of val")
        splits["train"] = full[:train_examples]
        ready = {part: Split(_normalised(split.inputs, mean, std), split.targets) for part, split in splits.items()}
        return cls(name, **ready, search_examples=search_examples, classes=classes, mean=mean, std=std, augment=augment)

    @classmethod
    def from_datasets(
        cls,
        name: str,
        train: Dataset,
        test: Dataset,
        val: Dataset | None = None,
        *,
        classes: int | None = None,
        augment: bool = False,
        search_examples: int | None = None,
        train_examples: int | None = None,
        val_examples: int | None = None,
    ) -> "Data":
        """Splits of any map-style :class:`torch.utils.data.Dataset` of (image, label).

        Every item is read once, so that the data set must not augment at random. Images are tensors, arrays (c, h, w)
        or PIL images; parameters and errors are those of :meth:`from_tensors`.
        """
        return cls.from_tensors(
            name,
            gather(train),
            gather(test),
            None if val is None else gather(val),
            classes=classes,
            augment=augment,
            search_examples=search_examples,
            train_examples=train_examples,
            val_examples=val_examples,
        )


def _checked(part: str, pair: tuple[Tensor, Tensor]) -> Split:
    images, labels = (torch.as_tensor(tensor).detach().cpu() for tensor in pair)
    try:
        split = Split(images, labels)
    except InputError as error:
        raise InputError(f"{part}: {error}") from None
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise InputError(f"{part}: images are {images.dtype}; allowed are uint8 (0 to 255) and floating point")
    if images.dtype.is_floating_point and not images.isfinite().all():
        raise InputError(f"{part}: images hold NaN or infinity; allowed are finite numbers")
    return split


def _check_alike(part: str, split: Split, train: Split, classes: int) -> None:
    """Raise an :class:`InputError` if ``split`` doesn't fit the training images and the classes."""
    if classes < 2:
        raise InputError(f"classes is {classes}; allowed is 2 or more")
    low, high = int(split.targets.min()), int(split.targets.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{part}: labels run from {low} to {high}; allowed with {classes} classes is 0 to {classes - 1}"
        )
    unknown = sorted(set(split.targets.unique().tolist()) - set(train.targets.unique().tolist()))
    if unknown:
        raise InputError(f"{part}: labels {unknown} belong to classes that no training image has")
    if split.inputs.shape[1:] != train.inputs.shape[1:] or split.inputs.dtype != train.inputs.dtype:
        raise InputError(f"{part}: images are {_kind(split)}; {_kind(train)} is needed, as in train")


def _kind(split: Split) -> str:
    return f"{'x'.join(map(str, split.inputs.shape[1:]))} {split.inputs.dtype}"


def _check_count(what: str, count: int, most: int, why: str) -> None:
    if not 1 <= count <= most:
        raise InputError(f"{what} is {count}; allowed is 1 to {most} ({why})")


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (c,) of uint8 pixels in [0, 1]; 0 and 1 for floating-point images."""
    c = images.shape[1]
    if images.dtype != torch.uint8:
        return torch.zeros(c), torch.ones(c)
    # Per image first, then over images (law of total variance): the result does not depend on the number of threads,
    # and no float copy of the whole set is needed.
    parts = [torch.var_mean(chunk.float().div_(255), dim=(2, 3), correction=0) for chunk in images.split(4096)]
    variances = torch.cat([variance for variance, _ in parts]).double()  # (n, c)
    means = torch.cat([mean for _, mean in parts]).double()  # (n, c)
    std = (variances.mean(0) + means.var(0, correction=0)).sqrt().float()
    return means.mean(0).float(), torch.where(std > 1e-6, std, torch.ones(c))  # a constant channel is only centred


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        return images.float()
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
