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
    """Leave Ctrl-C to the parent process, and end this process when the parent has ended in any way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep a starting process from running the user's script, which may have no ``if __name__ == "__main__"``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
