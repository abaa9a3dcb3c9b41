"""A worker: a process that trains dense networks and runs cells for the main process, until there are no more."""

import os
import signal
import traceback
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from masksearch.experiment.cell import Cell
from masksearch.experiment.cell_run import run_cell
from masksearch.experiment.context import CellContext, DenseNetwork
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors.relay import relay
from masksearch.experiment.group import Group, data_key, load_part, part_space
from masksearch.experiment.machine import prepare
from masksearch.experiment.settings.combined import RunSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError

__all__ = ["Job", "work"]


@dataclass(frozen=True)
class Job:
    """Cells that run one after the other; none: only their dense network is trained."""

    users: list[Cell]  # all cells of the dense network
    cells: list[Cell]


def work(pipe: "Connection[Any, Any]", run: RunSettings, threads: int, path: Path) -> None:
    """Receive jobs and run them, until ``None`` comes.

    What is sent back: lists of events; ``None`` when a job is done; the exception that ended a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process' to handle
    Thread(target=_end_with_parent, daemon=True).start()
    load_plugins(run.plugin)
    device = prepare(run)
    torch.set_num_threads(threads)
    worker = _Worker(path, device, relay(pipe))
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
        group = self._group(job)
        if not job.cells:
            group.dense(self._device, self._callback)
            return
        folder = dense_folder(job.users[0])
        if folder not in self._dense:
            self._dense = {folder: group.dense(self._device, SweepCallback())}
        for cell in job.cells:
            context = CellContext(cell, group.space, group.data, self._dense[folder], self._device)
            run_cell(context, self._path, self._callback)

    def _group(self, job: Job) -> Group:
        settings = job.users[0].settings
        key = (*data_key(settings), settings.sweep.model, settings.sweep.granularity, settings.scoring.layers)
        if key not in self._groups:
            data = load_part(settings)
            self._groups = {key: Group([], [], data, part_space(settings, data))}
        group = self._groups[key]
        return Group(job.users, job.cells, group.data, group.space)


def _end_with_parent() -> None:
    """End this process when the main process has ended in any way: the folder's lock is free from then on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
