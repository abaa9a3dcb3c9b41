"""Run folders: one process at a time, settings compared on reopening, states that survive a kill, free names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from masksearch.experiment.settings.combined import Settings
from masksearch.utils import locks
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json

__all__ = ["CHECKPOINTS", "RunFolder", "free_name", "is_done", "locked", "remove_checkpoints", "renamed"]

CHECKPOINTS = ("retraining.safetensors", "supermask.safetensors")
"""Names of the checkpoints in the folders of cells."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock a run folder against other threads and processes, as :func:`masksearch.utils.locks.locked` does with a file.

    Raises
    ------
    InputError
        If another process holds the folder and ``wait`` is False, or if the folder can't be written to.
    """
    with locks.locked(folder / ".lock", f"run folder {folder}", "wait for it, or use another --name", wait=wait):
        yield


class RunFolder:
    """Folder of one run (a cell, a dense network or a search), with its settings and its status.

    Parameters
    ----------
    identity : dict
        What decides the run's result, as plain values. A folder with another identity is refused: then the hash in its
        name has collided, or folders were moved by hand.
    settings : dict, optional
        All settings that decide the result, those at their default included, for readers of the folder.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        file = path / "settings.json"
        as_read = json.loads(json.dumps(identity))  # a tuple reads back as a list
        if file.exists() and read_json(file).get("identity") != as_read:
            raise InputError(f"run folder {path}: its settings.json belongs to another run; move the folder away")
        if not file.exists():
            write_json(file, {"identity": identity, "settings": settings or {}})

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def set_status(self, step: str) -> None:
        """Write the name of the step that begins, or ``done``, to ``status.json``."""
        write_json(self.path / "status.json", {"stage": step})

    @property
    def is_done(self) -> bool:
        """Whether the run is finished."""
        return is_done(self.path)


def is_done(path: Path) -> bool:
    """Return whether the folder ``path`` holds a finished run."""
    status = path / "status.json"
    return status.exists() and read_json(status)["stage"] == "done"


def remove_checkpoints(path: Path, *patterns: str) -> None:
    """Remove checkpoints of these names or patterns, and their lock files, from a folder and all folders in it."""
    for pattern in patterns:
        for file in [*path.rglob(pattern), *path.rglob(f"{pattern}.lock")]:
            file.unlink(missing_ok=True)


def free_name(parts: Sequence[Settings]) -> str:
    """Return a sweep name whose folder holds no sweep with other settings: NAME, NAME-2, NAME-3, ...

    Where and how a sweep runs (``run``) is no difference, so that a sweep may be continued on another device.
    """
    run = parts[0].run
    wanted = [_compared(part.as_dict()) for part in parts]
    for number in count(1):
        name = run.name if number == 1 else f"{run.name}-{number}"
        file = Path(run.runs) / name / "sweep.json"
        if not file.exists() or wanted in _settings(read_json(file)):
            return name
    raise AssertionError("there is always a free name")


def _settings(sweep: Mapping[str, Any]) -> list[list[dict[str, object]]]:
    """The settings of a sweep's parts as they were given, and as they are for the task of the data."""
    return [[_compared(part) for part in sweep[name]] for name in ("given", "settings") if name in sweep]


def renamed(parts: Sequence[Settings], name: str) -> list[Settings]:
    """Return the parts of a sweep with another name of the sweep."""
    return [replace(part, run=replace(part.run, name=name)) for part in parts]


def _compared(part: dict[str, object]) -> dict[str, object]:
    """The settings that decide results, as JSON has them."""
    return json.loads(json.dumps({group: values for group, values in part.items() if group != "run"}))
