"""File locks: only one process, and only one thread, works on a folder or a file at a time."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from masksearch.utils.errors import InputError


class _Held(threading.local):
    """The lock files that this thread holds."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


_HELD = _Held()


@contextmanager
def locked(path: Path, subject: str, advice: str, *, wait: bool = False, reentrant: bool = False) -> Iterator[None]:
    """Context manager that holds a lock file, so that no other process or thread works on what the file protects.

    The system releases the lock when the process ends, even if the process is killed. The lock file is not removed,
    since another process may have opened it already.

    Parameters
    ----------
    path : Path
        The lock file; its folder is made if it doesn't exist.
    subject : str
        What is locked, for error messages: ``"run folder runs/x"``.
    advice : str
        What to do if the lock is held, for error messages.
    wait : bool
        Wait until another process or thread releases the lock, instead of raising an error; a line on stderr says for
        which process.
    reentrant : bool
        Accept that the caller's thread holds the lock already, as in a search in a folder that a sweep has locked.

    Raises
    ------
    InputError
        If the lock is held and ``wait`` and ``reentrant`` don't apply, or if the lock file can't be written.
    """
    refused = InputError(f"{subject}: another process is working in it; {advice}")
    lock_file = path.resolve()
    if lock_file in _HELD.paths:
        if not reentrant:
            raise refused
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = _holder(lock_file)
            if not wait:
                raise InputError(f"{refused} ({holder})" if holder else str(refused)) from None
            say(f"masksearch: waiting for {subject}, in which {holder or 'another process'} works")
            lock.acquire()
    except OSError as error:
        raise InputError(f"{subject}: can't be written to ({error.strerror})") from None
    with suppress(OSError):
        lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    _HELD.paths.add(lock_file)
    try:
        yield
    finally:
        _HELD.paths.discard(lock_file)
        lock.release()


def _holder(lock_file: Path) -> str:
    """The process that holds a lock, as it has written itself into the file; empty if the file does not say."""
    try:
        text = lock_file.read_bytes()[:200].decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return text if text.startswith("process ") and text.isprintable() else ""


def say(text: str) -> None:
    """Print ``text`` as a line on standard error; do nothing if the process has no standard error."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
