"""The early-bird detector: masks of every epoch of the dense training, and the epoch at which they are stable."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from masksearch.core.mask import Mask
from masksearch.experiment.cell import Cell
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.experiment.context import CellContext
from masksearch.experiment.identity import short_hash, without
from masksearch.experiment.steps.criterion import rank_units
from masksearch.schedules import EarlyBird, mask_distances
from masksearch.spaces import NetworkSpace
from masksearch.utils.files import load_tree, save_tree
from masksearch.utils.integrity import refusing

__all__ = ["EarlyBirdDetector", "detector_name", "early_bird_moment", "early_bird_result"]


class EarlyBirdDetector:
    """A criterion's masks after each epoch of the dense training, stored on disk, to find when they stop changing.

    The detector runs to the end of the training, which all cells share, so that the distances between all epochs are
    recorded. The ticket is drawn at the epoch at which the early-bird rule fires; later masks do not influence it.
    """

    def __init__(self, cell: Cell, space: NetworkSpace, folder: Path) -> None:
        self.cell, self.name = cell, detector_name(cell)
        self._path = folder / f"watch_{self.name}.safetensors"
        self.masks: list[Mask | None] = []
        if self._path.exists():
            remedy = f"remove this file and run again, which trains the dense network of {folder} again"
            saved = load_tree(self._path, remedy)
            with refusing(self._path, remedy):
                self.masks = [None if bits is None else Mask(space, bits) for bits in saved["masks"]]

    @property
    def is_done(self) -> bool:
        """Whether the early-bird detector has a mask from every epoch of the dense training."""
        return len(self.masks) >= self.cell.settings.train.epochs

    def add(self, epoch: int, model: nn.Module, context: CellContext) -> bool:
        """Record the mask after an epoch; return whether, by the early-bird rule, masks stop changing at this epoch.

        The masks reach the disk with :meth:`save`, after the weights of the ticket.
        """
        if epoch != len(self.masks) + 1:
            return False
        self.masks.append(rank_units(context, model))
        return _first_epoch(_rule(self.cell), self.masks) == epoch

    def save(self) -> None:
        """Write the early-bird masks of all epochs until now to disk."""
        save_tree(self._path, {"masks": [mask and mask.bits for mask in self.masks]})

    @property
    def moment(self) -> str:
        """Moment of the dense training, such as "12ep", at which the early-bird mask is taken."""
        return early_bird_moment(self.cell, self.masks)


def detector_name(cell: Cell) -> str:
    """Return a hash that is equal for runs of a sweep with the same early-bird masks after every epoch."""
    later = ["rewind_to", "epochs", "retrain_lr", "control", "schedules.save_at", "distill"]
    return short_hash(without(cell.identity, later))


def early_bird_moment(cell: Cell, masks: Sequence[Mask | None]) -> str:
    """Return the moment, such as "12ep", at which early-bird masks stop changing; "end" if they never do."""
    epoch = _first_epoch(_rule(cell), masks)
    return "end" if epoch is None else f"{epoch}ep"


def early_bird_result(cell: Cell, masks: Sequence[Mask | None]) -> EarlyBirdResult:
    """Return the epochs at which early-bird rules find masks stable, and the distances between all epochs' masks."""
    rule, make = _rule(cell), cell.settings.schedules.early_bird
    return EarlyBirdResult(
        threshold=rule.threshold,
        relative=rule.relative,
        fired=_first_epoch(rule, masks),
        fires={
            "absolute": _first_epoch(make(False), masks),
            "relative": _first_epoch(make(True), masks),
        },
        distances=mask_distances(masks).tolist(),
    )


def _rule(cell: Cell) -> EarlyBird:
    schedules = cell.settings.schedules
    return schedules.early_bird(schedules.early_bird_relative)


def _first_epoch(rule: EarlyBird, masks: Sequence[Mask | None]) -> int | None:
    """The epoch at which a rule fires; None if it never does."""
    return next((epoch for epoch, mask in enumerate(masks, start=1) if rule.see(mask)), None)
