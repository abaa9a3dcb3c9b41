"""The images and labels of a torch data set, as two tensors."""

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from masksearch.errors import InputError

__all__ = ["gather"]


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
