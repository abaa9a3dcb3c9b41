"""Child processes with a pipe: they end with their parent, and start without running the user's script again."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from threading import Thread
from types import ModuleType
from typing import Any

# A fork of a process that has used torch isn't safe. The server of forks only imports; each fork shares the imports.
_CONTEXT = get_context("forkserver")


@dataclass(frozen=True)
class Ended:
    """Exit code of a child process that has ended; :meth:`ChildProcess.receive` returns it in place of a message."""

    code: int | None


class ChildProcess:
    """Child process that runs ``target(pipe, *arguments)`` and exchanges messages with its parent through the pipe.

    Parameters
    ----------
    preloaded : sequence of str
        Modules that are imported once for all child processes.
    name : str, optional
        Name of the process.
    runs_main : bool
        Whether the process imports the user's script, whose classes it then has.
    """

    def __init__(
        self,
        target: Callable[..., None],
        arguments: Sequence[object] = (),
        *,
        preloaded: Sequence[str],
        name: str | None = None,
        runs_main: bool = False,
    ) -> None:
        _CONTEXT.set_forkserver_preload(list(preloaded))
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_run, args=(target, theirs, *arguments), name=name, daemon=True)
        with nullcontext() if runs_main else _main_hidden():
            self.process.start()
        theirs.close()

    def send(self, message: object) -> None:
        """Send an object to the child process; if the process has ended, only :meth:`receive` reports it."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def receive(self) -> Any:
        """Wait for and return the child process's next message; if the process has ended, return an :class:`Ended`."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Ended(self.process.exitcode)


def end_processes(children: Iterable[ChildProcess]) -> None:
    """End child processes, even while they are working, and close the pipes to them."""
    children = list(children)
    for child in children:
        child.process.terminate()
    for child in children:
        child.process.join()
        child.pipe.close()


def _run(target: Callable[..., None], pipe: "Connection[Any, Any]", *arguments: object) -> None:
    """Run ``target`` in a child process, which leaves Ctrl-C to its parent and ends when the parent ends in any way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    target(pipe, *arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Context manager in which new processes don't run the user's script again, even without a ``__main__`` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
