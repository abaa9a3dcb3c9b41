"""Sources of published data sets: scikit-learn's digits, and the data sets that torchvision reads or downloads.

scikit-learn and torchvision are imported in the functions that use them, because both imports are slow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksearch.data.image_folder import read_folder
from masksearch.data.in_memory_split import RawImages, stratified_order
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.seeds import numpy_generator

__all__ = ["Source", "cifar10", "digits", "from_torchvision"]

Source = Callable[[Path, bool], RawImages]  # function (data root, whether to download) -> images


def digits(root: Path, download: bool) -> RawImages:
    """Return scikit-learn's 1,797 handwritten digits, 1x8x8; a stratified fifth is the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 grey levels, 0 to 16; 255 / 16 is no integer, and rounding is far below one level.
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    order = stratified_order(labels, numpy_generator(0, "digits", "test"))
    test, train = order.split([len(order) // 5, len(order) - len(order) // 5])
    return RawImages(images[train], labels[train], images[test], labels[test], classes=10)


def from_torchvision(name: str) -> Source:
    """Return a function that reads the data set ``torchvision.datasets.<name>``.

    torchvision's CIFAR files are pickles; torchvision opens them only if their MD5 sums match the published ones.
    """

    def read(root: Path, download: bool) -> RawImages:
        from torchvision import datasets

        kind = getattr(datasets, name)
        try:
            train, test = (kind(root, train=train, download=download) for train in (True, False))
        except (RuntimeError, ValueError, OSError) as error:
            if download:
                reason = first_line(error).rstrip(":")
                raise InputError(
                    f"{name} could not be downloaded to {root.absolute()} ({reason}); check the network connection, "
                    "or name a folder that has the data set with --data-root (root=)"
                ) from None
            raise InputError(
                f"no complete {name} in {root.absolute()}: name another folder with --data-root (root=), "
                "or download it with --download (download=True)"
            ) from None
        return RawImages(
            _channels_first(train.data),
            torch.as_tensor(train.targets),
            _channels_first(test.data),
            torch.as_tensor(test.targets),
            classes=len(train.classes),
            verified=name.startswith("CIFAR"),
        )

    return read


def cifar10(root: Path, download: bool) -> RawImages:
    """Read CIFAR-10 from torchvision's files, or else from image files ``root/cifar10/{train,test}/<class>/*``."""
    published = root / "cifar-10-batches-py"
    folder = root / "cifar10"
    if not published.is_dir() and (folder / "train").is_dir():
        return read_folder(folder)
    return from_torchvision("CIFAR10")(root, download)


def _channels_first(pixels: Any) -> Tensor:
    """Pixels (n, h, w) or (n, h, w, c) -> uint8 (n, c, h, w)."""
    images = torch.as_tensor(pixels)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
