"""Watching the dense training for a schedule that draws its ticket there: the mask of every epoch, kept on disk."""

from pathlib import Path

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Data
from masksearch.experiment.cell import Cell, short_hash
from masksearch.experiment.steps.criterion import rank_units
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights
from masksearch.utils.files import load_tree, save_tree

__all__ = ["Watch"]


class Watch:
    """The masks that a cell's criterion would give after each epoch of the dense training.

    It sees the training to its end, which all cells share, so that all distances between epochs are known; the ticket
    is drawn at the epoch at which the early-bird rule fires, and nothing that comes later reaches it.
    """

    def __init__(self, cell: Cell, data: Data, space: NetworkSpace, folder: Path) -> None:
        self._cell, self._data, self._space = cell, data, space
        self.name = self.name_of(cell)
        self._path = folder / f"watch_{self.name}.safetensors"
        self.masks: list[Mask | None] = []
        self._total = cell.settings.train.epochs
        if self._path.exists():
            tree = load_tree(self._path)
            self.masks = [None if bits is None else Mask(space, bits) for bits in tree["masks"]]

    @staticmethod
    def name_of(cell: Cell) -> str:
        """Equal for cells that see the same masks."""
        return short_hash(
            {**cell.identity, **dict.fromkeys(("rewind_to", "epochs", "retrain_lr", "control", "save_at"))}
        )

    @property
    def is_done(self) -> bool:
        """Whether it has seen the whole training."""
        return len(self.masks) >= self._total

    def see(self, epoch: int, model: nn.Module, initial: Weights, device: torch.device) -> bool:
        """Take a look after an epoch, if that wasn't done before; whether this is where the ticket is drawn.

        Nothing is on disk before :meth:`keep`: the weights of the ticket have to be there first.
        """
        if epoch != len(self.masks) + 1:
            return False
        self.masks.append(rank_units(self._cell, model, self._space, self._data, initial, device))
        return self.fired == epoch

    def keep(self) -> None:
        """Write down what was seen so far."""
        save_tree(self._path, {"masks": [mask and mask.bits for mask in self.masks]})

    @property
    def fired(self) -> int | None:
        """The epoch at which the early-bird rule has fired."""
        return self.fires(self._cell.settings.schedules.early_bird_relative)

    @property
    def moment(self) -> str:
        """The moment of the dense training at which the ticket is drawn; its end if the rule never fires."""
        return "end" if self.fired is None else f"{self.fired}ep"

    def fires(self, relative: bool) -> int | None:
        """The epoch at which the rule fires with its threshold taken one way or the other."""
        rule = self._cell.settings.schedules.early_bird(relative)
        return next((epoch for epoch, mask in enumerate(self.masks, start=1) if rule.see(mask)), None)
