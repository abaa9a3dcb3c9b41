"""Data splits that a training reads: examples in memory, from a data set, or from a loader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from masksearch.tasks import CLASSIFICATION, Task
from masksearch.training.train_settings import TrainSettings
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, n_examples, take, tensors_of


class InMemory(Protocol):
    """Protocol of a data split in memory, with inputs, targets and optionally a task (default: classification)."""

    @property
    def inputs(self) -> Any:
        """Inputs of all examples, on the CPU: a tensor (n, ...), or a tuple or dict of such tensors."""

    @property
    def targets(self) -> Any:
        """Targets of all examples, on the CPU: a tensor (n, ...), or a tuple or dict of such tensors, or None."""


class Streamed(Protocol):
    """Protocol of a data split that is read batch by batch."""

    @property
    def task(self) -> Task:
        """Task of the examples: its loss, its metrics, and the distance between two networks' outputs."""

    @property
    def own_order(self) -> bool:
        """Whether a user's DataLoader decides the order and the sizes of this data split's batches.

        If so, ``n_batches`` is the length of the loader.
        """

    @property
    def identity(self) -> str | None:
        """The user's text that identifies the data, so that changed data are noticed; None: changes aren't noticed."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def sample(self, n: int) -> tuple[Any, Any]:
        """Return inputs and targets of the split's first ``n`` examples, on the CPU."""

    def batches(self, order: Tensor | None, sizes: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, targets) batches of the given sizes, on the CPU, in the order of the indices ``order``.

        None: in the order of the examples. Loaders ignore both arguments.
        """


Examples = InMemory | Streamed
"""Data split for training and evaluation, such as ``data.train``."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Data split in memory: inputs and targets, with their task."""

    inputs: Nested
    targets: Any
    task: Task
    own_order = False
    identity = None

    def __len__(self) -> int:
        return n_examples(self.inputs)

    def sample(self, n: int) -> tuple[Any, Any]:
        """Return inputs and targets of the split's first ``n`` examples."""
        return take(self.inputs, slice(n)), take(self.targets, slice(n))


def as_examples(split: Any, name: str = "split") -> Resident | Streamed:
    """Return a data split that has a task: a :class:`Resident` if its tensors are in memory, else ``split`` itself.

    Objects with ``inputs`` and ``targets`` only are for classification.

    Raises
    ------
    InputError
        For anything else; the message says what to call.
    """
    if isinstance(split, Resident):
        return split
    if isinstance(split, DataLoader):
        raise InputError(
            f"{name}: a DataLoader is no split; call ms.Data.from_loaders(name, train=loader, ...) and pass data.train"
        )
    if isinstance(split, Dataset):
        raise InputError(
            f"{name}: a {type(split).__name__} is no split; "
            "call ms.Data.from_datasets(name, train=dataset, ...) and pass data.train"
        )
    if getattr(split, "resident", hasattr(split, "inputs")):
        if not tensors_of(split.inputs):
            raise InputError(f"{name}: its inputs hold no tensor; at least one is needed")
        targets = split.targets
        if isinstance(targets, Tensor) and targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            targets = targets.long()
        return Resident(split.inputs, targets, getattr(split, "task", CLASSIFICATION))
    if not hasattr(split, "batches"):
        raise InputError(
            f"{name}: a {type(split).__name__} is no split; pass a split of ms.Data such as data.train, "
            "or ms.Split(inputs, targets)"
        )
    streamed: Streamed = split
    return streamed


def steps_per_epoch(n: int, batch_size: int, accumulate: int = 1) -> int:
    """Return the number of optimiser steps in an epoch of ``n`` examples: n / (batch_size x accumulate), rounded up."""
    return ceil(ceil(n / batch_size) / accumulate)


def optimizer_steps(split: Examples, settings: TrainSettings) -> int:
    """Return the number of optimiser steps in an epoch over a data split, which may be a DataLoader."""
    examples = as_examples(split)
    if examples.own_order:
        n_batches: int = examples.n_batches  # type: ignore[union-attr]
        return ceil(n_batches / settings.accumulate)
    return steps_per_epoch(len(examples), settings.batch_size, settings.accumulate)
