"""What every source of images hands over."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["RawImages"]


@dataclass(frozen=True, eq=False)
class RawImages:
    """A data set as it is published: pixels, not yet split or normalised."""

    train_images: Tensor  # uint8 (n, c, h, w)
    train_labels: Tensor  # int64 (n,)
    test_images: Tensor  # uint8 (m, c, h, w)
    test_labels: Tensor  # int64 (m,)
    classes: int
