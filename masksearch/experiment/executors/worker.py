"""A worker of a sweep: trains dense networks and runs cells in its own process, and reports events."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch

from masksearch.core.protocol import Trial
from masksearch.experiment.context import DenseNetwork
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.group import Group, data_digest, data_key, load_part, part_space
from masksearch.experiment.machine import prepare
from masksearch.experiment.settings.combined import RunSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.experiment.store.mirror import LOCAL, Mirror
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError

__all__ = ["Event", "JobRunner", "WorkerPlan"]

Event = tuple[str, tuple[Any, ...]]
"""Name of a method of :class:`SweepCallback`, and its arguments."""

_SECONDS = 0.1  # between two messages about trials and epochs, at the least
_FREQUENT = ("trial", "epoch", "rescored")


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker process needs to start: settings of the run, number of CPU threads, and the sweep's folder."""

    run: RunSettings
    threads: int
    path: Path
    mirror: Mirror = LOCAL


class JobRunner:
    """Runs a worker's jobs and reports their events. The next job reuses the last job's data and dense network.

    Parameters
    ----------
    send : callable
        Takes a list of events.
    """

    def __init__(self, plan: WorkerPlan, send: Callable[[list[Event]], None]) -> None:
        load_plugins(plan.run.plugin)
        self._plan, self._device = plan, prepare(plan.run)
        self._callback = cast(SweepCallback, _Relay(send))
        self._groups: dict[tuple[object, ...], Group] = {}
        self._dense: dict[Path, DenseNetwork] = {}

    def run(self, job: Job) -> None:
        """Train the dense network that a job names, or run the job's cells."""
        torch.set_num_threads(self._plan.threads)
        settings = job.users[0].settings
        key = (*data_key(settings), settings.sweep.model, settings.sweep.granularity, settings.scoring.layers)
        if key not in self._groups:
            data = load_part(settings)
            if data_digest(settings, data) != job.users[0].data_digest:
                raise InputError(f"data set {settings.sweep.dataset}: has changed since the sweep began; run it again")
            self._groups = {key: Group([], [], data, part_space(settings, data), self._plan.mirror)}
        group = replace(self._groups[key], users=job.users, to_do=job.cells)
        if not job.cells:
            group.dense(self._device, self._callback)
            return
        folder = dense_folder(job.users[0])
        if folder not in self._dense:
            self._dense = {folder: group.dense(self._device, SweepCallback())}
        run = self._plan.run  # each machine has its own copy of a URL
        path = run.folder / run.name if run.is_remote else self._plan.path
        group.run(self._dense[folder], path, self._device, self._callback)


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
