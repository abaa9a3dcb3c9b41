"""Augmentation of images: random crops and horizontal flips."""

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # zero pixels on every side of an image before the crop


def draw_crop_flip(n: int, generator: torch.Generator) -> Tensor:
    """Draw a crop and flip for each of ``n`` images: int64 rows of (first row, first column, 1 if flipped)."""
    corners = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
    flipped = torch.randint(0, 2, (n, 1), generator=generator)
    return torch.cat([corners, flipped], dim=1)


def crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Return images that are padded, cropped back to their size and flipped, as :func:`draw_crop_flip` has drawn.

    The augmentation of He et al. 2016 (section 4.2). The padding is zero, the mean of normalised images.

    Parameters
    ----------
    images : float tensor (n, c, h, w)
        Images, on any device.
    draws : int64 tensor (n, 3)
        First row and column of the crop in the padded image, and whether it is mirrored; on the images' device.

    Returns
    -------
    Tensor
        (n, c, h, w), contiguous.
    """
    n, c, h, w = images.shape
    top, left, flipped = draws.unbind(1)
    rows = torch.arange(h, device=images.device)
    columns = torch.arange(w, device=images.device)
    columns = torch.where(flipped[:, None] == 1, w - 1 - columns, columns)  # (n, w)
    width = w + 2 * PADDING
    places = (top[:, None] + rows)[:, :, None] * width + (left[:, None] + columns)[:, None, :]  # (n, h, w)
    padded = F.pad(images, (PADDING,) * 4).flatten(2)  # (n, c, h' w')
    return padded.gather(2, places.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)
