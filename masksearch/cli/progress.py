"""Progress bars of a sweep in a terminal: one for the whole sweep, one for the current training or search."""

from collections.abc import Sequence
from copy import copy

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from masksearch.core.protocol import Score, Trial
from masksearch.experiment import Cell, SweepCallback
from masksearch.experiment.results import CellResult
from masksearch.training import EpochRow
from masksearch.utils.ranks import ranks

__all__ = ["ProgressBars"]


class ProgressBars(SweepCallback):
    """Callback of a sweep that shows progress bars, and prints a line per finished cell (method, sparsity, seed)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._sweep: bars.TaskID | None = None
        self._stage: bars.TaskID | None = None
        self._best = float("nan")

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def beside(self, worker: int) -> "ProgressBars":
        """Return progress bars for ``worker``: the same bar of the sweep, and a new bar for the worker's step."""
        return copy(self)

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Add the progress bar of the sweep, and print how many cells are finished already."""
        if len(to_do) < len(cells):
            self._console.print(f"{len(cells) - len(to_do)} of {len(cells)} cells are finished already")
        self._sweep = self._bars.add_task("cells", total=len(to_do), note="")

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Add the progress bar of a dense network's training."""
        self._show(f"dense network, seed {seed}", epochs)

    def cell_begins(self, cell: Cell) -> None:
        """Add the progress bar of a sweep's cell (one method at one sparsity and seed)."""
        self._show(cell.label, None)

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Add the progress bar of a gradual pruning."""
        self._show(f"{cell.label}, gradual pruning by {criterion}", epochs)

    def search_begins(self, cell: Cell) -> None:
        """Add the progress bar of a search."""
        self._best = float("nan")
        self._show(cell.label, cell.settings.sweep.budget)

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Advance the progress bar of a search by one scored mask."""
        if trial.is_best:
            self._best = trial.score.value
        self._advance(f"score {_shown(trial.score)}  best {self._best:.4f}")

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Add the progress bar of the second scoring of a search's best masks."""
        self._show(f"{cell.label}, scored again", masks)

    def rescored(self, cell: Cell, score: Score) -> None:
        """Advance the progress bar of the second scoring by one mask."""
        self._advance(f"score {_shown(score)}")

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Add the progress bar of a masked network's retraining."""
        self._show(f"{cell.label}, retraining", epochs)

    def epoch(self, row: EpochRow) -> None:
        """Advance the progress bar of the current training by one epoch."""
        metric = f"val {row.val_metric:.4f}" if row.val_metric is not None else ""
        self._advance(f"loss {row.train_loss:.4f}  {metric}")

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Print a finished cell's test metrics before and after retraining in one line."""
        metric = result.metric
        name = "" if metric.is_accuracy else f"  {metric.name}"
        untrained, trained = (metric.text(one.test_accuracy) for one in (result.untrained, result.trained))
        emptied, constant = result.mask.empty_layers, result.trained.constant_outputs
        notes = "".join(f"  {escape(criterion)} was better" for criterion in result.kept_criteria)
        notes += f"  [yellow]empties {escape(', '.join(emptied))}[/]" if emptied else ""
        notes += f"  [yellow]{constant} outputs are constant[/]" if constant else ""
        self._console.print(
            f"[dim]{escape(f'{cell.label:<44}')}[/]{escape(name)} untrained {untrained}  trained {trained}{notes}",
            highlight=False,
            soft_wrap=True,
        )
        if self._sweep is not None:
            self._bars.advance(self._sweep)

    def cell_fails(self, cell: Cell, sentence: str) -> None:
        """Print the label of a failed cell and a sentence about its error; with torchrun, all ranks have the same."""
        ranks().agree(f"{cell.label}: {sentence}")
        text = f"{cell.label}: failed: {sentence}"
        self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        if self._sweep is not None:
            self._bars.advance(self._sweep)

    def _show(self, description: str, total: int | None) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(escape(description), total=total, note="")

    def _advance(self, note: str) -> None:
        if self._stage is not None:
            self._bars.update(self._stage, advance=1, note=note)


def _shown(score: Score) -> str:
    return f"{'' if score.exact else '<= '}{score.value:.4f}"
