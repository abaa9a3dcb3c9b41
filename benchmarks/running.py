"""Run a suite: one sweep after the other, with a row per finished case and an estimate of the time left."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.collect import flat_row, flat_rows
from benchmarks.rows import case_columns, read_csv, write_csv
from benchmarks.suites import Sweep
from masksearch.analysis import best_so_far
from masksearch.cli.sweep_progress import ProgressBars
from masksearch.experiment import Cell, grid, run_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.experiment.store.run_folder import is_done
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json

__all__ = ["LOOKS", "anytime", "run_suite"]

LOOKS = 13  # points of every axis at which the best score so far is kept, evenly on a log scale
_DECADES = 2.0  # that they span


def run_suite(sweeps: Sequence[Sweep], home: Path, console: Console, grows: bool = True) -> None:
    """Run all sweeps; finished cases are skipped.

    A case whose row is in ``home/results`` is finished, wherever that was; one that ``runs`` holds is only read. The
    rest runs, and every finished case adds its row. If the files don't grow, only what ``runs`` holds is finished, and
    files are left alone.
    """
    files = [_Rows(sweep, home / "results" / f"{sweep.name}.csv", grows) for sweep in sweeps]
    with _SuiteBars(console, files) as bars:
        for rows in files:
            bars.file = rows
            parts = [part for part in rows.sweep.parts if any(cell.folder not in rows for cell in grid(part))]
            if parts:
                result = run_sweep(parts, bars, known=rows)
                for row, folder in zip(flat_rows(result), result.folders, strict=True):
                    rows.add(row | anytime(folder, rows.cells[folder.name]))
                rows.write()


class _Rows:
    """Rows of a sweep, including those of earlier runs."""

    def __init__(self, sweep: Sweep, path: Path, grows: bool) -> None:
        self.sweep, self.path, self._grows = sweep, path, grows
        self.cells = {cell.folder: cell for cell in sweep.cells}
        found = read_csv(path) if grows else []
        if found and "cell" not in found[0]:
            raise InputError(f"{path}: rows without the column cell; take the sweep in again, or move the file away")
        self._rows: dict[str, dict[str, Any]] = {row["cell"]: row for row in found}

    def __contains__(self, folder: str) -> bool:
        return folder in self._rows

    @property
    def runs(self) -> Path:
        """Folder of the cells of the sweep."""
        return Path(self.sweep.parts[0].run.runs) / self.sweep.name

    @property
    def left(self) -> int:
        """Number of cells that are still to run."""
        return sum(folder not in self and not is_done(self.runs / folder) for folder in self.cells)

    def add(self, row: dict[str, Any]) -> None:
        """Add a case's row, or replace it."""
        self._rows[row["cell"]] = row

    def write(self) -> None:
        """Write the rows in the order of the cases; rows of other seeds or methods come last."""
        if not self._grows:
            return
        places = {folder: place for place, folder in enumerate(self.cells)}
        write_csv(sorted(self._rows.values(), key=lambda row: places.get(row["cell"], len(places))), self.path)


class _SuiteBars(ProgressBars):
    """Progress of a suite: one bar for all sweeps; writes a row for every finished case."""

    def __init__(self, console: Console, files: Sequence[_Rows]) -> None:
        super().__init__(console)
        self._files, self._begun = files, 0.0
        self._taken: dict[Path, list[float]] = {}  # seconds of cases, by file
        self._total = sum(rows.left for rows in files)
        self._sweep = self._bars.add_task("cases", total=self._total, note="", worker="all", cell="")
        self.file = files[0]

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Start the clock of a sweep; the bar of the suite exists already."""
        self._begun = time.monotonic()

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Write the row of a case; print the time that the suite still takes."""
        super().cell_ends(cell, result)
        machine = read_json(self.file.runs / "sweep.json")["machine"]
        row = case_columns(cell.folder, result.settings) | flat_row(result, machine)
        self.file.add(row | anytime(self.file.runs / cell.folder, cell))
        self.file.write()
        now = time.monotonic()
        self._taken.setdefault(self.file.path, []).append(now - self._begun)  # its dense network counts too
        self._begun = now
        done = sum(map(len, self._taken.values()))
        self._console.print(f"{done} of {self._total} cases, {_minutes(self._left())} left", highlight=False)

    def _left(self) -> float:
        """Return the seconds left: cases take as long as earlier cases of the same sweep, or of all sweeps."""
        everything = [seconds for taken in self._taken.values() for seconds in taken]
        return sum(rows.left * float(np.mean(self._taken.get(rows.path, everything))) for rows in self._files)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def anytime(folder: Path, cell: Cell) -> dict[str, float]:
    """Return the best scores of a search along its budget as columns: ``best.scorings.100``, ``best.images.50000``.

    Looks lie at :data:`LOOKS` points, evenly on a log scale up to the budget and the same for all methods: of scorings
    and image-evaluations, or of seconds where these end the search.
    """
    if not cell.searches:
        return {}
    trials = list(read_rows(folder))
    scores = [trial.score.value if trial.score.exact else np.nan for trial in trials]
    images = [trial.score.images for trial in trials]
    seconds, budget = cell.settings.scoring.seconds, cell.settings.sweep.budget
    if seconds is not None:
        axes = {"seconds": (np.cumsum([trial.score.seconds for trial in trials]), seconds)}
    else:
        axes = {
            "scorings": (np.arange(1, len(trials) + 1), budget),
            "images": (np.cumsum(images), budget * max(images)),
        }
    row = {}
    for axis, (spent, end) in axes.items():
        looks = end * np.logspace(-_DECADES, 0, LOOKS)
        best = best_so_far(spent, scores, looks)
        row |= {f"best.{axis}.{look:.4g}": float(value) for look, value in zip(looks, best, strict=True)}
    return row
