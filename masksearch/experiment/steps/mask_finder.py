"""Finding the mask of a sweep's cell, by a search, a criterion or a learned supermask."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from masksearch.core.amount import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.protocol import FOREIGN_TRIALS, Budget, Cost, Trial
from masksearch.core.scorer_protocols import HasScore, Scoring
from masksearch.criteria import Connectivity, connected
from masksearch.experiment.cell import Cell
from masksearch.experiment.context import CellContext
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.identity import short_hash
from masksearch.experiment.results import FrontChoice
from masksearch.experiment.steps.cell_scorer import cell_scorer, scored_network
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.experiment.steps.search_inputs import SearchInputs
from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.pruning.physical import Removable
from masksearch.scoring import LatencyShare, ParallelScorer
from masksearch.searchers import Searcher
from masksearch.searching.loop import search
from masksearch.searching.subspace import Subspace, SubspaceEnergy, SubspaceScorer
from masksearch.supermasks import learn
from masksearch.training import EpochRow
from masksearch.training.record import Weights
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["MaskFinder", "MaskResult", "front_folder"]


@dataclass(frozen=True)
class MaskResult:
    """The mask that a run of a sweep found, the number of masks that were scored, and the seconds of the search."""

    mask: Mask
    scorings: int = 0  # by a search
    foreign_trials: int = 0  # trials of other searches that shared the study
    rescored: Mapping[str, float] = field(default_factory=dict)  # "search 1", ... and criteria -> second score
    kept: str | None = None  # the criterion whose mask scored better than the search's best in the second scoring
    seconds: float = 0.0  # of a search or of learning a supermask
    front: FrontChoice | None = None  # the trial, where a front was searched
    weights: Weights | None = None  # of the network that was pruned together with the choice of the mask


@dataclass(frozen=True)
class MaskFinder:
    """Finder of masks in one run of a sweep: by a search, by a criterion, or by learning a supermask.

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

    def __call__(self, model: nn.Module, amount: Amount, alive: Mask | None, folder: Path) -> MaskResult:
        """Find a mask for the weights of ``model``, within the alive units.

        Parameters
        ----------
        folder : Path
            For a search's history and a supermask's checkpoint; an unfinished one is continued.
        """
        cell = self.context.cell
        model.to(self.context.device)
        if cell.searches:
            return self._search(model, amount, alive, front_folder(cell) if cell.front else folder)
        if cell.learns:
            return self._learn(scored_network(self.context, model), amount, alive, folder)
        return MaskResult(criterion_mask(self.context, model, amount, alive))

    # A search: its inputs first, then the loop over all units, or over those that earlier rounds have left.

    def _search(self, model: nn.Module, amount: Amount, alive: Mask | None, folder: Path) -> MaskResult:
        context, cell, settings = self.context, self.context.cell, self.context.settings
        self.callback.search_begins(cell)
        inputs = SearchInputs(context, model, amount, alive, folder, self.callback)
        seconds = settings.scoring.seconds
        if seconds is not None:  # gradual pruning counts; one scoring is always made
            seconds = max(seconds - inputs.pruning_seconds, 1e-9)
        # Sweeps that share a study must not propose the same masks.
        words = [settings.run.runs, settings.run.name] if cell.searcher().shares_trials else []
        searcher = cell.searcher().placed(folder, cell.study)
        run = partial(
            search,
            searcher=searcher,
            budget=Budget(settings.sweep.budget, seconds),
            seed=derive(cell.seed, "search", *words),
            batch=settings.search.proposals,
            folder=folder,
            callbacks=[self.on_trial],
            progress=False,
        )
        scorer = cell_scorer(context, model, context.data.search, later=self.later)
        if alive is not None:
            return self._search_of_alive(run, scorer, amount, alive, inputs, model)
        run = partial(
            run, context.space, scorer=self._shared(scorer), saliencies=inputs.saliencies, energy=inputs.energy
        )
        whole = amount.across("global")  # the scope is for criteria
        if cell.front:
            return self._search_of_front(run, whole, folder, inputs, model)
        refine = None
        if settings.scoring.connected:
            refine = partial(connected, connectivity=Connectivity(model, context.space, context.example))
        history = run(density=whole, start=inputs.start, refine=refine)
        masks = _masks(history.top)
        if (predicted := searcher.predicted_best) is not None:
            masks = [predicted, *masks]
        return self._best(masks, history, inputs, model)

    def _search_of_alive(
        self,
        run: Callable[..., History],
        scorer: Scoring,
        amount: Amount,
        alive: Mask,
        inputs: SearchInputs,
        model: nn.Module,
    ) -> MaskResult:
        """Search the units that earlier rounds have left."""
        cell = self.context.cell
        if amount.hold != "units" or amount.per_layer is not None:
            raise InputError(
                f"rounds: {cell.method} searches the units that are alive, and can hold {cell.rounds} rounds to "
                "one density in units only"
            )
        left = Subspace(alive)
        history = run(
            left,
            scorer=self._shared(SubspaceScorer(scorer, left)),
            density=amount.across("global").at(left.density(amount.single("rounds have one"))),
            start=None if inputs.start is None else Mask(left, left.reduced(inputs.start.bits)),
            saliencies={name: left.reduced(values) for name, values in inputs.saliencies.items()},
            energy=None if inputs.energy is None else SubspaceEnergy(inputs.energy, left),
        )
        return self._best([left.lifted(mask) for mask in _masks(history.top)], history, inputs, model)

    def _search_of_front(
        self, run: Callable[..., History], whole: Amount, folder: Path, inputs: SearchInputs, model: nn.Module
    ) -> MaskResult:
        """Search the front that cells of several densities share; choose among its masks within the cell's density."""
        cell = self.context.cell
        with locked(folder, wait=True):  # another sweep may be searching this front
            RunFolder(folder, cell.front_identity, cell.deciding_settings())
            history = run(density=whole.at(1.0), cost=self._front_cost(model))
        within = {trial.mask.hash: trial for trial in history.within(cell.density) if trial.mask is not None}
        result = self._best(_masks(within.values()), history, inputs, model)
        trial = within[result.mask.hash]
        choice = FrontChoice(f"{folder.parent.name}/{folder.name}", trial.number, trial.score.cost)
        return replace(result, front=choice)

    def _shared(self, scorer: HasScore) -> HasScore:
        """Return the scorer, or several workers that have it each, as the settings say."""
        settings = self.context.settings.search
        if settings.scorers == 1:
            return scorer
        return ParallelScorer(scorer, settings.scorers, settings.scorer_order, threads=torch.get_num_threads())

    def _front_cost(self, model: nn.Module) -> Cost:
        """Return the cost of masks on the cell's front; latencies are measured on the device of ``model``."""
        context, cost = self.context, self.context.cell.front
        assert cost is not None, "only cells with a front have a cost"
        if cost != "latency":
            return cost
        assert isinstance(context.space, Removable), "settings with caps remove units"
        return LatencyShare(model, context.space, context.example)

    # The second scoring chooses between the best masks of a search, its start, and the masks of the finalists.

    def _best(self, masks: Sequence[Mask], history: History, inputs: SearchInputs, model: nn.Module) -> MaskResult:
        """Return the search's best mask, or the best of several masks by a second scoring.

        The second scoring uses validation examples that the search has not seen.
        """
        begun, context, settings = perf_counter(), self.context, self.context.settings.search
        candidates: dict[int, tuple[str | None, Mask]] = {}  # by hash: the criterion, None for the search; the mask
        for mask in masks[: settings.rescore]:
            candidates.setdefault(mask.hash, (None, mask))
        finalists = dict(inputs.finalists)
        if settings.rescore_by is not None and settings.warm_start is not None and inputs.start is not None:
            finalists = {settings.warm_start: inputs.start, **finalists}
        for text, mask in finalists.items():
            candidates.setdefault(mask.hash, (text, mask))
        result = MaskResult(masks[0])
        if len(candidates) > 1:
            scorer = cell_scorer(
                context,
                model,
                context.data.rest,
                objective=settings.rescore_by,
                steps=settings.rescore_steps,
                later=self.later,
            )
            self.callback.rescoring_begins(context.cell, len(candidates))
            scores: list[float] = []
            again = [mask for _, mask in candidates.values()]
            for begin in range(0, len(again), settings.proposals):
                for score in scorer.score(again[begin : begin + settings.proposals]):
                    self.callback.rescored(context.cell, score)
                    scores.append(-math.inf if math.isnan(score.value) else score.value)
            (kept, mask), _ = max(zip(candidates.values(), scores, strict=True), key=itemgetter(1))
            names = [text or f"search {place}" for place, (text, _) in enumerate(candidates.values(), start=1)]
            rescored = {name: score for name, score in zip(names, scores, strict=True) if math.isfinite(score)}
            result = MaskResult(mask, rescored=rescored, kept=kept)
        foreign = history.trials[-1].metrics.get(FOREIGN_TRIALS, 0) if len(history) else 0
        seconds = inputs.seconds + history.seconds + perf_counter() - begun
        return replace(result, scorings=len(history), foreign_trials=int(foreign), seconds=seconds)

    def _learn(self, model: nn.Module, amount: Amount, alive: Mask | None, folder: Path) -> MaskResult:
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
            # Published layer by layer; the flag's "global" means a ranking of criteria over all layers.
            amount if amount.scope == "erk" else amount.across("layerwise"),
            settings=context.settings.supermask,
            seed=derive(cell.seed, "supermask"),
            device=context.device,
            augment=context.data.augment,
            generator=torch_generator(cell.seed, "supermask", "ties"),
            checkpoint=folder / "supermask.safetensors",
            on_epoch=on_epoch,
        )
        return MaskResult(mask, seconds=seconds)


def _masks(trials: Iterable[Trial]) -> list[Mask]:
    return [trial.mask for trial in trials if trial.mask is not None]


def front_folder(cell: Cell) -> Path:
    """Return the folder, in ``runs/fronts``, of a search of a Pareto front; runs with other cost bounds share it."""
    sweep = cell.settings.sweep
    name = f"{sweep.dataset}_{sweep.model}_{cell.method}_{cell.front}_k{cell.find_at}_seed{cell.seed}"
    name = name.replace("/", "-").replace(":", "-")
    return cell.settings.run.folder / "fronts" / f"{name}_{short_hash(cell.front_identity)}"
