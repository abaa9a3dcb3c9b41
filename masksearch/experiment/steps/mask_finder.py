"""Finding a cell's mask, by a search, a criterion or a learned supermask."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn

from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.protocol import FOREIGN_TRIALS, Budget, Trial
from masksearch.core.space import Density
from masksearch.criteria import Connectivity, connected
from masksearch.experiment.context import CellContext
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.results import FrontChoice
from masksearch.experiment.steps.cell_scorer import cell_scorer, scored_network
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.experiment.steps.search_inputs import SearchInputs, search_inputs
from masksearch.experiment.store.front_folder import front_cost, front_folder
from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.searchers import Searcher
from masksearch.searching.loop import search
from masksearch.searching.subspace import Subspace, SubspaceScorer
from masksearch.supermasks import learn
from masksearch.training import EpochRow
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["MaskFinder", "MaskResult"]


@dataclass(frozen=True)
class MaskResult:
    """A mask, and what finding it took."""

    mask: Mask
    scorings: int = 0  # by a search
    foreign_trials: int = 0  # trials of other searches that shared the study
    rescored: Mapping[str, float] = field(default_factory=dict)  # "search 1", ... and criteria -> second score
    kept: str | None = None  # the criterion whose mask scored better than the search's best in the second scoring
    seconds: float = 0.0  # of a search or of learning a supermask
    front: FrontChoice | None = None  # the trial, where a front was searched


@dataclass(frozen=True)
class MaskFinder:
    """Finds the masks of a cell, by the cell's method.

    Parameters
    ----------
    on_trial : callable
        A callback of :func:`masksearch.search`.
    later : bool
        Whether an earlier round has trained.
    """

    context: CellContext
    on_trial: Callable[[Trial, History, Searcher], None]
    callback: SweepCallback
    later: bool = False

    def __call__(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        """Find a mask for the weights of ``model``, within the alive units.

        Parameters
        ----------
        folder : Path
            For a search's history and a supermask's checkpoint; an unfinished one is continued.
        """
        cell = self.context.cell
        model.to(self.context.device)
        if cell.front:
            return self._search_front(model, density, alive)
        if cell.searches:
            return self._search(model, density, alive, folder)
        if cell.learns:
            return self._learn(scored_network(self.context, model), density, alive, folder)
        return MaskResult(criterion_mask(self.context, model, density, alive))

    # A search: its inputs first, then the loop, over all units or over those that earlier rounds have left. The best
    # few masks, and those of the finalists, are scored again.

    def _search(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        context, settings = self.context, self.context.settings
        inputs, arguments = self._begin(model, density, alive, folder)
        scorer = cell_scorer(context, model, context.data.search, later=self.later)
        searcher = context.cell.searcher().placed(folder, context.cell.study)
        if alive is None:
            if settings.scoring.connected:
                connectivity = Connectivity(model, context.space, context.example)
                arguments["refine"] = partial(connected, connectivity=connectivity)
            arguments |= {"start": inputs.start, "saliencies": inputs.saliencies, "hold": settings.hold}
            history = search(context.space, searcher, scorer, density, folder=folder, **arguments)
            masks = [trial.mask for trial in history.top if trial.mask is not None]
        else:
            if settings.hold != "units" or not isinstance(density, float):
                raise InputError(
                    f"rounds: {context.cell.method} searches the units that are alive, and can hold "
                    f"{context.cell.rounds} rounds to one density in units only"
                )
            left = Subspace(alive)
            arguments["start"] = None if inputs.start is None else Mask(left, left.reduced(inputs.start.bits))
            arguments["saliencies"] = {name: left.reduced(values) for name, values in inputs.saliencies.items()}
            scorer_left = SubspaceScorer(scorer, left)
            history = search(left, searcher, scorer_left, left.density(density), folder=folder, **arguments)
            masks = [left.lifted(trial.mask) for trial in history.top if trial.mask is not None]
        return self._chosen(masks, history, inputs, model)

    # A search of a front is shared by all caps: it has a folder of its own, and the best trial within the cap counts.

    def _search_front(self, model: nn.Module, density: Density, alive: Mask | None) -> MaskResult:
        context, cell = self.context, self.context.cell
        folder = front_folder(cell)
        inputs, arguments = self._begin(model, density, alive, folder)
        scorer = cell_scorer(context, model, context.data.search, later=self.later)
        searcher = cell.searcher().placed(folder, cell.study)
        arguments |= {"saliencies": inputs.saliencies, "hold": context.settings.hold}
        arguments["cost"] = front_cost(context, model)
        with locked(folder, wait=True):  # another sweep may be searching this front
            RunFolder(folder, cell.front_identity, cell.deciding_settings())
            history = search(context.space, searcher, scorer, 1.0, folder=folder, **arguments)
        trials = [trial for trial in history.within(cell.density) if trial.mask is not None]
        result = self._chosen([trial.mask for trial in trials if trial.mask is not None], history, inputs, model)
        trial = next(trial for trial in trials if trial.mask is result.mask)
        choice = FrontChoice(f"{folder.parent.name}/{folder.name}", trial.number, trial.score.cost)
        return replace(result, front=choice)

    def _begin(
        self, model: nn.Module, density: Density, alive: Mask | None, folder: Path
    ) -> tuple[SearchInputs, dict[str, Any]]:
        """The inputs of a search, and the arguments of :func:`search` that all searches have."""
        settings, cell = self.context.settings, self.context.cell
        self.callback.search_begins(cell)
        inputs = search_inputs(self.context, model, density, alive, folder, self.callback)
        # Sweeps that share a study must not propose the same masks.
        words = [settings.run.runs, settings.run.name] if cell.searcher().shares_trials else []
        seconds = settings.scoring.seconds
        if seconds is not None:  # gradual pruning counts; one scoring is always made
            seconds = max(seconds - inputs.pruning_seconds, 1e-9)
        return inputs, {
            "budget": Budget(settings.sweep.budget, seconds),
            "seed": derive(cell.seed, "search", *words),
            "on_empty": settings.on_empty,
            "batch": settings.search.proposals,
            "callbacks": [self.on_trial],
        }

    def _chosen(self, masks: Sequence[Mask], history: History, inputs: SearchInputs, model: nn.Module) -> MaskResult:
        """The best of a search's masks and of the criteria's, by a second scoring; of one mask alone, that one."""
        begun, search = perf_counter(), self.context.settings.search
        candidates: dict[int, tuple[str | None, Mask]] = {}
        for mask in masks[: search.rescore]:
            candidates.setdefault(mask.hash, (None, mask))
        finalists = dict(inputs.finalists)
        if search.rescore_by is not None and search.warm_start is not None and inputs.start is not None:
            finalists = {search.warm_start: inputs.start, **finalists}
        for text, mask in finalists.items():
            candidates.setdefault(mask.hash, (text, mask))
        result = MaskResult(masks[0])
        if len(candidates) > 1:
            scores = self._second_scores([mask for _, mask in candidates.values()], model)
            (kept, mask), _ = max(zip(candidates.values(), scores, strict=True), key=itemgetter(1))
            names = [text or f"search {place}" for place, (text, _) in enumerate(candidates.values(), start=1)]
            rescored = {name: score for name, score in zip(names, scores, strict=True) if math.isfinite(score)}
            result = MaskResult(mask, rescored=rescored, kept=kept)
        return replace(
            result,
            scorings=len(history),
            foreign_trials=_foreign_trials(history),
            seconds=inputs.seconds + history.seconds + perf_counter() - begun,
        )

    def _second_scores(self, masks: list[Mask], model: nn.Module) -> list[float]:
        """Scores of masks on validation examples that the search has not seen; minus infinity instead of NaN."""
        context, search = self.context, self.context.settings.search
        scorer = cell_scorer(
            context,
            model,
            context.data.rest,
            objective=search.rescore_by,
            steps=search.rescore_steps,
            later=self.later,
        )
        self.callback.rescoring_begins(context.cell, len(masks))
        scores: list[float] = []
        for begin in range(0, len(masks), search.proposals):
            for score in scorer.score(masks[begin : begin + search.proposals]):
                self.callback.rescored(context.cell, score)
                scores.append(-math.inf if math.isnan(score.value) else score.value)
        return scores

    def _learn(self, model: nn.Module, density: Density, alive: Mask | None, folder: Path) -> MaskResult:
        context, cell = self.context, self.context.cell
        if alive is not None:
            raise InputError(f"rounds: {cell.rounds}; {cell.method} learns a mask of all weights in one round")
        seconds = 0.0

        def on_epoch(row: EpochRow) -> None:
            nonlocal seconds
            seconds += row.seconds
            self.callback.epoch(row)

        mask = learn(
            cell.method,
            model,
            context.space,
            context.data.train,
            density,
            settings=context.settings.supermask,
            # Published layer by layer; the flag's "global" means a ranking of criteria over all layers.
            scope="erk" if context.settings.scope == "erk" else "layerwise",
            seed=derive(cell.seed, "supermask"),
            device=context.device,
            augment=context.data.augment,
            on_empty=context.settings.on_empty,
            generator=torch_generator(cell.seed, "supermask", "ties"),
            checkpoint=folder / "supermask.safetensors",
            on_epoch=on_epoch,
        )
        return MaskResult(mask, seconds=seconds)


def _foreign_trials(history: History) -> int:
    """Trials of other searches that a search of a shared study has learned from."""
    return int(history.trials[-1].metrics.get(FOREIGN_TRIALS, 0)) if len(history) else 0
