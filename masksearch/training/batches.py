"""Batches of examples on a device, with random crops and flips; data that do not fit the device are streamed."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Examples", "Feed", "batch_sizes", "crop_flip", "draw_crop_flip", "forward_batch", "steps_per_epoch"]


PADDING = 4  # pixels on every side


def draw_crop_flip(n: int, generator: torch.Generator) -> Tensor:
    """Random draws for :func:`crop_flip`: int64 (n, 3) with columns first row, first column, and flipped (0 or 1)."""
    corners = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
    flipped = torch.randint(0, 2, (n, 1), generator=generator)
    return torch.cat([corners, flipped], dim=1)


def crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pad every image, crop it to the old size, and mirror half of the images left to right.

    The augmentation of He et al. 2016 (section 4.2). The padding is zero, the mean of normalised images.

    Parameters
    ----------
    images : float tensor (n, c, h, w)
        On any device.
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


RESIDENT_SHARE = {"cpu": 1.0, "cuda": 0.5}
"""Share of a device's free memory, by its type, that the images of a split may take; more are streamed."""
_CHUNK_BATCHES = 16  # gathered by one call, which costs less than a call per batch


class Examples(Protocol):
    """The part of a data split that a trainer reads."""

    @property
    def inputs(self) -> Tensor:
        """Float32 (n, c, h, w), normalised."""

    @property
    def targets(self) -> Tensor:
        """Int64 (n,)."""


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimiser steps of an epoch of ``n`` examples: n / batch_size, rounded up."""
    return -(-n // batch_size)


def forward_batch(device: torch.device) -> int:
    """Examples per forward pass without gradients: few on a CPU, so that activations stay in its cache."""
    return 250 if device.type == "cpu" else 1000


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches. The last batch has at least two examples, because BatchNorm needs two."""
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    if len(sizes) > 1 and sizes[-1] == 1 and batch_size > 2:
        sizes[-2:] = [batch_size - 1, 2]
    return sizes


class Feed:
    """Batches of one split on one device.

    Parameters
    ----------
    split : Examples
        Inputs and targets, on the CPU.
    device : torch.device
        Device of the batches. All inputs move there at once if they take at most half of its free memory.
    channels_last : bool
        Hand out batches with the channels innermost in memory (same values, same shape).
    chunk_bytes : int
        Preferred maximum of bytes that one call gathers; a chunk holds at least one batch.
    """

    def __init__(
        self, split: Examples, device: torch.device, channels_last: bool = False, chunk_bytes: int = 1 << 26
    ) -> None:
        self.resident = _fits(split.inputs, device)
        self.inputs = split.inputs.to(device) if self.resident else split.inputs
        self.targets = split.targets.to(device)
        self.device, self.chunk_bytes = device, chunk_bytes
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.targets)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of inputs (b, c, h, w) and targets (b,), in order."""
        for inputs, targets in zip(self.inputs.split(batch_size), self.targets.split(batch_size), strict=True):
            yield self._laid_out(inputs.to(self.device, non_blocking=True)), targets

    def shuffled(self, order: Tensor, sizes: list[int], draws: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of inputs (b, c, h, w) and targets (b,) in ``order`` (n,), augmented by ``draws`` (n, 3)."""
        labels = self.targets.index_select(0, order.to(self.device))
        places = order.to(self.inputs.device)
        draws = None if draws is None else draws.to(self.device)
        image_bytes = self.inputs[:1].numel() * self.inputs.element_size()
        batches = max(1, min(_CHUNK_BATCHES, self.chunk_bytes // (max(sizes) * image_bytes)))
        remaining, start = iter(sizes), 0
        while chunk := list(islice(remaining, batches)):
            stop = start + sum(chunk)
            images = self._gather(places[start:stop])
            if draws is not None:
                images = crop_flip(images, draws[start:stop])
            for batch, target in zip(images.split(chunk), labels[start:stop].split(chunk), strict=True):
                yield self._laid_out(batch), target
            start = stop

    def _gather(self, places: Tensor) -> Tensor:
        if self.resident:
            return self.inputs.index_select(0, places)
        shape = (len(places), *self.inputs.shape[1:])
        staged = torch.empty(shape, dtype=self.inputs.dtype, pin_memory=self.device.type == "cuda")
        torch.index_select(self.inputs, 0, places, out=staged)
        return staged.to(self.device, non_blocking=True)

    def _laid_out(self, batch: Tensor) -> Tensor:
        return batch.contiguous(memory_format=self.format)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the device has room for the images beside a network."""
    share = RESIDENT_SHARE.get(device.type, 1.0)
    if device.type != "cuda":
        return share > 0
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() <= share * free
