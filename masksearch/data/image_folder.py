"""Data sets in folders of image files, ``{train,val,test}/<class>/*``, with a cache of the pixels."""

import hashlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from masksearch.data.in_memory_split import RawImages
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, save_tensors

__all__ = ["CACHE", "read_folder"]

CACHE = "masksearch-cache.safetensors"  # file of cached pixels, beside train/ and test/


def read_folder(folder: Path, image_size: int | None = None) -> RawImages:
    """Read images from ``folder/{train,val,test}/<class>/*``; classes are numbered in alphabetical order.

    With ``image_size``, the shorter side of every image is resized to this number of pixels, and the middle square is
    cut out. A folder ``val`` is optional.

    The first call saves the pixels as one file in ``folder``. Later calls read that file, as long as names, sizes and
    modification times of all images are the same. If all images are grey, they have one channel.

    Raises
    ------
    InputError
        If train/ or test/ is missing, a class is empty, train and test have different classes, an image can't be read,
        or images differ in size.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size: {image_size}; allowed is 1 or more pixels")
    parts = ["train", "test", *(["val"] if (folder / "val").is_dir() else [])]
    listings = {part: _listing(folder, part) for part in parts}
    classes = listings["train"].classes
    for part in parts[1:]:
        if unmatched := sorted(set(classes) ^ set(listings[part].classes)):
            raise InputError(
                f"{folder}: train/ and {part}/ need the same classes, and only one of them has {', '.join(unmatched)}"
            )

    key = _key(folder, [path for listing in listings.values() for path, _ in listing.samples], image_size)
    tensors = _cached(folder / CACHE, key)
    if tensors is None:
        paths = {part: [Path(path) for path, _ in listing.samples] for part, listing in listings.items()}
        pixels = _decode([path for some in paths.values() for path in some], image_size)
        images = dict(zip(parts, pixels.split([len(some) for some in paths.values()]), strict=True))
        tensors = {f"{part}_images": images[part] for part in parts}
        tensors |= {f"{part}_labels": torch.tensor(listing.targets) for part, listing in listings.items()}
        _keep(folder / CACHE, tensors, key)
    return RawImages(
        tensors["train_images"],
        tensors["train_labels"],
        tensors["test_images"],
        tensors["test_labels"],
        classes=len(classes),
        val=(tensors["val_images"], tensors["val_labels"]) if "val" in parts else None,
    )


def _listing(folder: Path, part: str) -> Any:
    """The ImageFolder of one part."""
    from torchvision.datasets import ImageFolder  # imported here, because the import takes a second

    if not (folder / part).is_dir():
        raise InputError(f"no folder {folder / part}; allowed is a folder with train/<class>/* and test/<class>/*")
    try:
        return ImageFolder(str(folder / part))
    except FileNotFoundError as error:
        raise InputError(f"{folder / part}: {error}".replace("\n", " ")) from None


def _key(folder: Path, paths: Sequence[str], image_size: int | None) -> str:
    """A digest of the names, sizes and modification times of the files, and of the size of the images."""
    digest = hashlib.sha256(b"" if image_size is None else f"{image_size} pixels\n".encode())
    for path in map(Path, paths):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cached(file: Path, key: str) -> dict[str, Tensor] | None:
    try:
        tensors, about = load_tensors(file)
    except InputError:  # missing or damaged: the images are decoded again
        return None
    return tensors if about == key else None


def _keep(file: Path, tensors: dict[str, Tensor], key: str) -> None:
    try:
        save_tensors(file, tensors, key)
    except OSError as error:
        warnings.warn(f"{file} can't be written ({error}): the images will be decoded again next time", stacklevel=2)


def _decode(paths: Sequence[Path], image_size: int | None) -> Tensor:
    """The pixels of all files: uint8 (n, 3 or 1, h, w)."""
    first = _pixels(paths[0], image_size)
    pixels = np.empty((len(paths), *first.shape), dtype=np.uint8)
    # Without threads: for small images the interpreter's lock costs more time than threads save.
    progress = track(
        paths,
        f"decoding {paths[0].parents[2].name}",
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    for index, path in enumerate(progress):
        image = _pixels(path, image_size)
        if image.shape != first.shape:
            raise InputError(
                f"{path} is {_size(image)} pixels and {paths[0]} is {_size(first)}; give one size for all with "
                "--image-size (image_size=)"
            )
        pixels[index] = image
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _pixels(path: Path, image_size: int | None) -> np.ndarray:
    """The pixels of one file, uint8 (h, w, 3), resized and cropped if a size is given."""
    try:
        with Image.open(path) as image:
            return np.asarray(_squared(image.convert("RGB"), image_size))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as an image: {error}") from None


def _squared(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    from torchvision.transforms import v2  # imported here, because the import takes a second

    transform = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    return transform(image)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
