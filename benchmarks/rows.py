"""Read and write the rows of finished cases, ``results/*.csv``, and group them by method."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masksearch.criteria import CRITERIA
from masksearch.experiment.cell_results import find_setting
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes

__all__ = [
    "DISTINGUISHING_COLUMNS",
    "Row",
    "Series",
    "case_columns",
    "number",
    "read_csv",
    "read_rows",
    "series",
    "write_csv",
]

Row = dict[str, str]
Series = dict[str, dict[tuple[float, int], Row]]
"""Rows of every method, by sparsity and seed."""

_SCOPES = ("global", "layerwise", "erk")
_CONTROLS = {"shuffle": "shuffled", "reinit": "reinitialised"}
_WORDS = {
    "n_rounds": "{} rounds",
    "rewind_to": "from {}",
    "find_at": "@{}",
    "warm_start": "started at {}",
    "score.objective": "on {}",
    "budget": "budget {}",
    "sweep": "({})",
}
DISTINGUISHING_COLUMNS = tuple(_WORDS)
"""Columns in which cases of one method, schedule and control may differ."""
_DEFAULTS = {"schedule": "one_shot", "control": "none"}  # of rows from before there were such columns


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a file; an empty list if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as source:
        return list(csv.DictReader(source))


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows to a CSV file atomically; a value that a row lacks is empty."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, sink.getvalue().encode())


def case_columns(folder: str, settings: Mapping[str, Any]) -> dict[str, object]:
    """Return the columns that identify a case among all sweeps: the folder of its cell and some settings.

    ``settings`` are those of the folder's ``settings.json``. Criteria have a scope, searches the rest.
    """
    names = ("dataset", "model", "scope", "connected", "budget", "seconds", "warm_start")
    return {"cell": folder} | {name: find_setting(settings, name) or "" for name in names}


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Return the rows of several files, with the columns ``sweep`` (name of the file) and ``scope`` (from that name).

    Raises
    ------
    InputError
        For a file that isn't there or holds no rows, or files of several data sets or networks.
    """
    rows = []
    for path in paths:
        found = read_csv(path)
        if not found:
            raise InputError(f"{path}: no rows, or no such file")
        named = [word for word in path.stem.split("_") if word in _SCOPES]
        rows += [{"scope": named[-1] if named else "", **row, "sweep": path.stem} for row in found]
    for column in ("dataset", "model", "granularity"):
        values = {row[column] for row in rows if row.get(column)}
        if len(values) > 1:
            raise InputError(f"rows: {column} is {', '.join(sorted(values))}; what is compared has one")
    return rows


def number(row: Row, column: str) -> float:
    """Return the number in a column of a row; NaN if it is empty."""
    text = row.get(column, "")
    return float(text) if text else math.nan


def series(rows: Sequence[Row]) -> Series:
    """Return {name: rows}; a name is the method with the settings in which rows of that method differ.

    Raises
    ------
    InputError
        If two rows of one sweep are of the same case.
    """
    names = list(map(_name, rows))
    for column in _WORDS:
        names = _with_column(rows, names, column)
    found: Series = {}
    for row, name in zip(rows, names, strict=True):
        place = (number(row, "sparsity"), int(row["seed"]))
        if place in found.setdefault(name, {}):
            raise InputError(f"rows: {name} twice at sparsity {place[0]:g}, seed {place[1]}")
        found[name][place] = row
    return found


def _name(row: Row) -> str:
    words = [row["method"]]
    if row["method"] in CRITERIA and row.get("scope") in ("layerwise", "erk"):  # nothing else has a scope
        words.append(row["scope"])
    if row["method"] in CRITERIA and row.get("connected"):
        words.append("connected")
    schedule = row.get("schedule") or _DEFAULTS["schedule"]
    if schedule != "one_shot":
        words.append(schedule)
    control = row.get("control") or _DEFAULTS["control"]
    if control != "none":
        words.append(_CONTROLS.get(control, control))
    return " ".join(words)


def _setting(row: Row, column: str) -> str:
    """Return a setting of a row; the moment of an early-bird ticket is a result and counts as empty."""
    return "" if column == "find_at" and row.get("schedule") == "early_bird" else row.get(column, "")


def _with_column(rows: Sequence[Row], names: Sequence[str], column: str) -> list[str]:
    """Return the names, with the value of the column where rows of one name and sparsity differ in it."""
    values: dict[tuple[str, str], set[str]] = {}
    for row, name in zip(rows, names, strict=True):
        values.setdefault((name, row["sparsity"]), set()).add(_setting(row, column))
    several = {name for (name, _), found in values.items() if len(found) > 1}
    return [
        f"{name} {_WORDS[column].format(row.get(column, ''))}" if name in several else name
        for row, name in zip(rows, names, strict=True)
    ]
