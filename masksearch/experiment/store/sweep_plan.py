"""The plan of a sweep, ``sweep.json`` in its folder, and free names of sweeps."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from masksearch.experiment.settings.all_settings import Settings
from masksearch.experiment.store.object_storage import storage_at
from masksearch.utils.errors import InputError
from masksearch.utils.files import is_folder_name, read_json, write_json
from masksearch.utils.integrity import refusing

_Groups = dict[str, dict[str, object]]

_REMEDY = "remove this file and run the same command again, which keeps finished cells"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Plan of a sweep, stored as ``sweep.json``: settings, machine, and the folders of its runs and dense networks."""

    settings: list[dict[str, Any]]  # of the parts, for the task of the data
    given: list[dict[str, Any]] | None = None  # settings as the user gave them; None: they are the same
    machine: dict[str, str]
    cells: list[str]  # names of folders
    dense: dict[str, int]  # folder of each dense network -> its seed

    def save(self, path: Path) -> None:
        """Write the plan to ``sweep.json`` in the sweep's folder ``path``."""
        write_json(path / "sweep.json", {name: value for name, value in asdict(self).items() if value is not None})

    def dense_folders(self, seed: int) -> list[Path]:
        """Return the folders of those of the sweep's dense networks that were trained with ``seed``."""
        return [Path(folder) for folder, own in self.dense.items() if own == seed]


def read_plan(path: Path) -> SweepPlan:
    """Return the SweepPlan in ``sweep.json`` of the folder ``path``; paths of dense networks are normalised.

    Raises
    ------
    InputError
        If the file is damaged, lacks an entry, has an entry of another type, or names a folder outside of the sweep.
    """
    file = path / "sweep.json"
    content = read_json(file, {"settings": list, "machine": dict, "cells": list, "dense": dict}, _REMEDY)
    with refusing(file, _REMEDY):
        plan = msgspec.convert(content, SweepPlan)
    if not plan.settings or "masksearch" not in plan.machine:
        raise InputError(f"{file} has no settings or no version; {_REMEDY}")
    for name in plan.cells:
        if not is_folder_name(name):
            raise InputError(f"{file} has the cell {name[:80]!r}, which is no folder name; {_REMEDY}")
    return replace(plan, dense={os.path.normpath(path / name): seed for name, seed in plan.dense.items()})


def free_name(parts: Sequence[Settings]) -> str:
    """Return the first of NAME, NAME-2, ... whose folder is unused or holds a sweep with the same settings.

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
        plan = read_json(file, {"settings": list}, _REMEDY)
        with refusing(file, _REMEDY):
            if wanted in _settings(plan):
                return name
    raise AssertionError("there is always a free name")


def differing_settings(path: Path, parts: Sequence[Settings]) -> list[str]:
    """Return names of settings, as ``search.warm_start``, in which a sweep differs from the one saved in a folder."""
    file = path / "sweep.json"
    saved = _settings(read_json(file, {"settings": list}, _REMEDY))[0]
    found = []
    for before, now in zip(saved, (_compared(part.as_dict()) for part in parts), strict=False):
        for group in {**before, **now}:
            one, other = before.get(group, {}), now.get(group, {})
            found += [f"{group}.{name}" for name in {**one, **other} if one.get(name) != other.get(name)]
    return list(dict.fromkeys(found))


def _settings(sweep: Mapping[str, Any]) -> list[list[_Groups]]:
    """Return the settings of a sweep's parts as the user gave them, and for the task of the data.

    Settings that the version that wrote the sweep did not have get their defaults.
    """
    usual = Settings().as_dict()
    return [
        [_compared({name: usual.get(name, {}) | group for name, group in part.items()}) for part in sweep[kind]]
        for kind in ("given", "settings")
        if kind in sweep
    ]


def renamed(parts: Sequence[Settings], name: str) -> list[Settings]:
    """Return copies of a sweep's settings in which the sweep is called ``name``."""
    return [replace(part, run=replace(part.run, name=name)) for part in parts]


def _compared(part: Mapping[str, Mapping[str, object]]) -> _Groups:
    """Return the settings that decide results, as JSON has them."""
    plain: _Groups = json.loads(json.dumps({group: values for group, values in part.items() if group != "run"}))
    return plain
