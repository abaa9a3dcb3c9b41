"""What a sweep tells those who watch it: a progress bar, a test that counts."""

from collections.abc import Mapping, Sequence
from typing import Any

from masksearch.core.protocol import Score, Trial
from masksearch.experiment.cell import Cell
from masksearch.training import EpochRow

__all__ = ["SweepCallback"]


class SweepCallback:
    """Hears of everything, in order, and does nothing; override what is wanted. An exception ends the sweep."""

    def sweep_begins(self, cells: Sequence[Cell], to_do: Sequence[Cell]) -> None:
        """The grid, and those of its cells that are not finished yet."""

    def dense_begins(self, seed: int, epochs: int) -> None:
        """The dense network of a seed is trained now, or was."""

    def cell_begins(self, cell: Cell) -> None:
        """A cell is worked on now."""

    def gradual_begins(self, cell: Cell, criterion: str, epochs: int) -> None:
        """A network is pruned gradually, for a saliency of the cell's search."""

    def search_begins(self, cell: Cell) -> None:
        """A search begins, of one round; or goes on after gradual pruning."""

    def trial(self, cell: Cell, trial: Trial) -> None:
        """A mask was scored, now or by the process that was here before."""

    def rescoring_begins(self, cell: Cell, masks: int) -> None:
        """The search is over; so many masks are scored again."""

    def rescored(self, cell: Cell, score: Score) -> None:
        """One of them was."""

    def retraining_begins(self, cell: Cell, epochs: int) -> None:
        """The mask is found; retraining it begins."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch of the dense training, of gradual pruning, or of a cell's retraining, is over."""

    def cell_ends(self, cell: Cell, metrics: Mapping[str, Any]) -> None:
        """A cell is finished and on disk."""

    def beside(self, worker: int) -> "SweepCallback":
        """Return the callback of what ``worker`` (0, 1, ...) runs while others run something else: by default this one.

        Its hooks are called in the main process, for trials and epochs up to 0.1 seconds late, without trials' masks.
        """
        return self
