"""``results.csv``: one row per cell of a sweep, with every number of the cell's result."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import msgspec

from masksearch.experiment import SweepResult
from masksearch.experiment.cell_results import CellResult
from masksearch.experiment.result_parts import MOMENTS, Accuracy
from masksearch.experiment.store.run_hosts import places_of
from masksearch.utils.files import write_bytes

_NAMES = (
    *("method", "learned", "granularity", "sparsity", "find_at", "seed"),
    *("schedule", "n_rounds", "rewind_to", "retrain_lr", "distill", "distill_temperature", "control"),
)
_OPTIONAL = ("distill_temperature", "score.kept", "score.foreign_trials", "trained.rest_accuracy")
"""Columns of the cells that have a value."""
_NO_NUMBERS = ("dense.seed", "dense.metric_name", "dense.higher_is_better")


def flat_row(cell: CellResult, machine: Mapping[str, str]) -> dict[str, object]:
    """Return the row of ``results.csv`` for one run, {column: value}: its settings, its results and its machine.

    In tasks other than classification, keys have the name of the metric in place of ``accuracy``. Keys differ between
    cells: those with several rounds, a cap on a cost, or an early-bird ticket, have more of them.
    """
    row: dict[str, object] = {name: getattr(cell, name) for name in _NAMES}
    row |= _columns("cap", cell.cap) | _columns("front", cell.front)
    row |= {"density": cell.mask.density, "empty_layers": " ".join(cell.mask.empty_layers)}
    row |= _columns("score", cell.score)
    row |= {"score.scorings": cell.scorings, "score.foreign_trials": cell.foreign_trials or None}
    for moment in MOMENTS:
        row |= _columns(moment, getattr(cell.last, moment))
    row |= _columns("cost", cell.cost)
    row |= {"seconds.search": cell.search_seconds, "seconds.retrain": cell.retrain_seconds}
    row |= {"seconds.test": cell.test_seconds} | _columns("seconds", cell.latency, "latency_")
    row |= {name: value for name, value in _columns("dense", cell.dense).items() if name not in _NO_NUMBERS}
    row |= {"dense.params": cell.dense.cost.params, "dense.macs": cell.dense.cost.macs}
    row |= {name: machine[name] for name in ("masksearch", "torch", "device", "threads")}
    for round_ in cell.rounds if len(cell.rounds) > 1 else []:
        prefix = f"round{round_.number}"
        row[f"{prefix}.density"] = round_.mask.density
        for moment in MOMENTS:
            accuracy: Accuracy = getattr(round_, moment)
            row[f"{prefix}.{moment}.test_accuracy"] = accuracy.test_accuracy
            row[f"{prefix}.{moment}.test_loss"] = accuracy.test_loss
        row[f"{prefix}.trained.best_val_epoch"] = round_.trained.best_val_epoch
    if cell.early_bird:
        row |= {f"early_bird.{name}": getattr(cell.early_bird, name) for name in ("fired", "threshold", "relative")}
        row |= {f"early_bird.fires.{name}": epoch for name, epoch in cell.early_bird.fires.items()}
    if not cell.metric.is_accuracy:
        metric = cell.metric.name.replace(" ", "_")
        row = {name.replace("accuracy", metric): value for name, value in row.items()}
    return {name: value for name, value in row.items() if value is not None or name not in _OPTIONAL}


def _columns(group: str, figures: object, prefix: str = "") -> dict[str, object]:
    """Return {``group.name``: value} of every number, text and truth value of a dataclass; none for None."""
    values = msgspec.to_builtins(figures) or {}
    kept = {name: value for name, value in values.items() if not isinstance(value, list | dict)}
    return {f"{group}.{prefix}{name}": value for name, value in kept.items()}


def _where(folder: Path) -> dict[str, object]:
    places = places_of(folder)
    columns = {name: [str(getattr(place, name)) for place in places] for name in ("host", "worker", "threads")}
    return {name: " ".join(dict.fromkeys(values)) for name, values in columns.items() if values}


def write_rows(result: SweepResult, path: Path) -> None:
    """Write ``results.csv`` with one row per run of a sweep; values that a run does not have are left empty.

    ``host``, ``worker`` and ``threads`` are where the cell ran; several, with spaces, if it was interrupted.
    """
    rows = [
        flat_row(cell, result.machine) | _where(folder)
        for cell, folder in zip(result.cells, result.folders, strict=False)
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, sink.getvalue().encode())
