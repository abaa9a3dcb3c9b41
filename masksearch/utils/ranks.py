"""Ranks: the processes of torchrun that train one network together; rank 0 alone writes files and prints.

Every rank runs the same program. Random numbers are equal on all ranks, and numbers that decide something come from a
reduction or from rank 0, so that all ranks take the same decisions.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from masksearch.utils.errors import InputError

_WAIT = timedelta(minutes=30)  # for another rank, in a collective operation
_AGREE = 60.0  # seconds for the other ranks to fail in the same way
_SPEAK = 5.0  # seconds for rank 0 to report an error that all ranks have

_Result = TypeVar("_Result")


class Ranks:
    """Group of processes (ranks) that train one network together; ``rank`` is the number of the current process.

    Attributes
    ----------
    rank : int
        Number of this process; rank 0 writes files and prints.
    size : int
        Number of processes; 1 without torchrun.
    device : torch.device
        Device of this process: ``cuda:LOCAL_RANK`` or ``cpu``.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, store: "dist.Store | None" = None, group: Any = None
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._store, self._agreements = store, count()
        self._group = group  # on the CPU, for numbers and objects

    @property
    def first(self) -> bool:
        """Whether this process is rank 0, which writes files and prints; without torchrun, True."""
        return self.rank == 0

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Collect a list of numbers from every rank (process); return all lists in order of the ranks, on every rank.

        The bits are equal on all ranks.
        """
        if self.size == 1:
            return [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self._group)
        return [one.tolist() for one in found]

    def sum(self, number: float) -> float:
        """Return the sum of the numbers that all ranks (processes) pass to this method."""
        return sum(numbers[0] for numbers in self.gather([number]))

    def mean(self, numbers: Sequence[float], weight: float) -> list[float]:
        """Return each number's mean over all ranks, weighted by the ranks' ``weight``; NaN if all weights are 0."""
        if self.size == 1:
            return list(numbers)
        rows = [row for row in self.gather([*numbers, weight]) if row[-1]]
        total = sum(row[-1] for row in rows)
        return [sum(row[i] * row[-1] for row in rows) / total if rows else torch.nan for i in range(len(numbers))]

    def joined(self, rows: Tensor, n: int) -> Tensor:
        """Join the rows that each rank (process) passes; return all ``n`` rows in order, on every rank."""
        if self.size == 1:
            return rows
        padded = rows.new_zeros((-(-n // self.size), *rows.shape[1:]))  # shares must be of equal size
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        places = (bounds(n, rank, self.size) for rank in range(self.size))
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(found, places, strict=True)])

    def from_first(self, make: Callable[[], _Result]) -> _Result:
        """Call a function on rank 0 only, and return its result on every rank; the other ranks wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        result: _Result = box[0]
        return result

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with their values on rank 0, in place; tensors on the same device are sent together."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            by_device.setdefault(tensor.device, []).append(tensor)
        for some in by_device.values():
            some.sort(key=lambda tensor: -tensor.element_size())  # aligns all parts
            parts = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in some]  # bytes: of any type
            flat = torch.cat(parts)
            dist.broadcast(flat, src=0)
            if not self.first:
                for tensor, part in zip(some, flat.split([len(part) for part in parts]), strict=True):
                    tensor.copy_(part.view(tensor.dtype).view(tensor.shape))

    def agree(self, text: str) -> None:
        """Wait for all ranks (processes) to call this method; raise an InputError if their texts differ.

        Raises
        ------
        InputError
            If a rank has another text, or none within a minute: then the ranks do different things.
        """
        if self._store is None:
            return
        number = next(self._agreements)
        keys = [f"agree/{number}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], text)
        if not self._appear(keys, _AGREE) or any(self._store.get(key).decode() != text for key in keys):
            raise InputError(f"{text}; the {self.size} processes of torchrun disagree on this, so the run ends")

    def close(self) -> None:
        """Close the communication between the ranks (the processes of torchrun)."""
        self._group = None
        dist.destroy_process_group()

    def may_report(self) -> bool:
        """Return whether this rank (process) prints the error that ends it; only one rank does, if possible rank 0."""
        if self._store is None:
            return True
        try:
            if not self.first and self._appear(["reported"], _SPEAK):
                time.sleep(0.5)  # for rank 0 to print: torchrun ends all processes when one ends
            return self._store.add("reported", 1) == 1
        except RuntimeError:  # torchrun has ended
            return False

    def _appear(self, keys: list[str], seconds: float) -> bool:
        """Wait for keys in the store of torchrun; return whether all appear in time. Signals interrupt the waiting."""
        assert self._store is not None
        end = time.monotonic() + seconds
        while not self._store.check(keys):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


ALONE = Ranks(0, 1, torch.device("cpu"))
"""The only process: nothing is shared, and every operation returns its own values."""

_current = ALONE


def ranks() -> Ranks:
    """Return the group of processes of the enclosing :func:`distributed` block; outside of one, :data:`ALONE`."""
    return _current


def launched() -> bool:
    """Return whether torchrun, or a launcher with the same environment variables, started several processes."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def equal_errors() -> Iterator[None]:
    """Context manager for checks that fail alike in all processes of torchrun: only one process per machine reports."""
    try:
        yield
    except InputError:
        if launched() and os.environ.get("LOCAL_RANK", os.environ["RANK"]) != "0":
            time.sleep(_SPEAK)  # torchrun ends this process when rank 0 has ended
            raise SystemExit(2) from None
        raise


def bounds(n: int, rank: int, size: int) -> tuple[int, int]:
    """Return (start, stop) of a rank's share of ``n`` items in order; the sizes of shares differ by at most 1."""
    return n * rank // size, n * (rank + 1) // size


@contextmanager
def distributed(device: str = "auto") -> Iterator[Ranks]:
    """Context manager in which ``ms.train`` and ``ms.Scorer`` share their work among all processes of torchrun.

    Every process runs the same script: ``torchrun --nproc-per-node 4 script.py``. Without torchrun, nothing changes.

    Parameters
    ----------
    device : {"auto", "cuda", "cpu"}
        ``cuda`` gives each process the GPU of its number on the machine, with NCCL; ``cpu`` uses gloo. ``auto`` is
        ``cuda`` if available.

    Yields
    ------
    Ranks
        ``ranks.device`` is the device of this process, and ``ranks.first`` whether it is the one that may write files.

    Raises
    ------
    InputError
        For another device, fewer GPUs than processes, or if ``torch.distributed`` is in use already.
    """
    global _current
    if _current.size > 1:  # in an enclosing block
        yield _current
        return
    with equal_errors():
        own = _device(device)
    if not launched():
        yield Ranks(0, 1, own)
        return
    if dist.is_initialized():
        raise InputError("distributed: torch.distributed is initialised already; leave out init_process_group")
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store, rank, size = next(dist.rendezvous("env://", timeout=_WAIT))
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("groups", store), rank=rank, world_size=size, timeout=_WAIT)
    # A group of its own for numbers on the CPU: they never wait for the gradients of a GPU.
    group = dist.new_group(backend="gloo", timeout=_WAIT)
    _current = Ranks(rank, size, own, dist.PrefixStore("masksearch", store), group)
    try:
        yield _current
        _current.gather([0])  # no process ends while another one still needs it
    except KeyboardInterrupt:
        if rank:
            raise SystemExit(130) from None
        raise
    except Exception as error:
        if not _current.may_report():
            raise SystemExit(1) from None
        if rank and isinstance(error, InputError):
            raise InputError(f"rank {rank} of torchrun: {error}") from error
        raise
    else:
        _current.close()
    finally:
        _current = ALONE


def _device(name: str) -> torch.device:
    """Return the device of this process."""
    if name not in ("auto", "cuda", "cpu"):
        raise InputError(f"device: {name!r}; with torchrun, allowed are auto, cuda (cuda:LOCAL_RANK) and cpu")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    here, found = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > found:
        raise InputError(
            f"device: {name}; {here} processes on this machine, on which PyTorch finds {found} GPUs: start as many "
            "processes as GPUs (--nproc-per-node), or give --device cpu"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
