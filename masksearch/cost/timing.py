"""Seconds of a forward pass, measured: warmed up, many runs, the median and how sure it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.cost.forward import batch_of, check_batch, device_of, evaluated, forward
from masksearch.utils.errors import InputError

__all__ = ["Latency", "Timing", "latency", "synchronize", "time_runs", "timing_of"]

_FEWEST_RUNS, _MOST_RUNS = 11, 1000
_WARM_UP = 0.2  # of the seconds for the timed runs


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: the median of many, with its 95 % interval.

    The interval covers what varies from run to run, not a machine that is busy for the whole measurement: time what is
    to be compared in turns, by :func:`time_runs`.
    """

    median: float  # seconds
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Latency(Timing):
    """Seconds of one forward pass of a batch, and what they were measured on."""

    batch_size: int
    device: str
    threads: int  # that torch used; of no weight on a GPU

    def __str__(self) -> str:
        interval = f"{self.low * 1e3:.3g} to {self.high * 1e3:.3g}, {self.runs} runs"
        where = f"{self.device}, {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.median * 1e3:.3g} ms ({interval}) for a batch of {self.batch_size} on {where}"


def latency(
    model: nn.Module, example_input: Tensor, batch_sizes: Sequence[int] = (1, 64), seconds: float = 1.0
) -> dict[int, Latency]:
    """Seconds from batch to outputs, in eval mode without gradients, on the network's device.

    Parameters
    ----------
    model : nn.Module
        Left as it was found.
    example_input : Tensor (n, ...)
        Inputs that the batches are filled with.
    batch_sizes : sequence of int
        What to measure, one after the other.
    seconds : float
        Length of one measurement; at least 11 runs are timed, at most 1,000, after a fifth of it as warm-up.

    Returns
    -------
    dict
        Batch size -> :class:`Latency`.

    Raises
    ------
    InputError
        If the network doesn't take ``example_input``, or a batch size is below 1.
    """
    check_batch(model, example_input)
    for size in batch_sizes:
        if not isinstance(size, int) or size < 1:
            raise InputError(f"batch_sizes: {size!r}; each must be an int of at least 1")
    device, measured = device_of(model), {}
    with evaluated(model), torch.no_grad():
        for size in batch_sizes:
            batch = batch_of(example_input, size, device)
            forward(model, batch)
            timing = time_runs({"model": partial(model, batch)}, device, seconds)["model"]
            measured[size] = Latency(
                **vars(timing), batch_size=size, device=str(device), threads=torch.get_num_threads()
            )
    return measured


def time_runs(
    contestants: Mapping[str, Callable[[], Any]],
    device: torch.device,
    seconds: float = 1.0,
    most: int = _MOST_RUNS,
) -> dict[str, Timing]:
    """Time functions against each other, taking turns, so that a busy moment of the machine hits all of them.

    Parameters
    ----------
    contestants : mapping
        Name -> function without arguments.
    seconds : float
        Length of the measurement; at least 11 runs of each function are timed, after a fifth of it as warm-up.
    most : int
        Timed runs of each function at which the measurement ends early; a fifth of them end the warm-up early.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    start = perf_counter()
    warm = False
    while True:
        for name, run in contestants.items():
            synchronize(device)
            before = perf_counter()
            run()
            synchronize(device)
            times[name].append(perf_counter() - before)
        spent, rounds = perf_counter() - start, len(next(iter(times.values())))
        if not warm:
            if rounds >= 2 and (spent >= _WARM_UP * seconds or rounds >= _WARM_UP * most):
                warm, start = True, perf_counter()
                times = {name: [] for name in contestants}
        elif rounds >= _FEWEST_RUNS and (spent >= seconds or rounds >= most):
            return {name: timing_of(own) for name, own in times.items()}


def timing_of(seconds: list[float]) -> Timing:
    """Median and its distribution-free interval: the order statistics n/2 -+ 0.98 sqrt(n)."""
    ordered, n = sorted(seconds), len(seconds)
    lower = max(0, int((n - 1.96 * n**0.5) / 2))
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Timing(median, ordered[lower], ordered[n - 1 - lower], n)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
