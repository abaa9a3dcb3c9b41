"""The executor of several processes: a free worker takes the next cells, or the next dense network."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from pathlib import Path
from types import ModuleType

from masksearch.experiment.cell import Cell
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors.worker import Event, Job, work
from masksearch.experiment.group import Group
from masksearch.experiment.identity import short_hash
from masksearch.experiment.machine import Plan
from masksearch.experiment.settings.combined import RunSettings
from masksearch.utils.errors import InputError

__all__ = ["run_in_processes"]

# A fork of a process that has used torch isn't safe. The server of forks only imports; each fork shares the imports.
_CONTEXT = get_context("forkserver")
_PRELOADED = ["masksearch.experiment.executors.worker", "torch._dynamo"]


def run_in_processes(
    groups: Iterable[Group], path: Path, run: RunSettings, plan: Plan, callback: SweepCallback
) -> None:
    """Run the cells of all groups in several processes.

    The caller holds the lock of the folder ``path``, which gets the cells' folders.

    One worker trains a dense network; then all workers share its cells. Controls follow the cell whose mask they take.
    An exception of a cell or of the callback, or Ctrl-C, ends all workers at once; finished cells are kept.

    Raises
    ------
    InputError
        Also if a worker was killed.
    """
    crew: list[_Worker] = []
    watchers = [callback.beside(number) for number in range(plan.workers)]
    try:
        crew += (_Worker(run, plan.threads, path) for _ in range(plan.workers))
        schedule = _Schedule(groups, plan.workers)
        busy: dict[int, Job] = {}
        while True:
            for number in range(plan.workers):
                if number not in busy and (job := schedule.next()) is not None:
                    crew[number].send(job)
                    busy[number] = job
            if not busy:
                return
            pipes = {crew[number].pipe: number for number in busy}
            for pipe in connection.wait(list(pipes)):
                number = pipes[pipe]  # type: ignore[index]
                events = crew[number].receive()
                for hook, arguments in events or ():
                    getattr(watchers[number], hook)(*arguments)
                if events is None:
                    schedule.finished(busy.pop(number))
    finally:
        for worker in crew:
            worker.process.terminate()  # idle, or of no use any more
        for worker in crew:
            worker.process.join()


class _Schedule:
    """The order of jobs: cells of trained networks first; the next dense network when few cells wait."""

    def __init__(self, groups: Iterable[Group], workers: int) -> None:
        self._workers = workers
        self._dense: deque[Job] = deque()
        self._cells: dict[int, list[Job]] = {}  # by the identity of the job that trains their dense network
        self._ready: deque[Job] = deque()
        for group in groups:
            job = Job(group.users, [])
            self._dense.append(job)
            self._cells[id(job)] = [Job(group.users, cells) for cells in _chains(group.to_do)]

    def next(self) -> Job | None:
        """Return the job for a free worker; None if there is none now."""
        if self._dense and len(self._ready) < self._workers:
            return self._dense.popleft()
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job) -> None:
        """Release the cells that have waited for a job."""
        self._ready += self._cells.pop(id(job), [])


def _chains(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells that must run in order: a control after its cell, and cells that share one search of a front."""
    chains: dict[str, list[Cell]] = {}
    for cell in cells:
        chains.setdefault(short_hash(cell.front_identity) if cell.front else cell.treated.folder, []).append(cell)
    return list(chains.values())


class _Worker:
    """A started worker and the pipe to it."""

    def __init__(self, run: RunSettings, threads: int, path: Path) -> None:
        _CONTEXT.set_forkserver_preload(_PRELOADED)
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=work, args=(theirs, run, threads, path), daemon=True)
        with _main_hidden():
            self.process.start()
        theirs.close()

    def send(self, job: Job) -> None:
        """Send a job, or raise an InputError if the worker was killed."""
        try:
            self.pipe.send(job)
        except BrokenPipeError:
            raise self._killed() from None

    def receive(self) -> list[Event] | None:
        """Return the events that the worker sends, or None for the end of its job; raise what ended the job."""
        try:
            message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._killed() from None
        if isinstance(message, Exception):
            raise message
        return message

    def _killed(self) -> InputError:
        self.process.join()
        return InputError(
            f"workers: a process ended with code {self.process.exitcode}, perhaps for lack of memory; what was "
            "finished is kept; the same command goes on from here, with --workers 1 in one process"
        )


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep a starting process from running the user's script, which may have no ``if __name__ == "__main__"``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
