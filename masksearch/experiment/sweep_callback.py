"""Events of a sweep: the base class of callbacks, such as progress bars."""

from collections.abc import Sequence

from masksearch.core.problem_and_trials import Score, Trial
from masksearch.experiment.cell import Cell
from masksearch.experiment.cell_results import CellResult
from masksearch.training import EpochRow


class SweepCallback:
    """Base class for callbacks of a sweep. All of its methods do nothing; override those that you need.

    An exception ends the sweep.
    """

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """Called once before a sweep starts, with all runs of the sweep (cells) and those that are still to be done."""

    def dense_begins(self, seed: int, epochs: int) -> None:
        """Called before one seed's dense network is trained or, if it is already trained, read from disk."""

    def cell_begins(self, cell: Cell) -> None:
        """Called before a run of the sweep (one method at one sparsity and seed) begins."""

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """Called before a network is pruned gradually over some epochs, to rank the units for a later search."""

    def search_begins(self, cell: Cell) -> None:
        """Called before a search of masks. It is called again after each gradual pruning that the search needs."""

    def trial(self, cell: Cell, trial: Trial) -> None:
        """Called after a search has scored a mask; a resumed search repeats the calls for all earlier masks."""

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """Called after a search and before its best masks are scored a second time, with the number of these masks."""

    def rescored(self, cell: Cell, score: Score) -> None:
        """Called after one of a search's best masks is scored a second time, with the second score."""

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """Called before a masked network is trained, with the number of training epochs."""

    def epoch(self, row: EpochRow) -> None:
        """Called after each epoch of any training: of a dense network, of gradual pruning, or of a masked network."""

    def cell_ends(self, cell: Cell, result: CellResult) -> None:
        """Called when a run of the sweep (cell) is finished and its result is on disk."""

    def cell_fails(self, cell: Cell, sentence: str) -> None:
        """Called when an error ends a run of the sweep, with a sentence about the error; other runs continue."""

    def beside(self, worker: int) -> "SweepCallback":
        """Return the callback for the runs of worker process number ``worker``; by default, this callback.

        Its hooks are called in the main process, for trials and epochs up to 0.1 seconds late, without trials' masks.
        """
        return self
