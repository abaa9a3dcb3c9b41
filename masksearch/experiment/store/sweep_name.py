"""The name of a sweep, which is the name of its folder: sweeps with other settings need another name."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from masksearch.experiment.settings.combined import Settings
from masksearch.utils.files import read_json

__all__ = ["free_name", "renamed"]


def free_name(parts: Sequence[Settings]) -> str:
    """Return the sweep's own name, or the first of NAME-2, NAME-3, ... whose folder holds no sweep with other settings.

    Where and how a sweep runs (``run``) is no difference, so that a sweep may be continued on another device.
    """
    run = parts[0].run
    wanted = [_compared(part.as_dict()) for part in parts]
    for number in count(1):
        name = run.name if number == 1 else f"{run.name}-{number}"
        file = Path(run.runs) / name / "sweep.json"
        if not file.exists() or [_compared(part) for part in read_json(file)["settings"]] == wanted:
            return name
    raise AssertionError("there is always a free name")


def renamed(parts: Sequence[Settings], name: str) -> list[Settings]:
    """Return the parts with another name of their sweep."""
    return [replace(part, run=replace(part.run, name=name)) for part in parts]


def _compared(part: dict[str, object]) -> dict[str, object]:
    """The settings that decide results, as JSON has them."""
    return json.loads(json.dumps({group: values for group, values in part.items() if group != "run"}))
