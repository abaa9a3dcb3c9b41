"""Run folders: one process at a time, settings compared on reopening, states that survive a kill, free names."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

from masksearch.experiment.settings.combined import Settings
from masksearch.experiment.store.object_storage import storage_at
from masksearch.utils import locks
from masksearch.utils.errors import InputError
from masksearch.utils.files import is_folder_name, read_json, remove_litter, write_json
from masksearch.utils.integrity import refusing

__all__ = [
    "CHECKPOINTS",
    "STAGES",
    "SWEEP_REMEDY",
    "RunFolder",
    "folder_remedy",
    "free_name",
    "is_done",
    "locked",
    "read_plan",
    "read_stage",
    "remove_checkpoints",
    "renamed",
]

CHECKPOINTS = ("retraining.safetensors", "supermask.safetensors")
"""File names of the checkpoints in the folders of cells."""

STAGES = ("training", "search", "retrain", "done")
"""Steps of a run in ``status.json``: of a dense network, of a cell, and the last one of both."""

SWEEP_REMEDY = "remove this file and run the same command again, which keeps finished cells"
"""What to do about a damaged ``sweep.json``."""


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
        raise InputError(f"{status} names the step {stage[:40]!r}, which there is not; {folder_remedy(path)}")
    return stage


def read_plan(path: Path) -> dict[str, Any]:
    """Return the content of a sweep's ``sweep.json``: settings, machine, and folders of runs and dense networks.

    Raises
    ------
    InputError
        If the file is damaged, lacks an entry, has an entry of another type, or names a folder outside of the sweep.
    """
    file = path / "sweep.json"
    plan = read_json(file, {"settings": list, "machine": dict, "cells": list, "dense": dict}, SWEEP_REMEDY)
    for name, kind, values in (
        ("settings", dict, plan["settings"]),
        ("cells", str, plan["cells"]),
        ("machine", str, plan["machine"].values()),
        ("dense", int, plan["dense"].values()),
    ):
        if not all(type(value) is kind for value in values):
            raise InputError(f"{file} has an entry of another type than {kind.__name__} in {name!r}; {SWEEP_REMEDY}")
    if not plan["settings"] or "masksearch" not in plan["machine"]:
        raise InputError(f"{file} has no settings or no version; {SWEEP_REMEDY}")
    for name in plan["cells"]:
        if not is_folder_name(name):
            raise InputError(f"{file} has the cell {name[:80]!r}, which is no folder name; {SWEEP_REMEDY}")
    plan["dense"] = {os.path.normpath(path / name): seed for name, seed in plan["dense"].items()}
    return dict(plan)


def folder_remedy(path: Path) -> str:
    """Return the advice for errors about a damaged file in a run's folder: remove the folder and run again."""
    return f"remove the folder {path} and run again"


def remove_checkpoints(path: Path, *patterns: str) -> None:
    """Remove checkpoints whose names match ``patterns``, with their lock files, from a folder and its subfolders."""
    for folder, _, names in os.walk(path):
        for name in names:
            if any(fnmatch(name.removesuffix(".lock"), pattern) for pattern in patterns):
                (Path(folder) / name).unlink(missing_ok=True)


def free_name(parts: Sequence[Settings]) -> str:
    """Return the first of NAME, NAME-2, NAME-3, ... whose folder has no sweep with other settings.

    Where and how a sweep runs (``run``) is no difference, so that a sweep may be continued on another device.
    """
    run = parts[0].run
    wanted = [_compared(part.as_dict()) for part in parts]
    for number in count(1):
        name = run.name if number == 1 else f"{run.name}-{number}"
        file = run.folder / name / "sweep.json"
        if run.is_remote:
            storage_at(run.runs).copy(f"{name}/sweep.json", file)
        if not file.exists():
            return name
        plan = read_json(file, {"settings": list}, SWEEP_REMEDY)
        with refusing(file, SWEEP_REMEDY):
            if wanted in _settings(plan):
                return name
    raise AssertionError("there is always a free name")


def _settings(sweep: Mapping[str, Any]) -> list[list[dict[str, object]]]:
    """The settings of a sweep's parts as they were given, and as they are for the task of the data."""
    return [[_compared(part) for part in sweep[name]] for name in ("given", "settings") if name in sweep]


def renamed(parts: Sequence[Settings], name: str) -> list[Settings]:
    """Return the settings of a sweep's parts with another name for the sweep."""
    return [replace(part, run=replace(part.run, name=name)) for part in parts]


def _compared(part: Mapping[str, object]) -> dict[str, object]:
    """The settings that decide results, as JSON has them."""
    return json.loads(json.dumps({group: values for group, values in part.items() if group != "run"}))
