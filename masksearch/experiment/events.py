"""Events of a sweep: the base class of callbacks, such as progress bars."""

from collections.abc import Sequence

from masksearch.core.protocol import Score, Trial
from masksearch.experiment.cell import Cell
from masksearch.experiment.results import CellResult
from masksearch.training import EpochRow

__all__ = ["SweepCallback"]


class SweepCallback:
    """Base class for callbacks of a sweep. All hooks do nothing; override the ones you need.

    An exception ends the sweep.
    """

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Called once, before any work, with all cells of the grid and with the unfinished cells."""

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Called before the dense network of a seed is trained or read."""

    def cell_begins(self, cell: Cell) -> None:
        """Called before a cell runs."""

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Called before a network is pruned gradually, for a saliency of the cell's search."""

    def search_begins(self, cell: Cell) -> None:
        """Called before the search of each round, and again after each gradual pruning for the search."""

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Called after each scoring; after an interruption first for the trials of the earlier process."""

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Called when the search is over, with the number of masks that are scored again."""

    def rescored(self, cell: Cell, score: Score) -> None:
        """Called after each of the search's best masks has been scored again."""

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Called before each training of a ticket, with the number of epochs."""

    def epoch(self, row: EpochRow) -> None:
        """Called after each epoch of the dense training, of gradual pruning, and of retraining."""

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Called when a cell is finished and its result is on disk."""

    def cell_fails(self, cell: Cell, sentence: str) -> None:
        """Called when an error has ended a cell; other cells go on."""

    def beside(self, worker: int) -> "SweepCallback":
        """Return the callback for the cells that worker process number ``worker`` runs; by default, this callback.

        Its hooks are called in the main process, for trials and epochs up to 0.1 seconds late, without trials' masks.
        """
        return self
