"""Logs of worker processes: ``log.txt`` in the folder of the cell or dense network that a worker runs."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOG", "logged", "remove_empty_log"]

LOG = "log.txt"
"""Name of the file with everything that workers printed while they ran a cell."""


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Context manager that sends what this process prints, also from C libraries, to ``log.txt`` in ``folder``.

    Every warning is printed at least once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _flush()
    before = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    try:
        with warnings.catch_warnings():  # forgets which warnings were printed
            yield
    finally:
        _flush()
        for number, handle in zip((1, 2), before, strict=True):
            os.dup2(handle, number)
            os.close(handle)


def remove_empty_log(folder: Path) -> None:
    """Remove ``log.txt`` from a run's folder if the file is empty; call this only while no worker executes the run."""
    if not (folder / LOG).stat().st_size:
        (folder / LOG).unlink()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
