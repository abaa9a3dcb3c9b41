"""The search of a sweep's cell: over all units, over those that earlier rounds have left, or of a Pareto front."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from masksearch.core.density_allocation import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import FOREIGN_TRIALS, Budget, Cost, Refine, Trial
from masksearch.core.scorer_protocols import HasScore
from masksearch.criteria import Connectivity, connected
from masksearch.experiment.cell import Cell
from masksearch.experiment.cell_results import FrontChoice
from masksearch.experiment.context import CellContext
from masksearch.experiment.identity import short_hash
from masksearch.experiment.steps.cell_scorer import cell_scorer
from masksearch.experiment.steps.search_inputs import SearchInputs
from masksearch.experiment.steps.second_scoring import choose_mask
from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.pruning.physical import Removable
from masksearch.scoring import LatencyShare, ParallelScorer, Scorer, ShortTraining
from masksearch.searchers import Searcher
from masksearch.searching.search_function import search
from masksearch.searching.subspace import Subspace, SubspaceEnergy, SubspaceScorer
from masksearch.training.record import Weights
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive


@dataclass(frozen=True)
class MaskResult:
    """The mask that a run of a sweep found, the number of masks that were scored, and the seconds of the search."""

    mask: Mask
    scorings: int = 0  # by a search
    foreign_trials: int = 0  # trials of other searches that shared the study
    rescored: Mapping[str, float] = field(default_factory=dict)  # "search 1", ... and criteria -> second score
    kept: str | None = None  # the criterion that made the mask, if the search found no better one
    seconds: float = 0.0  # of a search or of learning a supermask
    front: FrontChoice | None = None  # the trial, where a front was searched
    weights: Weights | None = None  # of the network that was pruned together with the choice of the mask


@dataclass(frozen=True)
class MaskSearch:
    """Search of a sweep's run for a mask of ``model``; an unfinished search in ``folder`` is continued.

    Parameters
    ----------
    on_trial : callable
        A callback of :func:`masksearch.search`.
    later : bool
        Whether an earlier round has trained.
    """

    context: CellContext
    model: nn.Module
    folder: Path
    on_trial: Callable[[Trial, History, Searcher], None]
    callback: SweepCallback
    later: bool

    def run(self, amount: Amount, alive: Mask | None) -> MaskResult:
        """Search for a mask of density ``amount`` among the units in ``alive`` (None: all units); return the mask."""
        cell = self.context.cell
        self.callback.search_begins(cell)
        inputs = SearchInputs(self.context, self.model, amount, alive, self.folder, self.callback)
        whole = amount.across("global")  # the scope is for criteria
        if alive is not None:
            return self._within(alive, inputs, whole)
        return self._front(inputs, whole) if cell.front else self._over_all_units(inputs, whole)

    def _over_all_units(self, inputs: SearchInputs, amount: Amount) -> MaskResult:
        """Search masks of one density."""
        history = self._search(inputs)(
            self.context.space,
            scorer=self._workers(self._scorer()),
            saliencies=inputs.saliencies,
            energy=inputs.energy,
            density=amount,
            start=inputs.start,
            refine=self._refine(),
        )
        masks = _best_masks(history)
        predicted = self._searcher.predicted_best
        return self._result(masks if predicted is None else [predicted, *masks], history, inputs)

    def _within(self, alive: Mask, inputs: SearchInputs, amount: Amount) -> MaskResult:
        """Search masks of the units that earlier rounds have kept."""
        cell = self.context.cell
        if amount.hold != "units" or amount.per_layer is not None:
            raise InputError(
                f"rounds: {cell.rounds}; in several rounds {cell.method} needs hold 'units' and one density for all "
                "layers; change these, or give one round"
            )
        left = Subspace(alive)
        history = self._search(inputs)(
            left,
            scorer=self._workers(SubspaceScorer(self._scorer(), left)),
            saliencies={name: left.reduced(values) for name, values in inputs.saliencies.items()},
            energy=None if inputs.energy is None else SubspaceEnergy(inputs.energy, left),
            density=amount.at(left.density(amount.single("rounds have one"))),
            start=None if inputs.start is None else Mask(left, left.reduced(inputs.start.bits)),
        )
        return self._result([left.lifted(mask) for mask in _best_masks(history)], history, inputs)

    def _front(self, inputs: SearchInputs, amount: Amount) -> MaskResult:
        """Search the Pareto front of score and cost, and take the best masks within the cell's bound of the cost."""
        cell, folder = self.context.cell, self.folder
        with locked(folder, wait=True):  # another sweep may be searching this front
            RunFolder(folder, cell.front_identity, cell.deciding_settings())
            history = self._search(inputs)(
                self.context.space,
                scorer=self._workers(self._scorer()),
                saliencies=inputs.saliencies,
                energy=inputs.energy,
                density=amount.at(1.0),
                cost=self._front_cost(),
            )
        within = {trial.mask: trial for trial in history.within(cell.density) if trial.mask is not None}
        result = self._result(list(within), history, inputs)
        trial = within[result.mask]
        choice = FrontChoice(f"{folder.parent.name}/{folder.name}", trial.number, trial.score.cost)
        return replace(result, front=choice)

    # What the three searches share.

    @cached_property
    def _searcher(self) -> Searcher:
        return self.context.cell.searcher().placed(self.folder, self.context.cell.study)

    def _search(self, inputs: SearchInputs) -> Callable[..., History]:
        """Return :func:`masksearch.search` with the searcher and the settings of the cell."""
        cell, settings = self.context.cell, self.context.settings
        seconds = settings.scoring.seconds
        if seconds is not None:  # gradual pruning counts; one scoring is always made
            seconds = max(seconds - inputs.pruning_seconds, 1e-9)
        # Sweeps that share a study must not propose the same masks.
        words = [settings.run.runs, settings.run.name] if self._searcher.shares_trials else []
        return partial(
            search,
            searcher=self._searcher,
            budget=Budget(settings.sweep.budget, seconds),
            seed=derive(cell.seed, "search", *words),
            batch=settings.search.proposals,
            folder=self.folder,
            callbacks=[self.on_trial],
            progress=False,
        )

    def _scorer(self) -> Scorer | ShortTraining:
        return cell_scorer(self.context, self.model, self.context.data.search, later=self.later)

    def _workers(self, scorer: HasScore) -> HasScore:
        """Return the scorer, or several workers that have it each, as the settings say."""
        settings = self.context.settings.search
        if settings.scorers == 1:
            return scorer
        return ParallelScorer(scorer, settings.scorers, settings.scorer_order, threads=torch.get_num_threads())

    def _refine(self) -> Refine | None:
        """Return the function that keeps every layer of a mask connected, if the settings ask for it."""
        if not self.context.settings.scoring.connected:
            return None
        return partial(connected, connectivity=Connectivity(self.model, self.context.space, self.context.example))

    def _front_cost(self) -> Cost:
        """Return the cost of masks on the cell's front; latencies are measured on the device of the network."""
        context, cost = self.context, self.context.cell.front
        assert cost is not None, "only cells with a front have a cost"
        if cost != "latency":
            return cost
        assert isinstance(context.space, Removable), "settings with caps remove units"
        return LatencyShare(self.model, context.space, context.example)

    def _result(self, masks: Sequence[Mask], history: History, inputs: SearchInputs) -> MaskResult:
        """Return the mask that the second scoring chooses, with the seconds of everything."""
        begun = perf_counter()
        chosen = choose_mask(self.context, self.model, masks, inputs, self.callback, later=self.later)
        foreign = history.trials[-1].metrics.get(FOREIGN_TRIALS, 0) if len(history) else 0
        return MaskResult(
            chosen.mask,
            scorings=len(history),
            foreign_trials=int(foreign),
            rescored=chosen.scores,
            kept=chosen.criterion or self._kept_start(chosen.mask, inputs),
            seconds=inputs.seconds + history.seconds + perf_counter() - begun,
        )

    def _kept_start(self, mask: Mask, inputs: SearchInputs) -> str | None:
        """Return the setting ``warm_start`` if the search ends with the mask that it started from."""
        return self.context.settings.search.warm_start if mask == inputs.start else None


def _best_masks(history: History) -> list[Mask]:
    return [trial.mask for trial in history.top if trial.mask is not None]


def front_folder(cell: Cell) -> Path:
    """Return the folder of a run's search of a Pareto front, which runs with other cost bounds share."""
    sweep = cell.settings.sweep
    name = f"{sweep.dataset}_{sweep.model}_{cell.method}_{cell.front}_k{cell.find_at}_seed{cell.seed}"
    name = name.replace("/", "-").replace(":", "-")
    return cell.settings.run.folder / "fronts" / f"{name}_{short_hash(cell.front_identity)}"
