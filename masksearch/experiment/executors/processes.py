"""Workers of a sweep as processes of this machine, each with a pipe; on CUDA, each with a GPU."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from threading import Thread
from types import ModuleType
from typing import Any

import torch

from masksearch.experiment.executors.crew import Died, Message, end_of
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.executors.worker import JobRunner, WorkerPlan

__all__ = ["ProcessCrew"]

# A fork of a process that has used torch isn't safe. The server of forks only imports; each fork shares the imports.
_CONTEXT = get_context("forkserver")
_PRELOADED = ["masksearch.experiment.executors.processes", "torch._dynamo"]


class ProcessCrew:
    """Worker processes that run the jobs of a sweep on this machine, and end with the main process."""

    def __init__(self, plan: WorkerPlan, size: int, device: torch.device) -> None:
        self._plan, self._device, self.size = plan, device, size
        self._workers: list[_Worker] = []
        for number in range(size):
            self._workers.append(self._started(number))

    def _started(self, number: int) -> "_Worker":
        run = self._plan.run
        if self._device.type == "cuda":
            run = replace(run, device=f"cuda:{number % torch.cuda.device_count()}")
        return _Worker(replace(self._plan, run=run), f"process{number}")

    def is_ready(self, number: int) -> bool:
        """Return True: jobs wait in the pipe until the process has started."""
        return True

    def send(self, number: int, job: Job) -> None:
        """Send a job to the free worker ``number``; :meth:`wait` reports a worker that has died since."""
        try:
            self._workers[number].pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):
            return

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait for busy workers; return at least one pair of worker number and message."""
        pipes = {self._workers[number].pipe: number for number in busy}
        for pipe in connection.wait(list(pipes)):
            number = pipes[pipe]  # type: ignore[index]
            yield number, self._workers[number].receive()

    def replace(self, number: int) -> None:
        """Start a new worker process in the place of worker ``number``, which has died."""
        self._workers[number] = self._started(number)

    def close(self) -> None:
        """End all worker processes of a sweep."""
        for worker in self._workers:
            worker.process.terminate()  # idle, or of no use any more
        for worker in self._workers:
            worker.process.join()


class _Worker:
    """A started process and the pipe to it."""

    def __init__(self, plan: WorkerPlan, name: str) -> None:
        _CONTEXT.set_forkserver_preload(_PRELOADED)
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(theirs, plan), name=name, daemon=True)
        with _main_hidden():
            self.process.start()
        theirs.close()

    def receive(self) -> Message:
        """Return the next message of a worker process; a :class:`Died` message if the process has ended."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Died(f"a process ended with code {self.process.exitcode}")
        return message


def _work(pipe: "Connection[Any, Any]", plan: WorkerPlan) -> None:
    """Receive jobs through ``pipe`` and run them; send lists of events, and the end of every job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process' to handle
    Thread(target=_end_with_parent, daemon=True).start()
    runner = JobRunner(plan, pipe.send)
    for job in iter(pipe.recv, None):
        pipe.send(end_of(runner, job))


def _end_with_parent() -> None:
    """End this process when the main process has ended in any way: the folder's lock is free from then on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep a starting process from running the user's script, which may have no ``if __name__ == "__main__"``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
