"""Child processes that end with their parent, and start without running the user's script again."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from types import ModuleType

__all__ = ["CONTEXT", "main_hidden", "obey_parent"]

# A fork of a process that has used torch isn't safe. The server of forks only imports; each fork shares the imports.
CONTEXT = get_context("forkserver")


def obey_parent() -> None:
    """Make this child process ignore Ctrl-C, which the parent handles, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Context manager in which new processes don't run the user's script again, even without a ``__main__`` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
