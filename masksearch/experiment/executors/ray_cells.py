"""Workers of a sweep as actors of a Ray cluster, on this machine or on many (extra ``ray``)."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import current_process
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from masksearch.experiment.executors.crew import Died, Failed, Message, end_of
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.executors.worker import JobRunner, WorkerPlan
from masksearch.experiment.steps.dense import dense_folder
from masksearch.utils.errors import InputError, first_line

_CHECK_SECONDS = 5.0  # of silence, after which the nodes are counted
_STARTS = 10  # that may fail, such as on nodes that are removed


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("executor: ray is not installed; pip install 'masksearch[ray]'") from None
    return ray


@dataclass(frozen=True)
class Resources:
    """Number of CPUs, number of GPUs and GiB of memory that a Ray cluster has or that one run of a sweep needs."""

    cpus: int
    gpus: float
    memory: float

    def room(self, cell: "Resources") -> int:
        """Return how many runs of a sweep fit into these resources at once, if one run needs the resources ``cell``."""
        pairs = ((self.cpus, cell.cpus), (self.gpus, cell.gpus), (self.memory, cell.memory))
        return min(int(whole / part + 1e-9) for whole, part in pairs if part)

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.gpus:g} GPUs and {self.memory:.3g} GiB"


def cluster_resources(address: str, cpus: int) -> Resources:
    """Connect to the Ray cluster at ``address``, or start one with ``cpus`` CPUs here; return the cluster's resources.

    Raises
    ------
    InputError
        If Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address:
            options["address"] = address
        else:
            options |= {"num_cpus": cpus, "include_dashboard": False, "address": "local"}
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"executor: no Ray cluster at {address or 'this machine'}: {first_line(error)}") from None
    found = ray.cluster_resources()
    return Resources(int(found.get("CPU", 0)), float(found.get("GPU", 0)), found.get("memory", 0) / 2**30)


class RayCrew:
    """Ray actors that run the jobs of a sweep. All nodes must reach the sweep's folder under the same path or at a URL.

    Parameters
    ----------
    stop : bool
        Whether to stop Ray at the end: it was started for this sweep.
    """

    def __init__(self, plan: WorkerPlan, size: int, *, stop: bool) -> None:
        self.size, self._stop, self._ray = size, stop, _ray()
        self._plan = replace(plan, path=plan.path.resolve())
        actor = self._ray.remote(_Actor)
        # One thread runs jobs, one returns messages.
        self._actor = actor.options(
            num_cpus=plan.threads,
            num_gpus=plan.run.gpus_per_cell,
            memory=int(plan.run.memory_per_cell * 2**30) or None,
            max_restarts=0,
            max_concurrency=2,
        )
        self._workers: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._awaited: dict[Any, int] = {}  # reference of a start or of messages -> number of the worker
        self._jobs: dict[Any, int] = {}  # reference of a job's end -> number of the worker
        self._failed_starts = 0
        for number in range(size):
            self.replace(number)

    def is_ready(self, number: int) -> bool:
        """Return whether worker ``number`` has started; it needs a node of the cluster with enough free resources."""
        return number in self._ready

    def send(self, number: int, job: Job) -> None:
        """Send a job (some runs of a sweep) to worker ``number``. The worker must have no other job at that time."""
        self._jobs[self._workers[number].run.options(name=_name(job)).remote(job)] = number

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait until a busy worker sends a message or a new worker starts; yield (worker number, message) pairs.

        Raises
        ------
        InputError
            If the cluster has no node left, or workers can't start.
        """
        for number in busy.keys() - self._awaited.values():
            self._awaited[self._workers[number].messages.remote()] = number
        ended, _ = self._ray.wait([*self._awaited, *self._jobs], timeout=_CHECK_SECONDS)
        if not ended and not any(node["Alive"] for node in self._ray.nodes()):
            raise InputError("executor: the Ray cluster has no node left; run the same command again to continue")
        for reference in ended:
            if reference in self._jobs:
                number = self._jobs.pop(reference)
                try:
                    self._ray.get(reference)  # its last message was sent
                except self._ray.exceptions.RayTaskError as error:  # before it could send any
                    yield number, Failed(error)
                except self._ray.exceptions.RayError:
                    continue  # the worker died, and its messages end with an error, too
                continue
            number = self._awaited.pop(reference)
            try:
                messages = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                if number in busy:
                    yield number, Died(f"a Ray worker ended ({type(error).__name__})")
                else:
                    self._start_again(number, error)
                continue
            self._ready.add(number)
            for message in messages:
                yield number, message

    def _start_again(self, number: int, error: Exception) -> None:
        self._failed_starts += 1
        if self._failed_starts > _STARTS:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(f"executor: Ray workers can't start: {reason}")
        self.replace(number)

    def replace(self, number: int) -> None:
        """Start a new Ray actor, on any node with enough resources, to replace worker ``number``, which has died."""
        self._ready.discard(number)
        worker = self._actor.remote(f"actor{number}", self._plan, str(Path.cwd()), list(sys.path))
        self._workers[number] = worker
        self._awaited = {reference: of for reference, of in self._awaited.items() if of != number}
        self._awaited[worker.start.remote()] = number

    def close(self) -> None:
        """End all workers of a sweep. Also shut Ray down, if it was started for this sweep."""
        for worker in self._workers.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker, no_restart=True)
        if self._stop:
            self._ray.shutdown()


def _name(job: Job) -> str:
    """The name of a job in Ray's dashboard: its first cell, or the folder of the dense network."""
    return job.cells[0].label if job.cells else f"dense {dense_folder(job.users[0]).name}"


class _Actor:
    """A worker in a process of Ray. One thread runs jobs, another one returns their messages."""

    def __init__(self, name: str, plan: WorkerPlan, folder: str, paths: list[str]) -> None:
        current_process().name = name
        if os.path.isdir(folder):  # noqa: PTH112 (as os.chdir)
            os.chdir(folder)
        sys.path[:0] = [path for path in paths if path not in sys.path]
        self._messages: Queue[Message] = Queue()
        self._runner = JobRunner(plan, self._messages.put)

    def start(self) -> list[Message]:
        """Return an empty list; the answer of this Ray actor shows that the worker has started."""
        return []

    def messages(self) -> list[Message]:
        """Wait for messages of this worker's running job; return all messages that are there, at least one."""
        messages = [self._messages.get()]
        with suppress(Empty):
            while True:
                messages.append(self._messages.get_nowait())
        return messages

    def run(self, job: Job) -> None:
        """Run a job of a sweep in this Ray actor, and queue its messages; the last one says whether the job failed."""
        self._messages.put(end_of(self._runner, job))
