"""Tables of what a run's folder contains: settings, steps of cells, results and files."""

import os
import shlex
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from rich.filesize import decimal

from masksearch.experiment import Settings
from masksearch.experiment.cell_results import CellResult, DenseResult, load_result
from masksearch.experiment.store.run_folder import read_stage
from masksearch.experiment.store.sweep_plan import read_plan
from masksearch.report.reproduction_commands import flags_of
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json

_FILES = {  # pattern, seen from the folder: what it is
    "sweep.json": "settings, machine and cells of the sweep",
    "report.html": "the report",
    "results.csv": "all numbers of all cells",
    "results.md": "the tables of the report",
    "analysis/*": "tables and figures by masksearch analyse",
    "figures/*": "figures of the report",
    "settings.json": "all settings that decide the result",
    "status.json": "the current stage",
    "metrics.json": "the result",
    "places.json": "machines and workers that the cell ran on",
    "log.txt": "what a worker process printed",
    "mask.safetensors": "the mask: ms.Mask.load",
    "init.safetensors": "weights at the start",
    "dense.safetensors": "weights at the end",
    "best.safetensors": "weights at the best epoch by validation",
    "weights_*.safetensors": "weights at other moments",
    "retrained.safetensors": "weights of the masked network after its last epoch of retraining",
    "retrained_*.safetensors": "weights of the masked network at other moments of retraining",
    "history.jsonl": "the search, one line per scored mask",
    "moves.i32": "the moves of the search",
    "search.safetensors": "state from which the search continues",
    "watch_*.safetensors": "masks of every epoch, for early-bird tickets",
    "checkpoint_*.safetensors": "state from which the dense training continues",
    "retraining.safetensors": "state from which the retraining continues",
    "supermask.safetensors": "state from which the learning of the mask continues",
    "pruned/*": "the smaller network: ms.load_pruned",
    "events.out.tfevents.*": "curves: tensorboard --logdir",
}


def sweep_contents(folder: Path) -> list[Grid]:
    """Return tables about a sweep's folder: its settings, how far its runs are, and its files."""
    plan = read_plan(folder)
    several = len(plan.settings) > 1
    lines = [(f"part {n}" if several else "run", _command(part)) for n, part in enumerate(plan.settings, start=1)]
    lines += [(name, str(value)) for name, value in plan.machine.items()]
    stages: dict[str, list[str]] = {}
    for name in plan.cells:
        stages.setdefault(read_stage(folder / name) or "not started", []).append(name)
    cells = [(stage, f"{len(names)} of {len(plan.cells)}", _some(names)) for stage, names in stages.items()]
    homes = {Path(path): f"seed {seed}" for path, seed in plan.dense.items()}
    networks = [(home.name, seed, _size(home.rglob("*"))) for home, seed in homes.items()]
    parents = " and ".join(sorted({str(home.parent) for home in homes})) or "no folder"
    return [
        Grid("Settings that differ from the defaults, and versions", ("what", "value"), lines, 2),
        Grid("Cells", ("stage", "cells", "names"), cells, 3),
        Grid(f"Dense networks, in {parents}", ("folder", "for", "size"), networks, 2),
        _files(folder),
    ]


def cell_contents(folder: Path) -> list[Grid]:
    """Return tables about the folder of a run of a sweep or of a dense network: settings, result and files.

    Raises
    ------
    InputError
        If it is neither.
    """
    if not (folder / "settings.json").exists():
        raise InputError(f"{folder} holds no sweep (no sweep.json) and no cell (no settings.json)")
    grids = [Grid("Settings", ("setting", "value"), _flat(read_json(folder / "settings.json", {})), 2)]
    figures = []
    if (folder / "metrics.json").exists():
        figures = _figures(load_result(folder))
    elif (stage := read_stage(folder)) is not None:
        figures = [("stage", f"{stage}: not finished")]
    return [*grids, *([Grid("Result", ("figure", "value"), figures, 2)] if figures else []), _files(folder)]


_LISTS = ("epochs", "rounds", "dense", "early_bird", "settings")  # too long for a table


def _figures(result: CellResult | DenseResult) -> list[tuple[str, str]]:
    """Every figure of a dense network, or of a cell and its last round."""
    values = msgspec.to_builtins(result)
    last = msgspec.to_builtins(result.last) if isinstance(result, CellResult) else {}
    return _flat({name: value for name, value in (values | last).items() if name not in _LISTS})


def _command(part: Mapping[str, Any]) -> str:
    try:
        return shlex.join(["masksearch", "run", *flags_of(Settings.from_dict(part))])
    except InputError as error:
        return f"no command: {error}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append((f"{prefix}{name}", text))
    return lines


def _files(folder: Path) -> Grid:
    found: dict[str, list[Path]] = {}
    for home, _, names in os.walk(folder):
        parts = Path(home).relative_to(folder).parts
        for name in names:
            if pattern := _pattern((*parts, name)):
                found.setdefault(pattern, []).append(Path(home, name))
    rows = [
        (below, about, str(len(found[below])), _size(found[below]))
        for pattern, about in _FILES.items()
        for below in (pattern, f"*/{pattern}", f"*/round*/{pattern}")
        if below in found
    ]
    return Grid(f"Files in {folder}", ("files", "what they are", "number", "size"), rows, 2)


def _pattern(parts: tuple[str, ...]) -> str:
    """The row of the table that a file belongs to; "" if to none."""
    for depth, prefix in enumerate(("", "*/", "*/round*/")):
        if depth < 2 or (len(parts) > 2 and parts[1].startswith("round")):
            pattern = _known("/".join(parts[depth:]))
            if pattern:
                return prefix + pattern
    return ""


@lru_cache(maxsize=10_000)
def _known(path: str) -> str:
    """The pattern that a path fits; a star fits no slash."""
    fitting = (pattern for pattern in _FILES if pattern.count("/") == path.count("/") and fnmatch(path, pattern))
    return next(fitting, "")


def _size(paths: Iterable[Path]) -> str:
    return decimal(sum(path.stat().st_size for path in paths if path.is_file()))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... {len(names) - 3} more" if len(names) > 3 else "")
