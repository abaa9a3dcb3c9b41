"""Workers of a parallel scorer as actors of a Ray cluster, on this machine or on many (extra ``ray``)."""

import os
import sys
from typing import Any

import torch

from masksearch.core.problem_and_trials import Score
from masksearch.scoring.parallel.worker_messages import Died, Failed, Plan, Reply, Task, TaskScorer
from masksearch.utils.errors import InputError


class RayWorkers:
    """Ray actors that score masks, each with a copy of the scorer.

    They use the Ray that this process is connected to; without one, a local Ray is started, and stopped at the end.

    Raises
    ------
    InputError
        If Ray is not installed, or the cluster has too few free CPUs.
    """

    def __init__(self, plan: Plan) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("backend: ray is not installed; pip install 'masksearch[ray]'") from None
        self._ray: Any = ray
        needed = plan.workers * plan.threads
        self._stop = not ray.is_initialized()
        if self._stop:
            cpus = max(os.cpu_count() or 1, needed)
            self._ray.init(
                address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < needed:
            raise InputError(
                f"workers: {plan.workers} with {plan.threads} CPU threads each, and the Ray cluster has {cpus} CPUs; "
                "give fewer workers"
            )
        self._actor = ray.remote(_Actor).options(num_cpus=plan.threads, max_restarts=0)
        # In a list, so that an actor sets its path before it loads classes of the user.
        self._arguments = [ray.put((plan.scorer, plan.space, plan.fresh))], plan.threads, list(sys.path)
        self._workers: list[Any] = [self._actor.remote(*self._arguments) for _ in range(plan.workers)]
        # Reference of what a worker returns next -> its number.
        self._running: dict[Any, int] = {worker.ready.remote(): number for number, worker in enumerate(self._workers)}

    def send(self, number: int, task: Task) -> None:
        """Send a mask to worker ``number``, which must be free."""
        self._running[self._workers[number].score.remote(task)] = number

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for any worker's reply; return (worker's number, reply). A worker's first reply is None: it is ready."""
        [done], _ = self._ray.wait(list(self._running), num_returns=1)
        number = self._running.pop(done)
        try:
            reply: Reply | None = self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            return number, Died(f"a Ray actor ended ({str(error).splitlines()[0]})")
        except self._ray.exceptions.RayError as error:
            return number, Failed.of(error)
        return number, reply

    def replace(self, number: int) -> None:
        """Start a new actor to replace worker ``number``, which has died."""
        self._workers[number] = self._actor.remote(*self._arguments)
        self._running[self._workers[number].ready.remote()] = number

    def close(self) -> None:
        """End all actors, even while they are scoring masks."""
        for worker in self._workers:
            self._ray.kill(worker)
        if self._stop:
            self._ray.shutdown()


class _Actor:
    """A worker in its own process of the cluster."""

    def __init__(self, payload: list[Any], threads: int, path: list[str]) -> None:
        import ray

        sys.path[:] = path
        torch.set_num_threads(threads)
        self._failed: Failed | None = None
        try:
            self._scorer = TaskScorer(*ray.get(payload[0]))
        except Exception as error:
            self._failed = Failed.of(error)

    def ready(self) -> Failed | None:
        """Return None if this Ray worker has loaded its scorer; otherwise a message about the error."""
        return self._failed

    def score(self, task: Task) -> Score | Failed:
        """Return the score of a mask; if the scorer raises an exception, return a message about the exception."""
        return self._scorer.score(task)
