"""Finding a cell's mask, by a search, a criterion or a learned supermask."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.protocol import FOREIGN_TRIALS, Budget, Proposal, Trial
from masksearch.core.space import Density
from masksearch.criteria import Connectivity, connected
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.steps.cell_scorer import cell_scorer, weights_scored
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.experiment.steps.dense import DenseNetwork
from masksearch.experiment.steps.search_inputs import SearchInputs, known
from masksearch.experiment.store.front_folder import front_cost, front_folder
from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.searchers import Searcher
from masksearch.searching.loop import search
from masksearch.searching.subspace import Subspace, SubspaceScorer
from masksearch.spaces import NetworkSpace
from masksearch.supermasks import learn
from masksearch.training import EpochRow
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["MaskFinder", "MaskResult"]


@dataclass(frozen=True)
class MaskResult:
    """A mask, and what it took."""

    mask: Mask
    scorings: int = 0  # by a search
    foreign_trials: int = 0  # trials of other searches that it has learned from
    rescored: Mapping[str, float] = field(default_factory=dict)  # "search 1", ... and criteria -> what each scored
    kept: str | None = None  # the criterion whose mask, scored again, was better than what the search had found
    seconds: float = 0.0  # of a search or of learning a supermask
    front: dict[str, Any] | None = None  # where it lies on the front of a search with costs


@dataclass(frozen=True)
class MaskFinder:
    """What finding a mask needs beside the network and its density."""

    cell: Cell
    space: NetworkSpace
    data: Data
    dense: DenseNetwork
    device: torch.device
    on_trial: Callable[[Trial, History, Searcher], None]
    callback: SweepCallback
    later: bool = False  # an earlier round has trained

    def __call__(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        """Find a mask for the weights that ``model`` has, within what is alive.

        Parameters
        ----------
        folder : Path
            Where a search keeps its history, and a supermask its checkpoint; unfinished ones go on.
        """
        model.to(self.device)
        if self.cell.searches:
            return self._search(model, density, alive, folder)
        if self.cell.learns:
            return self._learn(weights_scored(self.cell, model, self.space), density, alive, folder)
        return MaskResult(self._criterion(self.cell.method, model, density, alive))

    def _search(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        settings, cell = self.cell.settings, self.cell
        self.callback.search_begins(cell)
        folder = front_folder(cell) if cell.front else folder
        searcher = cell.searcher().placed(folder, cell.study)
        given = known(
            cell, model, self.space, self.data, self.dense, self.device, density, alive, folder, self.callback
        )
        # Sweeps that share a study must not propose the same masks.
        own_seed = [settings.run.runs, settings.run.name] if searcher.shares_trials else []
        arguments: dict[str, Any] = {
            "budget": _budget(cell, given),
            "seed": derive(cell.seed, "search", *own_seed),
            "on_empty": settings.scoring.on_empty,
            "batch": settings.search.proposals,
            "folder": folder,
            "callbacks": [self.on_trial],
        }
        scorer = cell_scorer(cell, model, self.space, self.data.search, self.data, self.dense, later=self.later)
        if cell.front:
            arguments |= {"cost": front_cost(cell, model, self.space, self.data), "hold": settings.hold}
            with locked(folder, wait=True):  # another sweep may be searching just this front
                RunFolder(folder, cell.front_identity)
                history = search(self.space, searcher, scorer, 1.0, saliencies=given.saliencies, **arguments)
            trials = history.within(cell.density)
            masks = [trial.mask for trial in trials if trial.mask is not None]
        elif alive is None:
            arguments |= {"start": given.start, "saliencies": given.saliencies, "hold": settings.hold}
            if settings.scoring.connected:
                connectivity = Connectivity(model, self.space, self.data.test.images[:1])
                arguments["refine"] = partial(connected, connectivity=connectivity)
            history = search(self.space, searcher, scorer, density, **arguments)
            masks = [trial.mask for trial in history.top if trial.mask is not None]
        else:
            if settings.hold != "units" or not isinstance(density, float):
                raise InputError(
                    f"rounds: {cell.method} searches the units that are alive, and can hold {cell.rounds} rounds to "
                    "one density in units only"
                )
            left = Subspace(alive)
            arguments["start"] = None if given.start is None else Mask(left, left.reduced(given.start.bits))
            arguments["saliencies"] = {name: left.reduced(values) for name, values in given.saliencies.items()}
            history = search(left, searcher, SubspaceScorer(scorer, left), left.density(density), **arguments)
            masks = [left.lifted(trial.mask) for trial in history.top if trial.mask is not None]
        begun = perf_counter()
        chosen = self._chosen(masks[: settings.search.rescore], given, model)
        front = None
        if cell.front:
            trial = next(trial for trial in trials if trial.mask is chosen.mask)
            front = {"folder": f"{folder.parent.name}/{folder.name}", "trial": trial.number, "share": trial.score.cost}
        seconds = given.seconds + history.seconds + perf_counter() - begun
        return replace(chosen, scorings=len(history), foreign_trials=_taken_in(history), seconds=seconds, front=front)

    def _chosen(self, masks: list[Mask], given: SearchInputs, model: nn.Module) -> MaskResult:
        """The best, scored again, of what a search found and of criteria's masks; of one mask alone, that one."""
        candidates: dict[int, tuple[str | None, Mask]] = {mask.hash: (None, mask) for mask in masks}
        for text, rival in self._rivals(given).items():
            candidates.setdefault(rival.hash, (text, rival))
        if len(candidates) == 1:
            return MaskResult(masks[0])
        scores = self._scored_again([mask for _, mask in candidates.values()], model)
        (kept, mask), _ = max(zip(candidates.values(), scores, strict=True), key=itemgetter(1))
        names = [text or f"search {place}" for place, (text, _) in enumerate(candidates.values(), start=1)]
        rescored = {name: score for name, score in zip(names, scores, strict=True) if math.isfinite(score)}
        return MaskResult(mask, rescored=rescored, kept=kept)

    def _rivals(self, given: SearchInputs) -> dict[str, Mask]:
        """Masks of criteria that are scored again beside what the search found, by the texts that ask for them."""
        search = self.cell.settings.search
        if search.rescore_by is None or search.warm_start is None or given.start is None:
            return given.finalists
        return {search.warm_start: given.start, **given.finalists}

    def _scored_again(self, masks: list[Mask], model: nn.Module) -> list[float]:
        """Scores of masks by validation images that the search has not seen; minus infinity where there is none."""
        data, again = self.data, self.cell.settings.search
        scorer = cell_scorer(
            *(self.cell, model, self.space, data.rest, data, self.dense),
            objective=again.rescore_by,
            steps=again.rescore_steps,
            later=self.later,
        )
        self.callback.rescoring_begins(self.cell, len(masks))
        scores: list[float] = []
        for begin in range(0, len(masks), again.proposals):
            for score in scorer.score([Proposal.of(mask) for mask in masks[begin : begin + again.proposals]]):
                self.callback.rescored(self.cell, score)
                scores.append(-math.inf if math.isnan(score.value) else score.value)
        return scores

    def _criterion(self, name: str, model: nn.Module, density: Density, alive: Mask | None) -> Mask:
        initial = self.dense.weights["0"]
        return criterion_mask(
            self.cell, model, self.space, self.data, initial, self.device, density, alive, criterion=name
        )

    def _learn(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        if alive is not None:
            raise InputError(
                f"rounds: {self.cell.rounds}; {self.cell.method} learns a mask of all weights in one round"
            )
        seconds = 0.0

        def on_epoch(row: EpochRow) -> None:
            nonlocal seconds
            seconds += row.seconds
            self.callback.epoch(row)

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
        return MaskResult(mask, seconds=seconds)


def _taken_in(history: History) -> int:
    """Trials of other searches that a search of a shared study has learned from."""
    return int(history.trials[-1].metrics.get(FOREIGN_TRIALS, 0)) if len(history) else 0


def _budget(cell: Cell, given: SearchInputs) -> Budget:
    """The cell's, less the seconds of gradual pruning; if that took all of them, one scoring is still made."""
    seconds = cell.settings.scoring.seconds
    return Budget(cell.settings.sweep.budget, None if seconds is None else max(seconds - given.pruning, 1e-3))
