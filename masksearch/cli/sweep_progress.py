"""Live table of a sweep in a terminal: a row for the sweep, and one for the current step of each worker."""

import time
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from masksearch.core.problem_and_trials import Score, Trial
from masksearch.experiment import Cell, SweepCallback
from masksearch.experiment.cell_results import CellResult
from masksearch.training import EpochRow
from masksearch.utils.number_text import number_text
from masksearch.utils.ranks import ranks


class _Table(bars.Progress):
    """Progress bars with a line of headings in a terminal."""

    HEADINGS = ("worker", "cell", "stage", "", "", "score", "left")

    def make_tasks_table(self, tasks: Iterable[bars.Task]) -> Table:
        """Return a live table for the terminal, with one row per progress bar."""
        table = super().make_tasks_table(tasks)
        for column, heading in zip(table.columns, self.HEADINGS, strict=True):
            column.header = heading
        table.show_header = bool(table.rows) and self.console.is_terminal
        return table


class ProgressBars(SweepCallback):
    """Callback of a sweep that shows live progress bars, and prints a line per finished run (method, sparsity, seed).

    The table has a row for the sweep, with the number of failed cells, and a row for each worker: its cell, the stage
    of the cell, the last and the best score, and the time left of the stage. Without a terminal, as in a log file, it
    prints a line with the state of a long stage instead, at most one per ``seconds``.
    """

    def __init__(self, console: Console, seconds: float = 60.0) -> None:
        self._console, self._seconds = console, seconds
        self._bars = _Table(
            bars.TextColumn("{task.fields[worker]}"),
            bars.TextColumn("{task.fields[cell]}"),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}"),
            bars.TimeRemainingColumn(),
            console=console,
        )
        self._sweep: bars.TaskID | None = None
        self._stage: bars.TaskID | None = None
        self._best = float("nan")
        self._worker, self._cell = "", ""
        self._failed = [0]  # shared by the copies for workers
        self._printed = [time.monotonic()]  # when the last line was printed; shared by the copies

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def beside(self, worker: int) -> "ProgressBars":
        """Return progress bars for worker process number ``worker``: the sweep's bar, and a bar of this worker."""
        own = copy(self)
        own._worker = str(worker)
        return own

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Show a progress bar for the whole sweep, and print how many of its runs are finished already."""
        if len(to_do) < len(cells):
            self._print(f"{len(cells) - len(to_do)} of {len(cells)} cells are finished already")
        if not self._console.is_terminal:
            self._print(f"{len(to_do)} cells to run", highlight=False)
        self._sweep = self._bars.add_task("cells", total=len(to_do), note="", worker="all", cell="")

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Show in the progress bars that a dense network is being trained."""
        self._cell = f"dense network, seed {seed}"
        self._show("training", epochs)

    def cell_begins(self, cell: Cell) -> None:
        """Show in the progress bars the name of the run that begins: a method at one sparsity and seed."""
        self._cell = cell.label
        self._show("", None)

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Show a progress bar for pruning a network gradually."""
        self._show(f"gradual pruning by {criterion}", epochs)

    def search_begins(self, cell: Cell) -> None:
        """Show a progress bar for a search of masks."""
        self._best = float("nan")
        self._show("search", cell.settings.sweep.budget)

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Advance the progress bar of a search by one scored mask."""
        if trial.is_best:
            self._best = trial.score.value
        self._advance(f"{_shown(trial.score)}  best {number_text(self._best, '.4f')}")

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Show a progress bar for scoring a search's best masks a second time."""
        self._show("scoring again", masks)

    def rescored(self, cell: Cell, score: Score) -> None:
        """Advance the progress bar for the second scoring of a search's best masks by one mask."""
        self._advance(_shown(score))

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Show a progress bar for retraining a masked network."""
        self._show("retraining", epochs)

    def epoch(self, row: EpochRow) -> None:
        """Advance the progress bar of the training that is running by one epoch."""
        metric = f"  val {number_text(row.val_metric, '.4f')}" if row.val_metric is not None else ""
        self._advance(f"loss {number_text(row.train_loss, '.4f')}{metric}")

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Print one line with the test metrics of a finished run of the sweep, before and after retraining."""
        metric = result.metric
        name = "" if metric.is_accuracy else f"  {metric.name}"
        before, after = (metric.text(one.test_accuracy) for one in (result.untrained, result.trained))
        words = ("repaired", "retrained") if cell.settings.repairs else ("untrained", "trained")
        emptied, constant = result.mask.empty_layers, result.trained.constant_outputs
        notes = "".join(f"  {escape(criterion)} was better" for criterion in result.kept_criteria)
        notes += f"  [yellow]empties {escape(', '.join(emptied))}[/]" if emptied else ""
        notes += f"  [yellow]{constant} outputs are constant[/]" if constant else ""
        self._print(
            f"[dim]{escape(f'{cell.label:<44}')}[/]{escape(name)} {words[0]} {before}  {words[1]} {after}{notes}",
            highlight=False,
            soft_wrap=True,
        )
        self._ended()

    def cell_fails(self, cell: Cell, sentence: str) -> None:
        """Print the name of a failed run of the sweep, and a sentence about the error that ended it."""
        ranks().agree(f"{cell.label}: {sentence}")
        text = f"{cell.label}: failed: {sentence}"
        self._print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        self._failed[0] += 1
        self._ended()

    def _ended(self) -> None:
        if self._sweep is not None:
            note = f"[red]{self._failed[0]} failed[/]" if self._failed[0] else ""
            self._bars.update(self._sweep, advance=1, note=note)
        self._remove()

    def _remove(self) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None

    def _show(self, stage: str, total: int | None) -> None:
        self._remove()
        self._stage = self._bars.add_task(
            escape(stage), total=total, note="", worker=self._worker, cell=escape(self._cell)
        )

    def _advance(self, note: str) -> None:
        if self._stage is None:
            return
        self._bars.update(self._stage, advance=1, note=note)
        if self._console.is_terminal or time.monotonic() - self._printed[0] < self._seconds:
            return
        task = next(task for task in self._bars.tasks if task.id == self._stage)
        of = "" if task.total is None else f" of {task.total:.0f}"
        text = f"{self._cell}: {task.description} {task.completed:.0f}{of}  {note}"
        self._print(text, markup=False, highlight=False, soft_wrap=True)

    def _print(self, text: str, **options: Any) -> None:
        self._console.print(text, **options)
        self._printed[0] = time.monotonic()


def _shown(score: Score) -> str:
    return f"{'' if score.exact else '<= '}{number_text(score.value, '.4f')}"
