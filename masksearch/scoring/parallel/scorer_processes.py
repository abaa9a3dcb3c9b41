"""Workers of a parallel scorer as processes of this machine, each with a pipe; with several GPUs, each with one."""

import os
import pickle
from multiprocessing import connection, current_process
from multiprocessing.connection import Connection
from typing import Any

import torch

from masksearch.scoring.parallel.worker_messages import Died, Failed, Plan, Reply, Task, TaskScorer
from masksearch.utils.child_processes import ChildProcess, Ended, end_processes
from masksearch.utils.errors import InputError

_PRELOADED = ["masksearch.scoring.parallel.scorer_processes", "masksearch.scoring.scorer"]
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class ProcessWorkers:
    """Worker processes that score masks, each with a copy of the scorer; they end when the main process ends.

    Raises
    ------
    InputError
        If the scorer can't be pickled, or this process may not start others.
    """

    def __init__(self, plan: Plan) -> None:
        if current_process().daemon:
            raise InputError(
                "scorer: several workers in a process that is itself a worker, which can't start processes; search in "
                "the main process"
            )
        try:
            self._payload = pickle.dumps((plan.scorer, plan.space, plan.fresh), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # of any class of the user
            raise InputError(
                f"scorer: it can't be sent to worker processes ({error}); define its classes and functions at the top "
                "level of a module, or give backend='coroutines' or 'ray'"
            ) from None
        self._in_main = b"__main__" in self._payload
        self._threads = plan.threads
        self._workers: list[ChildProcess] = []
        self._waiting: set[int] = set()  # numbers of the workers that start or score
        try:
            for number in range(plan.workers):
                self._workers.append(self._started(number))
                self._waiting.add(number)
        except BaseException:
            self.close()
            raise

    def _started(self, number: int) -> ChildProcess:
        worker = ChildProcess(_work, preloaded=_PRELOADED, runs_main=self._in_main)
        gpus = gpus_of(number, torch.cuda.device_count(), os.environ.get(_VISIBLE))
        worker.send((self._payload, self._threads, gpus))
        return worker

    def send(self, number: int, task: Task) -> None:
        """Send a mask to worker ``number``, which must be free. If the worker has died, :meth:`wait` reports it."""
        self._waiting.add(number)
        self._workers[number].send(task)

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for any worker's reply; return (worker's number, reply). A worker's first reply is None: it is ready."""
        pipes = {self._workers[number].pipe: number for number in self._waiting}
        number = pipes[connection.wait(list(pipes))[0]]  # type: ignore[index]
        self._waiting.remove(number)
        reply: Reply | Ended | None = self._workers[number].receive()
        if not isinstance(reply, Ended):
            return number, reply
        guard = " (begin the search under the line if __name__ == '__main__':)" * (self._in_main and reply.code == 1)
        return number, Died(f"a process ended with code {reply.code}{guard}")

    def replace(self, number: int) -> None:
        """Start a new worker process that takes the place of worker ``number``, which has died."""
        self._workers[number] = self._started(number)
        self._waiting.add(number)

    def close(self) -> None:
        """End all worker processes, even while they are scoring masks."""
        end_processes(self._workers)


def gpus_of(number: int, n_gpus: int, visible: str | None) -> str | None:
    """Return ``CUDA_VISIBLE_DEVICES`` for a worker, so that workers use different GPUs; None: leave it unchanged.

    The list of GPUs is rotated by the worker's number. The result is None with fewer than two GPUs.

    So workers use different GPUs. None: the variable stays unchanged.
    """
    if n_gpus < 2:
        return None
    names = (visible or ",".join(map(str, range(n_gpus)))).split(",")
    first = number % n_gpus
    return ",".join(names[first:] + names[:first])


def _work(pipe: "Connection[Any, Any]") -> None:
    """Receive masks through ``pipe`` and send their scores, until the pipe is closed."""
    try:
        payload, threads, gpus = pipe.recv()
        if gpus is not None:
            os.environ[_VISIBLE] = gpus
        torch.set_num_threads(threads)
        try:
            scorer = TaskScorer(*pickle.loads(payload))
        except Exception as error:
            pipe.send(Failed.of(error))
            return
        pipe.send(None)
        while True:
            pipe.send(scorer.score(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
