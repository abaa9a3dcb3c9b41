"""The live view of a sweep in a terminal: a bar for the sweep, a bar for what is running now."""

import math
from collections.abc import Sequence
from copy import copy

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from masksearch.core.protocol import Score, Trial
from masksearch.experiment import Cell, SweepCallback
from masksearch.experiment.results import Accuracy, CellResult
from masksearch.training import EpochRow

__all__ = ["ProgressBars"]


class ProgressBars(SweepCallback):
    """Use as a context manager around the sweep; prints a line per finished cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._sweep: TaskID | None = None
        self._stage: TaskID | None = None
        self._best = float("nan")

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def beside(self, worker: int) -> "ProgressBars":
        """Return a view with a bar of its own for what ``worker`` runs now."""
        return copy(self)

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Set the bar of the sweep up."""
        if len(to_do) < len(cells):
            self._console.print(f"{len(cells) - len(to_do)} of {len(cells)} cells are finished already")
        self._sweep = self._bars.add_task("cells", total=len(to_do), note="")

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Show the dense training."""
        self._show(f"dense network, seed {seed}", epochs)

    def cell_begins(self, cell: Cell) -> None:
        """Show the cell."""
        self._show(cell.label, None)

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Show the gradual pruning."""
        self._show(f"{cell.label}, gradual pruning by {criterion}", epochs)

    def search_begins(self, cell: Cell) -> None:
        """Show the search."""
        self._best = float("nan")
        self._show(cell.label, cell.settings.sweep.budget)

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Move the bar of the search."""
        if trial.is_best:
            self._best = trial.score.value
        if self._stage is not None:
            note = f"score {_shown(trial.score)}  best {self._best:.4f}"
            self._bars.update(self._stage, advance=1, note=note)

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Show that masks are scored again."""
        self._show(f"{cell.label}, scored again", masks)

    def rescored(self, cell: Cell, score: Score) -> None:
        """Move the bar of that."""
        if self._stage is not None:
            self._bars.update(self._stage, advance=1, note=f"score {_shown(score)}")

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Show the retraining."""
        self._show(f"{cell.label}, retraining", epochs)

    def epoch(self, row: EpochRow) -> None:
        """Move the bar of the training."""
        accuracy = f"val {100 * row.val_accuracy:.2f} %" if row.val_accuracy is not None else ""
        if self._stage is not None:
            self._bars.update(self._stage, advance=1, note=f"loss {row.train_loss:.4f}  {accuracy}")

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Print the line of the cell."""
        untrained, trained = _percent(result.untrained), _percent(result.trained)
        emptied, constant = result.mask.empty_layers, result.trained.constant_outputs
        notes = "".join(f"  {criterion} was better" for criterion in result.kept_criteria)
        notes += f"  [yellow]empties {', '.join(emptied)}[/]" if emptied else ""
        notes += f"  [yellow]{constant} outputs are constant[/]" if constant else ""
        self._console.print(
            f"[dim]{cell.label:<44}[/] untrained {untrained} %  trained {trained} %{notes}",
            highlight=False,
            soft_wrap=True,
        )
        if self._sweep is not None:
            self._bars.advance(self._sweep)

    def _show(self, description: str, total: int | None) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(description, total=total, note="")


def _percent(figures: Accuracy) -> str:
    return f"{math.nan if figures.test_accuracy is None else 100 * figures.test_accuracy:6.2f}"


def _shown(score: Score) -> str:
    if score.exact:
        return f"{score.value:.4f}"
    return f"<= {score.value:.4f}"
