"""Events of a sweep: the base class of callbacks, such as progress bars."""

from collections.abc import Sequence

from masksearch.core.protocol import Score, Trial
from masksearch.experiment.cell import Cell
from masksearch.experiment.results import CellResult
from masksearch.training import EpochRow


class SweepCallback:
    """Base class for callbacks of a sweep. All hooks do nothing; override the ones you need.

    An exception ends the sweep.
    """

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Called once before a sweep starts, with all of its cells and with the cells that are still to run."""

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Called before the dense network of a seed is trained, or read from disk."""

    def cell_begins(self, cell: Cell) -> None:
        """Called before a cell of a sweep (one method at one sparsity and seed) runs."""

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Called before a network is pruned gradually over some epochs, which ranks the units for a search."""

    def search_begins(self, cell: Cell) -> None:
        """Called before each search of a mask, and again after each gradual pruning that the search needs."""

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Called after a search scores a mask; a resumed search first repeats the calls of the earlier process."""

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Called after a search, with the number of candidate masks that are scored a second time."""

    def rescored(self, cell: Cell, score: Score) -> None:
        """Called after a candidate mask of a search is scored a second time, with the second score."""

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Called before a masked network is trained, with the number of epochs."""

    def epoch(self, row: EpochRow) -> None:
        """Called after each epoch of training: of a dense network, of gradual pruning, or of a masked network."""

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Called when a cell of a sweep is finished and its result is on disk."""

    def cell_fails(self, cell: Cell, sentence: str) -> None:
        """Called when an error ends a cell of a sweep, with a sentence about the error; other cells continue."""

    def beside(self, worker: int) -> "SweepCallback":
        """Return the callback for cells that worker process ``worker`` runs; by default, this callback.

        Its hooks are called in the main process, for trials and epochs up to 0.1 seconds late, without trials' masks.
        """
        return self
