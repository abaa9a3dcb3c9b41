"""Run folders: lock, settings compared on reopening, status, and the error that ended a cell."""

import json
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from masksearch.experiment.cell import Cell
from masksearch.utils import locks
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, remove_litter, write_bytes, write_json
from masksearch.utils.integrity import folder_remedy

CHECKPOINTS = ("retraining.safetensors", "supermask.safetensors")
"""File names of the checkpoints in the folders of cells."""

STAGES = ("training", "search", "retrain", "done")
"""Steps of a run in ``status.json``: of a dense network, of a cell, and the last one of both."""

FAILURE_FILES = _FAILURE, _TRACE = ("failed.json", "failed.txt")
"""File names of the error that ended a cell: as one sentence, and as a traceback."""


@contextmanager
def locked(folder: Path, wait: bool = False, *, reentrant: bool = False) -> Iterator[None]:
    """Context manager that locks a run's folder against other threads and processes.

    Raises
    ------
    InputError
        If another process holds the folder and ``wait`` is False, if the caller's thread holds it and ``reentrant`` is
        False, or if the folder can't be written to.
    """
    subject, advice = f"run folder {folder}", "wait for it, or use another --name"
    with locks.locked(folder / ".lock", subject, advice, wait=wait, reentrant=reentrant):
        yield


class RunFolder:
    """Folder of one run (a method, sparsity and seed, a dense network, or a search), with its settings and status.

    Parameters
    ----------
    identity : dict
        What decides the run's result, as plain values. A folder with another identity is refused: then the hash in its
        name has collided, or folders were moved by hand.
    settings : dict, optional
        All settings that decide the result, those at their default included, for readers of the folder.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.identity = path, dict(identity)
        file = path / "settings.json"
        remove_litter(path, below=True)
        as_read = json.loads(json.dumps(identity))  # a tuple reads back as a list
        if file.exists() and read_json(file, {"identity": dict}, folder_remedy(path))["identity"] != as_read:
            raise InputError(f"run folder {path}: its settings.json belongs to another run; move the folder away")
        if not file.exists():
            write_json(file, {"identity": identity, "settings": settings or {}})

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def set_status(self, step: str) -> None:
        """Write a run's current step, such as ``search`` or ``done``, to its ``status.json``."""
        write_json(self.path / "status.json", {"stage": step})

    @property
    def is_done(self) -> bool:
        """Whether the run in this folder is finished."""
        return is_done(self.path)


def is_done(path: Path) -> bool:
    """Return whether the folder ``path`` has a finished run (of a sweep, of a dense training, or of a search).

    Raises
    ------
    InputError
        If its ``status.json`` is damaged or names an unknown step.
    """
    return read_stage(path) == "done"


def read_stage(path: Path) -> str | None:
    """Return a run's present step, such as ``search`` or ``done``, from its folder; None if it has not begun.

    Raises
    ------
    InputError
        If the file is damaged or names an unknown step.
    """
    status = path / "status.json"
    if not status.exists():
        return None
    stage = str(read_json(status, {"stage": str}, folder_remedy(path))["stage"])
    if stage not in STAGES:
        raise InputError(f"{status} has the unknown step {stage[:40]!r}; {folder_remedy(path)}")
    return stage


def remove_checkpoints(path: Path, *patterns: str) -> None:
    """Remove checkpoints whose names match ``patterns``, with their lock files, from a folder and its subfolders."""
    for folder, _, names in os.walk(path):
        for name in names:
            if any(fnmatch(name.removesuffix(".lock"), pattern) for pattern in patterns):
                (Path(folder) / name).unlink(missing_ok=True)


# Errors of cells: one sentence per failed cell; the other cells continue.


def record_failure(path: Path, cell: Cell, error: Exception) -> str:
    """Write the error that ended a run of a sweep (cell) to the run's folder; return the error as one sentence.

    Of errors that are not an :class:`InputError`, the traceback is written beside it.
    """
    folder = path / cell.folder
    sentence = str(error)
    if not isinstance(error, InputError):
        about = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        sentence = f"{about} (see {folder / _TRACE})"
        write_bytes(folder / _TRACE, "".join(traceback.format_exception(error)).encode())
    write_json(folder / _FAILURE, {"cell": cell.label, "error": sentence})
    return sentence


def clear_failure(folder: Path) -> None:
    """Remove the error that an earlier attempt left in the folder of a run."""
    for name in (_FAILURE, _TRACE):
        (folder / name).unlink(missing_ok=True)


def failures_of(folders: Iterable[Path]) -> dict[str, str]:
    """Return {name of a failed run: its error in one sentence}, read from the folders of a sweep's runs."""
    found = {}
    for folder in folders:
        if (folder / _FAILURE).exists():
            content = read_json(folder / _FAILURE)
            found[str(content["cell"])] = str(content["error"])
    return found
