"""A worker of a sweep: trains dense networks and runs cells in its own process, reports events and writes logs."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch

from masksearch.core.problem_and_trials import Trial
from masksearch.experiment.context import DenseNetwork
from masksearch.experiment.dense_group import (
    DenseGroup,
    data_digest,
    data_key,
    load_part,
    moments_of,
    part_space,
    space_key,
)
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.process_setup import prepare
from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.experiment.steps.early_bird_masks import detector_name
from masksearch.experiment.store.mirror import LOCAL, Mirror
from masksearch.experiment.store.run_folder import locked
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError

Event = tuple[str, tuple[Any, ...]]
"""Name of a method of :class:`SweepCallback`, and its arguments."""

_SECONDS = 0.1  # between two messages about trials and epochs, at the least
_FREQUENT = ("trial", "epoch", "rescored")
_LOG = "log.txt"  # everything that a worker printed while it ran a cell or trained a dense network


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker process of a sweep needs to start: device, plugins, number of CPU threads, the sweep's folder."""

    run: RunSettings
    threads: int
    path: Path
    mirror: Mirror = LOCAL


class JobRunner:
    """Runner of a worker's jobs that reports their events. Data and the dense network are kept for the next job.

    Parameters
    ----------
    send : callable
        Takes a list of events.
    """

    def __init__(self, plan: WorkerPlan, send: Callable[[list[Event]], None]) -> None:
        load_plugins(plan.run.plugin)
        self._plan, self._device = plan, prepare(plan.run)
        self._callback = cast(SweepCallback, _Relay(send))
        self._groups: dict[tuple[object, ...], DenseGroup] = {}
        self._dense: dict[tuple[Path, frozenset[str], frozenset[str]], DenseNetwork] = {}

    def run(self, job: Job) -> None:
        """Train a job's dense network, or execute the job's runs; printed text goes to ``log.txt`` in their folders."""
        torch.set_num_threads(self._plan.threads)
        if not job.cells:
            with _logged(dense_folder(job.users[0])):
                self._group(job).dense(self._device, self._callback)
        run = self._plan.run  # each machine has its own copy of a URL
        path = run.folder / run.name if run.is_remote else self._plan.path
        for cell in job.cells:
            folder = path / cell.folder
            with _logged(folder), locked(folder, wait=True):  # a worker that was lost with its node may still be ending
                group = replace(self._group(job), to_do=[cell])
                group.run(self._network(group), path, self._device, self._callback)
            _remove_empty_log(folder)

    def _group(self, job: Job) -> DenseGroup:
        settings = job.users[0].settings
        key = (*data_key(settings), *space_key(settings))
        if key not in self._groups:
            data = load_part(settings)
            if data_digest(settings, data) != job.users[0].data_digest:
                raise InputError(
                    f"data set {settings.sweep.dataset}: has changed since the sweep began; run the sweep again"
                )
            self._groups = {key: DenseGroup([], [], data, part_space(settings, data), self._plan.mirror)}
        return replace(self._groups[key], users=job.users)

    def _network(self, group: DenseGroup) -> DenseNetwork:
        folder, needed = dense_folder(group.users[0]), frozenset(moments_of(group.users))
        detectors = frozenset(detector_name(cell) for cell in group.users if cell.row.detects)
        if (folder, needed, detectors) not in self._dense:
            self._dense = {key: network for key, network in self._dense.items() if key[0] == folder}
            self._dense[folder, needed, detectors] = group.dense(self._device, SweepCallback())
        return self._dense[folder, needed, detectors]


class _Relay:
    """A callback whose hooks send events, frequent ones in bundles. Masks of trials stay behind."""

    def __init__(self, send: Callable[[list[Event]], None]) -> None:
        self._send, self._events, self._sent = send, list[Event](), 0.0

    def __getattr__(self, hook: str) -> Any:
        if hook.startswith("__"):
            raise AttributeError(hook)
        return partial(self._add, hook)

    def _add(self, hook: str, *arguments: object) -> None:
        """Take an event, and send all that wait unless the last message is young."""
        plain = (replace(value, mask=None) if isinstance(value, Trial) else value for value in arguments)
        self._events.append((hook, tuple(plain)))
        if hook not in _FREQUENT or monotonic() - self._sent > _SECONDS:
            self._send(self._events)
            self._events, self._sent = [], monotonic()


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Context manager that sends what this process prints, also from C libraries, to ``log.txt`` in ``folder``.

    Every warning is printed at least once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _flush()
    before = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    try:
        with warnings.catch_warnings():  # forgets which warnings were printed
            yield
    finally:
        _flush()
        for number, handle in zip((1, 2), before, strict=True):
            os.dup2(handle, number)
            os.close(handle)


def _remove_empty_log(folder: Path) -> None:
    """Remove ``log.txt`` from a run's folder if the file is empty; call this only while no worker executes the run."""
    if not (folder / _LOG).stat().st_size:
        (folder / _LOG).unlink()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
