"""Workers of a parallel scorer as processes of this machine, each with a pipe; with several GPUs, each with one."""

import os
import pickle
from contextlib import nullcontext
from multiprocessing import connection, current_process
from multiprocessing.connection import Connection
from typing import Any

import torch

from masksearch.scoring.parallel.tasks import Died, Failed, Plan, Reply, Task, TaskScorer
from masksearch.utils.child_processes import CONTEXT, main_hidden, obey_parent
from masksearch.utils.errors import InputError

__all__ = ["ProcessWorkers"]

_PRELOADED = ["masksearch.scoring.parallel.processes", "masksearch.scoring.scorer"]
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
        self._workers: list[_Worker] = []
        self._waiting: set[int] = set()  # numbers of the workers that start or score
        try:
            for number in range(plan.workers):
                self._workers.append(_Worker(self._arguments(number), self._in_main))
                self._waiting.add(number)
        except BaseException:
            self.close()
            raise

    def _arguments(self, number: int) -> tuple[bytes, int, str | None]:
        return self._payload, self._threads, gpus_of(number, torch.cuda.device_count(), os.environ.get(_VISIBLE))

    def send(self, number: int, task: Task) -> None:
        """Send a mask to worker ``number``, which must be free. If the worker has died, :meth:`wait` reports it."""
        self._waiting.add(number)
        self._workers[number].send(task)

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for any worker's reply; return (worker's number, reply). The first reply is None: ready to score."""
        pipes = {self._workers[number].pipe: number for number in self._waiting}
        number = pipes[connection.wait(list(pipes))[0]]  # type: ignore[index]
        self._waiting.remove(number)
        return number, self._workers[number].receive(self._in_main)

    def replace(self, number: int) -> None:
        """Start a new worker process to replace worker ``number``, which has died."""
        self._workers[number] = _Worker(self._arguments(number), self._in_main)
        self._waiting.add(number)

    def close(self) -> None:
        """End all worker processes, even while they are scoring masks."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()


class _Worker:
    """A started process and the pipe to it."""

    def __init__(self, arguments: tuple[bytes, int, str | None], in_main: bool) -> None:
        CONTEXT.set_forkserver_preload(_PRELOADED)
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_work, args=(theirs,), daemon=True)
        with nullcontext() if in_main else main_hidden():
            self.process.start()
        theirs.close()
        self.send(arguments)

    def send(self, message: object) -> None:
        try:
            self.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self, in_main: bool) -> Reply | None:
        """Return the worker's next reply: first None, when it is ready to score, then a score or a failure."""
        try:
            reply: Reply | None = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            guard = " (begin the search under the line if __name__ == '__main__':)" if in_main and code == 1 else ""
            return Died(f"a process ended with code {code}{guard}")
        return reply


def gpus_of(number: int, n_gpus: int, visible: str | None) -> str | None:
    """Return ``CUDA_VISIBLE_DEVICES`` for a worker: the list of GPUs, rotated so that workers use different GPUs.

    With n GPUs, worker ``number`` gets their list rotated by its number. None: the list stays as it is.
    """
    if n_gpus < 2:
        return None
    names = (visible or ",".join(map(str, range(n_gpus)))).split(",")
    first = number % n_gpus
    return ",".join(names[first:] + names[:first])


def _work(pipe: "Connection[Any, Any]") -> None:
    """Receive masks through ``pipe`` and send their scores, until the pipe is closed."""
    obey_parent()
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
