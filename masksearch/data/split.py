"""A split: images and their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from masksearch.errors import InputError

__all__ = ["Split"]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels that belong together.

    Raises
    ------
    InputError
        If there are no images, or not one label an image.
    """

    images: Tensor  # (n, c, h, w)
    labels: Tensor  # (n,) int64

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.numel() == 0:
            raise InputError(f"images have shape {tuple(self.images.shape)}; allowed is (n, c, h, w), none of them 0")
        if self.labels.shape != self.images.shape[:1]:
            raise InputError(
                f"labels have shape {tuple(self.labels.shape)}; {len(self.images)} images need ({len(self.images)},)"
            )
        if self.labels.dtype not in _INTEGERS:
            raise InputError(f"labels are {self.labels.dtype}; allowed are integers")
        object.__setattr__(self, "labels", self.labels.long())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice | Tensor) -> "Split":
        """The images that a slice (a view) or a tensor of indices (a copy) chooses."""
        return Split(self.images[chosen], self.labels[chosen])
