"""Examples on the device where masks are scored: in memory, or streamed in equal batches at every pass."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from masksearch.data import Split
from masksearch.tasks import Task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, map_tensors, n_examples, take, tensors_of, to_device

_ALIGNMENT = 64  # bytes; torch allocates tensors at multiples of it


class ScoredSplit(Protocol):
    """Protocol of a data split with the attributes that scorers read: task, length and the first examples."""

    task: Task
    resident: bool  # whether all examples are in memory, as ``inputs`` and ``targets``

    def __len__(self) -> int:
        """Return the number of examples."""

    def sample(self, n: int) -> tuple[Nested, Any]:
        """Return inputs and targets of the split's first ``n`` examples, on the CPU."""


class HeldSplit(Split):
    """Data split in memory that accepts tensors on any device, and neither checks nor converts the tensors."""

    def __post_init__(self) -> None:
        """Leave the tensors as they are."""


class ScoredExamples:
    """Examples of a data split, in batches, on the device that masks are scored on.

    Resident examples move to the device once. Streamed examples are read again at every pass: a first batch that
    differs from that of the pass before is an error.

    Parameters
    ----------
    split : ScoredSplit
        The inputs, targets and task of the examples.
    batch_size : int
        Examples per batch; loaders have their own sizes.
    channels_last : bool
        Whether images (b, c, h, w) get the memory format ``torch.channels_last`` (same values, same shape).
    check : callable
        (inputs, targets) -> None, raises an error; called with all resident examples, or with every batch of the first
        pass.
    """

    def __init__(
        self,
        split: Any,
        device: torch.device,
        batch_size: int,
        channels_last: bool,
        check: Callable[[Nested, Any], None],
    ) -> None:
        self._split, self._device, self._batch_size = split, device, batch_size
        self._format = torch.channels_last if channels_last else None
        self._check, self._passed, self._first = check, False, torch.empty(0)
        self._held: tuple[Nested, Any] | None = None
        if split.resident:
            check(split.inputs, split.targets)
            self._held = self._moved(split.inputs, split.targets)

    def batches(self) -> Iterator[tuple[Nested, Any]]:
        """Yield all examples that masks are scored on, in batches (inputs, targets), always in the same order."""
        if self._held is not None:
            for batch in batches_of(self._held, self._batch_size):
                yield _aligned(batch[0]), batch[1]
            return
        for number, (inputs, targets) in enumerate(self._split.batches(None, _sizes(self._split, self._batch_size))):
            if not self._passed:
                self._check(inputs, targets)
            if number == 0:
                self._compare(inputs)
            inputs, targets = self._moved(inputs, targets)
            yield _aligned(inputs), targets
        self._passed = True

    def whole(self) -> tuple[Nested, Any]:
        """Return inputs and targets of the whole data split; a streamed split is read once, then kept on the device."""
        if self._held is None:
            inputs, targets = self._split.sample(len(self._split))
            self._check(inputs, targets)
            self._held = self._moved(inputs, targets)
        return self._held

    def _moved(self, inputs: Nested, targets: Any) -> tuple[Nested, Any]:
        inputs = to_device(inputs, self._device)
        if self._format is not None and isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=self._format)
        return inputs, to_device(targets, self._device)

    def _compare(self, inputs: Nested) -> None:
        first = torch.stack([tensor.double().sum() for tensor in tensors_of(inputs)])
        if self._passed and not torch.equal(first, self._first):
            raise InputError(
                "examples to score on: the first batch differs between two passes, and scores of masks are compared on "
                "equal examples; use shuffle=False and a data set without random transforms"
            )
        self._first = first


def batches_of(examples: tuple[Nested, Any], batch_size: int) -> Iterator[tuple[Nested, Any]]:
    """Yield batches (inputs, targets) of examples in memory, in order. The tensors are views, not copies."""
    for start in range(0, n_examples(examples[0]), batch_size):
        yield take(examples[0], slice(start, start + batch_size)), take(examples[1], slice(start, start + batch_size))


def _aligned(inputs: Nested) -> Nested:
    """Return inputs that begin at multiples of 64 bytes: products of other views round differently."""
    aligned: Nested = map_tensors(lambda tensor: tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor, inputs)
    return aligned


def _sizes(split: ScoredSplit, batch_size: int) -> list[int]:
    return [min(batch_size, len(split) - start) for start in range(0, len(split), batch_size)]
