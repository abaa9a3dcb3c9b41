"""Reading of map-style data sets: whole, or in one pass that finds classes and pixel statistics."""

import os
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masksearch.data import preparation
from masksearch.data.streamed_splits import Collate, StreamedSplit, collate_pairs
from masksearch.tasks import Task
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.nested import concatenate, tensors_of

__all__ = ["Pass", "estimated_bytes", "free_memory", "pass_over", "read_all", "streamed_split"]

_READ_BATCH = 256  # items of a data set that are read at once


def streamed_split(
    part: str, dataset: Any, collate: Collate | None, task: Task, workers: int, identity: str | None
) -> StreamedSplit:
    """Return a data split that reads the items of a map-style data set in order, each when it is used.

    Images are not normalised.

    Raises
    ------
    InputError
        If the data set has no items or no length.
    """
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        raise InputError(
            f"{part}: a {type(dataset).__name__} without items or without a length; allowed are data sets with __len__ "
            "and __getitem__, and Data.from_loaders takes loaders of iterable data sets with __len__"
        )
    return StreamedSplit(
        dataset,  # type: ignore[arg-type]
        torch.arange(len(dataset)),
        collate or collate_pairs,
        task,
        workers,
        identity,
        raw=True,
    )


def read_all(split: StreamedSplit) -> tuple[Any, Any]:
    """Read all examples of a streamed data split into memory; return their inputs and targets.

    Transforms may draw random numbers; the global random state is restored.
    """
    sizes = [len(part) for part in split.indices.split(_READ_BATCH)]
    with torch.random.fork_rng(devices=[]):
        batches = list(split.batches(None, sizes))
    try:
        inputs, targets = (concatenate([batch[side] for batch in batches]) for side in (0, 1))
    except RuntimeError as error:
        raise InputError(
            f"data set {type(split.dataset).__name__}: batches of its items differ in shape "
            f"({first_line(error)}); give collate= to pad or crop to one shape, or stream=True"
        ) from None
    return inputs, targets


@dataclass(frozen=True)
class Pass:
    """What one pass over a data split finds: class labels, and mean and variance of the pixels of each uint8 image."""

    targets: Tensor | None
    statistics: tuple[Tensor, Tensor] | None  # variance and mean (n, c) of every image


def pass_over(split: StreamedSplit) -> Pass:
    """Read a data split once, in batches; return class labels, and mean and variance of each uint8 image's pixels."""
    inputs, _ = split.sample(1)
    pixels = preparation.is_pixels(inputs)
    if not (pixels or split.task.classifies):
        return Pass(None, None)
    targets, statistics = [], []
    with torch.random.fork_rng(devices=[]):
        for batch, batch_targets in split.batches(None, [len(part) for part in split.indices.split(_READ_BATCH)]):
            if split.task.check is not None:
                split.task.check(batch_targets, type(split.dataset).__name__)
            targets.append(batch_targets)
            if pixels:
                statistics.append(preparation.image_statistics(batch))
    found = (torch.cat([one[0] for one in statistics]), torch.cat([one[1] for one in statistics])) if pixels else None
    return Pass(concatenate(targets) if split.task.classifies else None, found)


def estimated_bytes(split: StreamedSplit) -> int:
    """Return how many bytes all examples of a split take as float32, estimated from the first example."""
    inputs, targets = split.sample(1)
    return len(split) * sum(4 * tensor.numel() for tensor in (*tensors_of(inputs), *tensors_of(targets)))


def free_memory() -> int:
    """Return the free memory of this machine in bytes, or 4 GiB if the operating system doesn't report it."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return 4 << 30
