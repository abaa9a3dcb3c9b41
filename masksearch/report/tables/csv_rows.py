"""The rows of a sweep: every cell with every single number, as a CSV."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masksearch.experiment import SweepResult
from masksearch.utils.files import write_bytes

__all__ = ["flat_row", "write_rows"]

_NAMES = (
    *("method", "learned", "granularity", "sparsity", "find_at", "seed"),
    *("schedule", "n_rounds", "rewind_to", "retrain_lr", "control"),
)
_MOMENTS = ("found", "untrained", "best_dense", "trained")
_GROUPS = ("score", *_MOMENTS, "cost", "seconds")


def flat_row(cell: Mapping[str, Any], machine: Mapping[str, str]) -> dict[str, Any]:
    """One cell as a flat row: what it is, every single number, and what made it.

    Keys differ between cells: those with several rounds, a cap on a cost, or an early-bird ticket, have more of them.
    """
    row = {name: cell[name] for name in _NAMES}
    for group in ("cap", "front"):
        row |= {f"{group}.{name}": value for name, value in cell.get(group, {}).items()}
    row["density"], row["empty_layers"] = cell["mask"]["density"], " ".join(cell["mask"]["empty_layers"])
    for group in _GROUPS:
        row |= {f"{group}.{name}": value for name, value in cell[group].items() if not isinstance(value, dict)}
    row |= {f"dense.{name}": value for name, value in cell["dense"].items() if not isinstance(value, dict)}
    row |= {f"dense.{name}": cell["dense"]["cost"][name] for name in ("params", "macs")}
    row |= {name: machine[name] for name in ("masksearch", "torch", "device", "threads")}
    if len(cell["rounds"]) > 1:
        for round_ in cell["rounds"]:
            row |= _flat_round(round_)
    if "early_bird" in cell:
        seen = cell["early_bird"]
        row |= {f"early_bird.{name}": seen[name] for name in ("fired", "threshold", "relative")}
        row |= {f"early_bird.fires.{name}": epoch for name, epoch in seen["fires"].items()}
    return row


def _flat_round(round_: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"round{round_['number']}"
    row = {f"{prefix}.density": round_["mask"]["density"]}
    for moment in _MOMENTS:
        row |= {f"{prefix}.{moment}.{name}": round_[moment][name] for name in ("test_accuracy", "test_loss")}
    return row | {f"{prefix}.trained.best_val_epoch": round_["trained"]["best_val_epoch"]}


def write_rows(result: SweepResult, path: Path) -> None:
    """All cells, a row each; what a cell doesn't have is empty."""
    rows = [flat_row(cell, result.machine) for cell in result.cells]
    names = dict.fromkeys(name for row in rows for name in row)
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, sink.getvalue().encode())
