"""Workers of a sweep as actors of a Ray cluster, on this machine or on many (extra ``ray``)."""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from masksearch.experiment.executors.crew import Died, Done, Failed, Message
from masksearch.experiment.executors.jobs import Job
from masksearch.experiment.executors.worker import Event, JobRunner, WorkerPlan
from masksearch.utils.errors import InputError

__all__ = ["RayCrew", "cluster_cpus"]

_POLL_SECONDS = 0.2


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("executor: ray is not installed; pip install 'masksearch[ray]'") from None
    return ray


def cluster_cpus(address: str, cpus: int) -> int:
    """Connect to a Ray cluster, or start one with ``cpus`` CPUs on this machine; return its number of CPUs.

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
            reason = str(error).splitlines()[0]
            raise InputError(f"executor: no Ray cluster at {address or 'this machine'}: {reason}") from None
    return int(ray.cluster_resources().get("CPU", 0))


class RayCrew:
    """Ray actors that run the jobs of a sweep. All nodes reach the sweep's folder under the same path, or at a URL.

    Parameters
    ----------
    stop : bool
        Whether to stop Ray at the end: it was started for this sweep.
    """

    def __init__(self, plan: WorkerPlan, size: int, gpus_per_cell: float, *, stop: bool) -> None:
        self.size, self._stop, self._ray = size, stop, _ray()
        self._plan = replace(plan, path=plan.path.resolve())
        actor = self._ray.remote(_Actor)
        self._actor = actor.options(
            num_cpus=plan.threads, num_gpus=gpus_per_cell, max_restarts=0, max_concurrency=2, name=None
        )
        self._workers = [self._started() for _ in range(size)]
        self._running: dict[Any, int] = {}  # reference of a job's end -> number of the worker

    def _started(self) -> Any:
        return self._actor.remote(self._plan, str(Path.cwd()), list(sys.path))

    def send(self, number: int, job: Job) -> None:
        """Send a job (cells of a sweep to run) to worker ``number``, which must be free."""
        self._running[self._workers[number].run.remote(job)] = number

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait for busy workers; return at least one pair of worker number and message."""
        found = False
        while not found:
            ended, _ = self._ray.wait(list(self._running), timeout=_POLL_SECONDS)
            over = {self._running[reference]: reference for reference in ended}
            for number in busy:
                if number not in over:
                    try:
                        events = self._ray.get(self._workers[number].events.remote(), timeout=60)
                    except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                        continue  # its end is reported next
                    if events:
                        found = True
                        yield number, events
            for number, reference in over.items():
                found = True
                del self._running[reference]
                try:
                    events, message = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    yield number, Died(f"a Ray worker ended ({type(error).__name__})")
                    continue
                if events:
                    yield number, events
                yield number, message

    def replace(self, number: int) -> None:
        """Start a new Ray actor on any node, in the place of worker ``number``, which has died."""
        self._workers[number] = self._started()

    def close(self) -> None:
        """End all workers of a sweep, and Ray if it was started for the sweep."""
        for worker in self._workers:
            self._ray.kill(worker, no_restart=True)
        if self._stop:
            self._ray.shutdown()


class _Actor:
    """A worker in a process of Ray. One thread runs jobs, another one returns their events."""

    def __init__(self, plan: WorkerPlan, folder: str, paths: list[str]) -> None:
        if os.path.isdir(folder):  # noqa: PTH112 (as os.chdir)
            os.chdir(folder)
        sys.path[:0] = [path for path in paths if path not in sys.path]
        self._events: list[Event] = []
        self._runner = JobRunner(plan, self._add)

    def _add(self, events: list[Event]) -> None:
        self._events = [*self._events, *events]

    def events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def run(self, job: Job) -> tuple[list[Event], Message]:
        """Run a job; return the events that are left, and its end."""
        message: Message = Done()
        try:
            self._runner.run(job)
        except Exception as error:
            if not isinstance(error, InputError | OSError):
                error.add_note(traceback.format_exc())
            message = Failed(error)
        return self.events(), message
