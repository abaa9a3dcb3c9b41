"""Locks on files: only one process, and only one thread, works on a folder or a file at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from masksearch.utils.errors import InputError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, subject: str, advice: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``. The system releases it when the process ends, even if the process is killed.

    The thread that holds a lock may take it again: a search in the folder of a sweep that holds the folder's lock.
    The lock file stays when the lock is released, since a second process may already wait for it.

    Parameters
    ----------
    path : Path
        The lock file; its folder is made if it doesn't exist.
    subject : str
        What is locked, for error messages: ``"run folder runs/x"``.
    advice : str
        What to do if another process holds the lock, for the error message.
    wait : bool
        Wait until another process or thread releases the lock, instead of raising an error.

    Raises
    ------
    InputError
        If another process or thread holds the lock and ``wait`` is False, or if the lock file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.resolve(), is_singleton=True)  # one object per path, so that a thread can take it twice
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InputError(f"{subject}: another process is working in it; {advice}") from None
    except OSError as error:
        raise InputError(f"{subject}: can't be written to ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
