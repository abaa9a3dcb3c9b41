"""Workers of a sweep as processes of this machine, each with a pipe; on CUDA, each with a GPU."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import torch

from masksearch.experiment.executors.crew import Died, Message, end_of
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.executors.worker import JobRunner, WorkerPlan
from masksearch.utils.child_processes import ChildProcess, Ended, end_processes

_PRELOADED = ["masksearch.experiment.executors.cell_processes", "torch._dynamo"]


class ProcessCrew:
    """Worker processes on this machine that run the jobs of a sweep; they end when the main process ends."""

    def __init__(self, plan: WorkerPlan, size: int, device: torch.device) -> None:
        self._plan, self._device, self.size = plan, device, size
        self._workers = [self._started(number) for number in range(size)]

    def _started(self, number: int) -> ChildProcess:
        run = self._plan.run
        if self._device.type == "cuda":
            run = replace(run, device=f"cuda:{number % torch.cuda.device_count()}")
        return ChildProcess(_work, [replace(self._plan, run=run)], preloaded=_PRELOADED, name=f"process{number}")

    def is_ready(self, number: int) -> bool:
        """Return True, for every worker: a job may be sent to a worker process that is still starting."""
        return True

    def send(self, number: int, job: Job) -> None:
        """Send a job to worker ``number``, which must have no job; if the worker is dead, :meth:`wait` reports this."""
        self._workers[number].send(job)

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait until a worker with a job sends a message; yield (worker number, message) pairs, at least one."""
        pipes = {self._workers[number].pipe: number for number in busy}
        for pipe in connection.wait(list(pipes)):
            number = pipes[pipe]  # type: ignore[index]
            message = self._workers[number].receive()
            is_end = isinstance(message, Ended)
            yield number, Died(f"a process ended with code {message.code}") if is_end else message

    def replace(self, number: int) -> None:
        """Start a new worker process that takes the place of worker ``number``, which has died."""
        self._workers[number] = self._started(number)

    def close(self) -> None:
        """End all worker processes of a sweep."""
        end_processes(self._workers)


def _work(pipe: "Connection[Any, Any]", plan: WorkerPlan) -> None:
    """Receive jobs through ``pipe`` and run them; send lists of events, and the end of every job."""
    runner = JobRunner(plan, pipe.send)
    for job in iter(pipe.recv, None):
        pipe.send(end_of(runner, job))
