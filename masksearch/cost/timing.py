"""Timing of functions and forward passes: medians of many runs after a warm-up, with 95 % intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn

from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import batch_of, check_batch, device_of, evaluated, forward
from masksearch.utils.nested import Nested, call_model

_FEWEST_RUNS, _MOST_RUNS = 11, 1000
_WARM_UP = 0.2  # of the seconds for the timed runs


@dataclass(frozen=True)
class Timing:
    """Measured time of one run of a function in seconds: the median of many runs, with a 95 % confidence interval.

    The interval covers the variation between runs, not a machine that is busy during the whole measurement. To compare
    functions, time them in turns with :func:`time_runs`.
    """

    median: float  # seconds
    low: float  # seconds, lower end of the interval
    high: float  # seconds, upper end of the interval
    runs: int  # timed runs, without the warm-up


@dataclass(frozen=True)
class Latency(Timing):
    """Measured time of a network's forward pass for one batch in seconds, with batch size, device and threads."""

    batch_size: int
    device: str
    threads: int  # CPU threads of torch; without effect on a GPU

    def __str__(self) -> str:
        interval = f"{self.low * 1e3:.3g} to {self.high * 1e3:.3g}, {self.runs} runs"
        where = f"{self.device}, {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.median * 1e3:.3g} ms ({interval}) for a batch of {self.batch_size} on {where}"


def latency(
    model: nn.Module, example_input: Nested, batch_sizes: Sequence[int] = (1, 64), seconds: float = 1.0
) -> dict[int, Latency]:
    """Measure the time of a network's forward pass for each batch size, in seconds, on the network's device.

    The network runs in eval mode, without gradients.

    Parameters
    ----------
    model : nn.Module
        It does not change.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        Inputs to fill the batches with.
    batch_sizes : sequence of int
        Batch sizes, measured one after the other.
    seconds : float
        Length of one measurement: 11 to 1,000 timed runs, after a warm-up of a fifth of ``seconds``.

    Returns
    -------
    dict
        Batch size -> :class:`Latency`.

    Raises
    ------
    InputError
        If the network can't process ``example_input``, or a batch size is below 1.
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
            timing = time_runs({"model": partial(call_model, model, batch)}, device, seconds)["model"]
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
    """Measure the seconds that each of several functions takes, called in turns so that other load slows all alike.

    Parameters
    ----------
    contestants : mapping
        Name -> function without arguments.
    device : torch.device
        Device that the functions use; timing waits until its work is finished.
    seconds : float
        Length of the measurement: at least 11 timed runs of each function, after a warm-up of a fifth of ``seconds``.
    most : int
        Maximum number of timed runs of each function; a fifth of it is the maximum for the warm-up.
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
            return {name: timing_of(runs) for name, runs in times.items()}


def timing_of(seconds: list[float]) -> Timing:
    """Return the median of timings in seconds, with a 95 % confidence interval that holds for any distribution.

    Its ends are the timings at the places n/2 ± 0.98 sqrt(n) of n sorted timings.
    """
    ordered, n = sorted(seconds), len(seconds)
    lower = max(0, int((n - 1.96 * n**0.5) / 2))
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Timing(median, ordered[lower], ordered[n - 1 - lower], n)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU (or another accelerator) has finished its work; does nothing for the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
