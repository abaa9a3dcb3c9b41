"""A worker: a process that trains dense networks and runs cells for the main process, until there are no more."""

import os
import signal
import traceback
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, cast

import torch

from masksearch.core.protocol import Trial
from masksearch.experiment.cell import Cell
from masksearch.experiment.context import DenseNetwork
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.group import Group, data_digest, data_key, load_part, part_space
from masksearch.experiment.machine import prepare
from masksearch.experiment.settings.combined import RunSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError

__all__ = ["Event", "Job", "work"]

Event = tuple[str, tuple[Any, ...]]
"""The name of a hook of :class:`SweepCallback`, and its arguments."""

_SECONDS = 0.1  # between two messages about trials and epochs, at the least
_FREQUENT = ("trial", "epoch", "rescored")


@dataclass(frozen=True)
class Job:
    """Cells that one worker runs in order; without cells, the worker only trains their dense network."""

    users: list[Cell]  # all cells of the dense network
    cells: list[Cell]


def work(pipe: "Connection[Any, Any]", run: RunSettings, threads: int, path: Path) -> None:
    """Receive jobs through ``pipe`` and run them, until ``None`` comes.

    What is sent back: lists of events; ``None`` when a job is done; the exception that ended a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process' to handle
    Thread(target=_end_with_parent, daemon=True).start()
    load_plugins(run.plugin)
    worker = _Worker(path, prepare(run), cast(SweepCallback, _Relay(pipe)))
    torch.set_num_threads(threads)
    for job in iter(pipe.recv, None):
        try:
            worker.run(job)
        except Exception as error:
            if not isinstance(error, InputError | OSError):
                error.add_note(traceback.format_exc())  # of this process: the main one has no other
            pipe.send(error)
        else:
            pipe.send(None)


class _Worker:
    """Runs jobs; keeps data, space and dense network of the last one for the next."""

    def __init__(self, path: Path, device: torch.device, callback: SweepCallback) -> None:
        self._path, self._device, self._callback = path, device, callback
        self._groups: dict[tuple[object, ...], Group] = {}
        self._dense: dict[Path, DenseNetwork] = {}

    def run(self, job: Job) -> None:
        """Train the dense network of a job, or run its cells."""
        settings = job.users[0].settings
        key = (*data_key(settings), settings.sweep.model, settings.sweep.granularity, settings.scoring.layers)
        if key not in self._groups:
            data = load_part(settings)
            if data_digest(settings, data) != job.users[0].data_digest:
                raise InputError(f"data set {settings.sweep.dataset}: has changed since the sweep began; run it again")
            self._groups = {key: Group([], [], data, part_space(settings, data))}
        group = replace(self._groups[key], users=job.users, to_do=job.cells)
        if not job.cells:
            group.dense(self._device, self._callback)
            return
        folder = dense_folder(job.users[0])
        if folder not in self._dense:
            self._dense = {folder: group.dense(self._device, SweepCallback())}
        group.run(self._dense[folder], self._path, self._device, self._callback)


class _Relay:
    """A callback whose hooks send events through a pipe, frequent ones in bundles. Masks of trials stay behind."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe, self._events, self._sent = pipe, list[Event](), 0.0

    def __getattr__(self, hook: str) -> Any:
        return partial(self._add, hook)

    def _add(self, hook: str, *arguments: object) -> None:
        """Take an event, and send all that wait unless the last message is young."""
        plain = (replace(value, mask=None) if isinstance(value, Trial) else value for value in arguments)
        self._events.append((hook, tuple(plain)))
        if hook not in _FREQUENT or monotonic() - self._sent > _SECONDS:
            self._pipe.send(self._events)
            self._events, self._sent = [], monotonic()


def _end_with_parent() -> None:
    """End this process when the main process has ended in any way: the folder's lock is free from then on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
