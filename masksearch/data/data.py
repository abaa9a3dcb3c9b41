"""The examples of an experiment in disjoint, normalised splits."""

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
    # Transforms may draw from torch's global generator; it is left as it was.
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


SPLIT_SEED = 0  # one for everybody: results are comparable only on the same splits
MAX_VAL = 10_000  # of the training images; small sets give a fifth
MAX_SEARCH = 2_000  # of the validation images; small sets give half


@dataclass(frozen=True, eq=False)
class Data:
    """Training, validation and test images, on the CPU.

    ``train``, ``val`` and ``test`` are disjoint. ``search``, which scorers see, and ``rest``, which tells how far the
    search has overfitted ``search``, are the two parts of ``val``. Made by :func:`~masksearch.data.load_data`,
    :meth:`from_tensors` or :meth:`from_datasets`.
    """

    name: str
    train: Split
    val: Split
    test: Split
    search_examples: int  # the first so many images of val
    classes: int
    mean: Tensor  # (c,), of the training pixels in [0, 1]: what was subtracted
    std: Tensor  # (c,), what was divided by
    augment: bool  # do random crops and horizontal flips suit these images?

    @property
    def search(self) -> Split:
        """The validation images that scorers see."""
        return self.val[: self.search_examples]

    @property
    def rest(self) -> Split:
        """The validation images that scorers don't see."""
        return self.val[self.search_examples :]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
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
        """Splits of any images.

        Parameters
        ----------
        name : str
            What to call the data set.
        train, test : (images, labels)
            Images (n, c, h, w). ``uint8`` pixels are divided by 255 and normalised per channel, with the mean and the
            standard deviation of the training images that are left after ``val`` is taken out. Floating-point images
            are taken as they are: a trained network expects the normalisation that it was trained with.
        val : (images, labels), optional
            Default: a class-stratified fifth of ``train``, at most 10,000 images, always the same ones.
        classes : int, optional
            Labels are 0 to ``classes`` - 1. Default: as many as the training labels have.
        augment : bool
            Whether random crops and horizontal flips suit the images.
        search_examples : int, optional
            How many images of ``val`` are for searching. Default: half of them, at most 2,000.
        train_examples : int, optional
            Train on so many images only: a fixed, class-stratified choice. The other splits stay as they are.
        val_examples : int, optional
            Validate and search on so many images only: the first ones of what would be val. The others are not used.

        Raises
        ------
        InputError
            For labels outside the classes, images that are not finite, splits without images, images and labels of
            different number, images of different shapes, test labels that no training image has, and numbers of
            images that are not there.
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
            # The first images of val are searched on, so that val can't stay sorted by class.
            own = stratified_order(splits["val"].targets, numpy_generator(SPLIT_SEED, "val"))
            splits["val"] = splits["val"][own]
        n_val = len(splits["val"])
        if val_examples is not None:
            _check_count("val_examples", val_examples, n_val, "the images of the whole val")
            splits["val"], n_val = splits["val"][:val_examples], val_examples
        search_examples = min(MAX_SEARCH, n_val // 2) if search_examples is None else search_examples
        _check_count("search_examples", search_examples, n_val - 1, "val has to keep one image that search doesn't see")

        full = splits["train"][order]
        mean, std = _statistics(full.inputs)
        train_examples = len(full) if train_examples is None else train_examples
        _check_count("train_examples", train_examples, len(full), "the images that are left without val")
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

        Every item is read once, so that a data set must come without random augmentation. Images are tensors, arrays
        (c, h, w) or PIL images; the parameters and errors are those of :meth:`from_tensors`.
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
    """Raise an error if ``split`` doesn't fit the training images and the classes."""
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
        raise InputError(f"{part}: images are {_kind(split)}; allowed is what the training images are, {_kind(train)}")


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
    # Per image first, then over images (law of total variance): neither the size of the set nor the number of threads
    # costs accuracy, and no float copy of the whole set is made.
    parts = [torch.var_mean(some.float().div_(255), dim=(2, 3), correction=0) for some in images.split(4096)]
    variances = torch.cat([variance for variance, _ in parts]).double()  # (n, c)
    means = torch.cat([mean for _, mean in parts]).double()  # (n, c)
    std = (variances.mean(0) + means.var(0, correction=0)).sqrt().float()
    return means.mean(0).float(), torch.where(std > 1e-6, std, torch.ones(c))  # a constant channel is only centred


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        return images.float()
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
