"""Images on their way to the network: on the device once where they fit, streamed where they don't."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from masksearch.training.augment import crop_flip

__all__ = ["Feed", "Images", "batch_sizes", "forward_batch", "steps_per_epoch"]

_SHARE = 0.5  # of the device's free memory that images may take
_CHUNK_BATCHES = 16  # gathered by one call, which costs less than a call per batch
_CHUNK_BYTES = 1 << 26


class Images(Protocol):
    """What a trainer reads of a data split."""

    @property
    def images(self) -> Tensor:
        """Float32 (n, c, h, w), normalised."""

    @property
    def labels(self) -> Tensor:
        """Int64 (n,)."""


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimiser steps that ``n`` images give: n / batch_size, rounded up."""
    return -(-n // batch_size)


def forward_batch(device: torch.device) -> int:
    """Images per forward pass without gradients: few, whose activations stay in a CPU's cache; many elsewhere."""
    return 250 if device.type == "cpu" else 1000


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches. A single image left over takes one from the batch before: BatchNorm needs two."""
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    if len(sizes) > 1 and sizes[-1] == 1 and batch_size > 2:
        sizes[-2:] = [batch_size - 1, 2]
    return sizes


class Feed:
    """Batches of one split on one device.

    Parameters
    ----------
    split : Images
        Images and labels, on the CPU.
    device : torch.device
        Where batches go. The images move there as a whole if they take no more than half of its free memory.
    channels_last : bool
        Hand out batches with the channels innermost in memory (same values, same shape).
    """

    def __init__(self, split: Images, device: torch.device, channels_last: bool = False) -> None:
        self.resident = _fits(split.images, device)
        self.images = split.images.to(device) if self.resident else split.images
        self.labels = split.labels.to(device)
        self.device = device
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (b, c, h, w) and labels (b,), first to last."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self._laid_out(images.to(self.device, non_blocking=True)), labels

    def shuffled(self, order: Tensor, sizes: list[int], draws: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (b, c, h, w) and labels (b,) in the order ``order`` (n,), augmented by ``draws`` (n, 3) if given."""
        labels = self.labels.index_select(0, order.to(self.device))
        places = order.to(self.images.device)
        draws = None if draws is None else draws.to(self.device)
        image_bytes = self.images[:1].numel() * self.images.element_size()
        batches = max(1, min(_CHUNK_BATCHES, _CHUNK_BYTES // (max(sizes) * image_bytes)))
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
            return self.images.index_select(0, places)
        shape = (len(places), *self.images.shape[1:])
        staged = torch.empty(shape, dtype=self.images.dtype, pin_memory=self.device.type == "cuda")
        torch.index_select(self.images, 0, places, out=staged)
        return staged.to(self.device, non_blocking=True)

    def _laid_out(self, batch: Tensor) -> Tensor:
        return batch.contiguous(memory_format=self.format)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the device has room for the images beside a network."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() <= _SHARE * free
