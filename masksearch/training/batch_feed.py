"""Batches of examples on a device; data that do not fit the device, or the memory, are streamed."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from masksearch.training.augmentation import crop_flip
from masksearch.training.training_splits import Examples, Resident, Streamed, as_examples
from masksearch.utils.errors import InputError
from masksearch.utils.nested import map_tensors, n_examples, take, tensors_of, to_device

RESIDENT_SHARE = {"cpu": 1.0, "cuda": 0.5}
"""Share of free device memory, by device type, that a split's examples may take; larger splits are streamed."""
_CHUNK_BATCHES = 16  # gathered by one call, which costs less than a call per batch

Batch = tuple[Any, Any]
"""(inputs, targets) of some examples."""


def forward_batch(device: torch.device) -> int:
    """Return the batch size for forward passes without gradients on ``device``: 250 examples on a CPU, else 1000."""
    return 250 if device.type == "cpu" else 1000


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches; the last batch has at least two examples, as BatchNorm needs."""
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    if len(sizes) > 1 and sizes[-1] == 1 and batch_size > 2:
        sizes[-2:] = [batch_size - 1, 2]
    return sizes


class Feed:
    """Loader of a data split's batches onto one device, in the split's order or shuffled.

    Parameters
    ----------
    split : Examples
        Inputs and targets, on the CPU.
    device : torch.device
        Device of the batches. Examples in memory move there at once if they take at most half of its free memory.
    channels_last : bool
        Return batches of images with the channels innermost in memory (same values, same shape).
    chunk_bytes : int
        Preferred maximum of bytes that one call gathers; a chunk holds at least one batch.
    check : callable, optional
        Called with the targets of every streamed batch, on the CPU; raises an ``InputError`` for wrong targets.
    """

    def __init__(
        self,
        split: Examples,
        device: torch.device,
        channels_last: bool = False,
        chunk_bytes: int = 1 << 26,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        examples = as_examples(split)
        self._n, self.own_order = len(examples), examples.own_order
        self._stream: Streamed | None = None
        if isinstance(examples, Resident):
            self.resident = _fits(examples, device)
            self.inputs, self.targets = examples.inputs, examples.targets
            if self.resident:
                self.inputs, self.targets = to_device(self.inputs, device), to_device(self.targets, device)
        else:
            self.resident, self._stream = False, examples
        self.device, self.chunk_bytes, self._check = device, chunk_bytes, check
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return self._n

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield the split's batches (inputs, targets) in order; a DataLoader keeps its own batch sizes and order."""
        sizes = [min(batch_size, self._n - start) for start in range(0, self._n, batch_size)]
        if self._stream is not None:
            yield from self._streamed(self._stream, None, sizes, None, 0)
            return
        for start in range(0, self._n, batch_size):
            chosen = slice(start, start + batch_size)
            inputs, targets = (
                to_device(take(part, chosen), self.device, non_blocking=True) for part in (self.inputs, self.targets)
            )
            yield self._laid_out(inputs), targets

    def shuffled(
        self, order: Tensor, sizes: Sequence[int], draws: Tensor | None = None, seed: int = 0
    ) -> Iterator[Batch]:
        """Yield (inputs, targets) batches of the split, in the order of indices ``order``; a DataLoader keeps its own.

        Parameters
        ----------
        order : int64 tensor (n,)
            Indices of the examples.
        sizes : sequence of int
            Sizes of the batches.
        draws : int64 tensor (n, 3), optional
            Crops and flips of images, as :func:`~masksearch.training.augmentation.draw_crop_flip` returns them.
        seed : int
            Seed of what a streamed split draws: its transforms, and the order of a loader that shuffles.
        """
        if self._stream is not None:
            yield from self._streamed(self._stream, order, sizes, draws, seed)
            return
        places = order.to(self.device) if self.resident else order.cpu()
        draws = None if draws is None else draws.to(self.device)
        example_bytes = sum(part[:1].numel() * part.element_size() for part in tensors_of(self.inputs))
        batches = max(1, min(_CHUNK_BATCHES, self.chunk_bytes // (max(sizes) * example_bytes)))
        remaining, start = iter(sizes), 0
        while chunk := list(islice(remaining, batches)):
            stop = start + sum(chunk)
            inputs, targets = (self._gather(part, places[start:stop]) for part in (self.inputs, self.targets))
            if draws is not None:
                inputs = crop_flip(inputs, draws[start:stop])
            for batch, target in zip(_split(inputs, chunk), _split(targets, chunk), strict=True):
                yield self._laid_out(batch), target
            start = stop

    def _gather(self, value: Any, places: Tensor) -> Any:
        if self.resident:
            return map_tensors(lambda part: part.index_select(0, places), value)

        def staged(part: Tensor) -> Tensor:
            shape = (len(places), *part.shape[1:])
            target = torch.empty(shape, dtype=part.dtype, pin_memory=self.device.type == "cuda")
            return torch.index_select(part, 0, places, out=target).to(self.device, non_blocking=True)

        return map_tensors(staged, value)

    def _streamed(
        self, stream: Streamed, order: Tensor | None, sizes: Sequence[int], draws: Tensor | None, seed: int
    ) -> Iterator[Batch]:
        start = count = 0
        for inputs, targets in _with_own_randomness(lambda: stream.batches(order, sizes), seed):
            if self._check is not None:
                self._check(targets)
            stop, count = start + n_examples(inputs), count + 1
            inputs, targets = self._moved(inputs), self._moved(targets)
            if draws is not None:
                if stop > len(draws):
                    raise InputError(f"loader: more than {len(draws)} examples, its length; crop_flip needs the length")
                inputs = crop_flip(inputs, draws[start:stop].to(self.device))
            yield self._laid_out(inputs), targets
            start = stop
        expected = stream.n_batches if self.own_order else len(sizes)  # type: ignore[attr-defined]
        if count != expected:
            raise InputError(
                f"{type(stream).__name__}: {count} batches in a pass, and its length is {expected}; both must be equal"
            )

    def _moved(self, value: Any) -> Any:
        if self.device.type == "cuda":
            value = map_tensors(lambda part: part if part.is_cuda or part.is_pinned() else part.pin_memory(), value)
        return to_device(value, self.device, non_blocking=True)

    def _laid_out(self, inputs: Any) -> Any:
        if self.format is torch.contiguous_format:
            return map_tensors(Tensor.contiguous, inputs)
        return map_tensors(
            lambda part: part.contiguous(memory_format=self.format if part.ndim == 4 else torch.contiguous_format),
            inputs,
        )


def _with_own_randomness(start: Callable[[], Iterator[Batch]], seed: int) -> Iterator[Batch]:
    """Yield batches whose random draws leave torch's global state on the CPU unchanged: dropout stays the same."""
    inside, batches = torch.Generator().manual_seed(seed).get_state(), None
    while True:
        outside = torch.get_rng_state()
        torch.set_rng_state(inside)
        try:
            batches = iter(start()) if batches is None else batches
            batch = next(batches)
        except StopIteration:
            return
        finally:
            inside = torch.get_rng_state()
            torch.set_rng_state(outside)
        yield batch


def _split(value: Any, sizes: list[int]) -> Sequence[Any]:
    """Consecutive parts of the tensors, as views."""
    if isinstance(value, Tensor):
        return value.split(sizes)
    starts = [0, *accumulate(sizes)]
    return [take(value, slice(start, start + size)) for start, size in zip(starts, sizes, strict=False)]


def _fits(examples: Resident, device: torch.device) -> bool:
    """Whether the device has room for the examples beside a network."""
    share = RESIDENT_SHARE.get(device.type, 1.0)
    if device.type != "cuda":
        return share > 0
    free, _ = torch.cuda.mem_get_info(device)
    parts = [*tensors_of(examples.inputs), *tensors_of(examples.targets)]
    return sum(part.numel() * part.element_size() for part in parts) <= share * free
