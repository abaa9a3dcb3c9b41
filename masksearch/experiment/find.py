"""Finding a cell's mask, by a search, a criterion or a learned supermask; and what scoring says of a mask."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.alive import AliveScorer, AliveSpace
from masksearch.data import Data
from masksearch.errors import InputError
from masksearch.experiment.cells import Cell
from masksearch.experiment.rank import criterion_mask
from masksearch.history import History
from masksearch.loop import search
from masksearch.mask import Mask
from masksearch.scoring import Scorer, signed_constants
from masksearch.searchers import Searcher
from masksearch.seeds import derive, torch_generator
from masksearch.space import Density
from masksearch.spaces import NetworkSpace
from masksearch.supermasks import learn
from masksearch.training import EpochRow
from masksearch.training.record import Weights
from masksearch.trial import Budget, Trial

__all__ = ["Finder", "Found", "gaps"]


@dataclass(frozen=True)
class Found:
    """A mask, and what it took."""

    mask: Mask
    scorings: int = 0  # by a search
    seconds: float = 0.0  # spent on scoring by a search, on learning by a supermask


@dataclass(frozen=True)
class Finder:
    """What finding a mask needs beside the network and its density."""

    cell: Cell
    space: NetworkSpace
    data: Data
    initial: Weights  # at initialisation, for criteria that compare with them
    device: torch.device
    on_trial: Callable[[Trial, History, Searcher], None]
    on_epoch: Callable[[EpochRow], None]

    def __call__(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> Found:
        """Find a mask for the weights that ``model`` has, within what is alive.

        Parameters
        ----------
        folder : Path
            Where a search keeps its history, and a supermask its checkpoint; unfinished ones go on.
        """
        cell = self.cell
        model.to(self.device)
        if cell.searches or cell.learns:
            scored = weights_scored(cell, model, self.space)
            return (self._search if cell.searches else self._learn)(scored, density, alive, folder)
        return Found(criterion_mask(cell, model, self.space, self.data, self.initial, self.device, density, alive))

    def _search(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> Found:
        settings, cell = self.cell.settings, self.cell
        scorer = Scorer(model, self.space, self.data.search, settings.sweep.objective)
        arguments: dict[str, Any] = {
            "budget": Budget(settings.sweep.budget, settings.scoring.seconds),
            "seed": derive(cell.seed, "search"),
            "on_empty": settings.scoring.on_empty,
            "folder": folder,
            "callbacks": [self.on_trial],
        }
        if alive is None:
            history = search(self.space, cell.searcher(), scorer, density, hold=settings.scoring.hold, **arguments)
            assert history.best.mask is not None
            return Found(history.best.mask, len(history), history.seconds)
        if settings.scoring.hold != "units" or not isinstance(density, float):
            raise InputError(
                f"rounds: {cell.method} searches the units that are alive, and can hold {cell.rounds} rounds to one "
                "density in units only"
            )
        left = AliveSpace(alive)
        history = search(left, cell.searcher(), AliveScorer(scorer, left), left.density(density), **arguments)
        assert history.best.mask is not None
        return Found(left.lifted(history.best.mask), len(history), history.seconds)

    def _learn(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> Found:
        if alive is not None:
            raise InputError(
                f"rounds: {self.cell.rounds}; {self.cell.method} learns a mask of all weights in one round"
            )
        seconds = 0.0

        def on_epoch(row: EpochRow) -> None:
            nonlocal seconds
            seconds += row.seconds
            self.on_epoch(row)

        mask = learn(
            self.cell.method,
            model,
            self.space,
            self.data.train,
            density,
            settings=self.cell.settings.supermask,
            # Published layer by layer; a ranking over all layers is what the flag means for criteria.
            scope="erk" if self.cell.settings.scoring.scope == "erk" else "layerwise",
            seed=derive(self.cell.seed, "supermask"),
            device=self.device,
            augment=self.data.augment,
            on_empty=self.cell.settings.scoring.on_empty,
            generator=torch_generator(self.cell.seed, "supermask", "ties"),
            checkpoint=folder / "supermask.safetensors",
            on_epoch=on_epoch,
        )
        return Found(mask, seconds=seconds)


def weights_scored(cell: Cell, model: nn.Module, space: NetworkSpace) -> nn.Module:
    """The network that masks are scored on: ``model``, or one with constants of its weights' signs."""
    return signed_constants(model, space) if cell.settings.scoring.weights == "signed_constant" else model


def gaps(cell: Cell, model: nn.Module, space: NetworkSpace, mask: Mask, data: Data) -> dict[str, float]:
    """Objective and accuracy of a mask on the search images and on the rest of val, for the weights of ``model``.

    The differences are the optimism gaps.
    """
    objective = cell.settings.sweep.objective
    model = weights_scored(cell, model, space)
    found: dict[str, float] = {}
    for split, images in (("search", data.search), ("rest", data.rest)):
        found[f"{split}_score"] = Scorer(model, space, images, objective)(mask).value
        found[f"{split}_accuracy"] = Scorer(model, space, images)(mask).value
    found["gap"] = found["search_score"] - found["rest_score"]
    found["accuracy_gap"] = found["search_accuracy"] - found["rest_accuracy"]
    return found
