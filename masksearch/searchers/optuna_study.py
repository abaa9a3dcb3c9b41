"""A study in memory that is rebuilt from plain numbers, asked through samplers that are made anew for every trial."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from masksearch.errors import InputError
from masksearch.rungs import RUNGS, WHOLE
from masksearch.searchers.optuna_cmaes import Cmaes
from masksearch.searchers.optuna_mirror import quiet
from masksearch.searchers.optuna_parametrisations import Parametrisation
from masksearch.seeds import derive

__all__ = ["MemoryStudy"]

_NAME = "search"


class MemoryStudy:
    """Points of a parametrisation, asked of a sampler and told their scores.

    What a sampler proposes is a function of the finished trials, the seed and the trial's number, and of nothing else:
    every trial has a sampler of its own, seeded from (seed, number). So the trials are the whole state, with the notes
    that samplers and pruners pin to trial and study (a generation's number, its parents, a rung).

    Parameters
    ----------
    sampler : str
        A name that :data:`~masksearch.searchers.optuna_searcher.SAMPLERS` has.
    parametrisation : Parametrisation
        Its starts are the first trials, but for those that were taken in; grid and brute force come by everything.
    seed : int
    levels : int
        Values per parameter, for the grid.
    pruner : str
        A name that :data:`~masksearch.searchers.optuna_searcher.PRUNERS` has.
    weighs_costs : bool
        Whether trials have a second value, their cost, which is to be small.
    """

    def __init__(
        self,
        sampler: str,
        parametrisation: Parametrisation,
        seed: int,
        levels: int,
        pruner: str = "none",
        *,
        weighs_costs: bool = False,
    ) -> None:
        self._sampler, self._parametrisation, self._seed, self._levels = sampler, parametrisation, seed, levels
        self._starts = [] if sampler in ("grid", "brute_force") else list(parametrisation.starts)  # that are to come
        self._storage = InMemoryStorage()
        self.directions = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * weighs_costs
        with quiet():
            self._id = self._storage.create_new_study(self.directions, _NAME)
        self._study = optuna.load_study(study_name=_NAME, storage=self._storage)
        self._pruner = _new_pruner(pruner)
        self._distributions = _distributions(parametrisation, parametrisation.low)
        self._cmaes: Cmaes | None = None
        if sampler == "cmaes":
            self._cmaes = Cmaes(len(parametrisation.names), seed, len(self._starts))

    def __len__(self) -> int:
        return self._storage.get_n_trials(self._id)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in order; read only."""
        return self._storage.get_all_trials(self._id, deepcopy=False)

    @property
    def room(self) -> int | None:
        """How many trials may be asked for before the next tell; None: any number."""
        return None if self._cmaes is None else self._cmaes.room

    @property
    def step_size(self) -> float | None:
        """CMA-ES' standard deviation, as a share of the bounds' distance."""
        return None if self._cmaes is None else self._cmaes.step_size

    def ask(self) -> tuple[int, np.ndarray]:
        """Number and values, float64 (n_parameters,), of the next trial."""
        number = len(self)
        point = self._fixed(number)
        if point is not None:
            self._study.enqueue_trial(dict(zip(self._parametrisation.names, point.tolist(), strict=True)))
        self._study.sampler = self._new_sampler(number)
        with quiet():
            values = self._suggest(self._study.ask(), point is not None)
        return number, values

    def _suggest(self, trial: optuna.Trial, is_fixed: bool) -> np.ndarray:
        if is_fixed and self._sampler.startswith("nsga"):
            _ = trial.relative_params  # a trial belongs to a generation only if the sampler was asked about it
        values: list[float] = []
        for name in self._parametrisation.names:
            low, high = self._parametrisation.bounds(values)
            if self._parametrisation.integers:
                values.append(trial.suggest_int(name, int(low), int(high)))
            else:
                values.append(trial.suggest_float(name, low, high))
        return np.array(values, dtype=float)

    def _fixed(self, number: int) -> np.ndarray | None:
        """The point of a trial that Optuna's samplers have no say in."""
        if self._starts:
            return self._starts.pop(0)
        if self._cmaes is None:
            return None
        low, high = self._parametrisation.low, self._parametrisation.high
        return np.clip(low + (high - low) * self._cmaes.ask(number), low, high)

    def _new_sampler(self, number: int) -> BaseSampler:
        seed = derive(self._seed, "optuna", number) % 2**32
        same = derive(self._seed, "optuna", self._sampler) % 2**32  # of what must be one sequence over all trials
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self._sampler:
                case "tpe":
                    sampler: BaseSampler = samplers.TPESampler(seed=seed)
                case "gp":
                    sampler = samplers.GPSampler(seed=seed)
                case "qmc":
                    sampler = samplers.QMCSampler(scramble=True, seed=same)
                case "nsga2":
                    sampler = samplers.NSGAIISampler(seed=seed)
                case "nsga3":
                    sampler = samplers.NSGAIIISampler(seed=seed)
                case "grid":
                    return samplers.GridSampler(self._grid(), seed=same)
                case "brute_force":
                    return samplers.BruteForceSampler(seed=seed)
                case _:
                    return samplers.RandomSampler(seed=seed)  # for cmaes, too, whose points it doesn't touch
        if self._sampler == "tpe" and len(self.directions) > 1:
            return sampler  # beside a cost, Optuna's own choice is to sample each parameter by itself
        # The parameters are known. A new sampler would look for them in all trials, in time trials x parameters.
        sampler.infer_relative_search_space = lambda study, trial: self._distributions  # type: ignore[method-assign]
        return sampler

    def _grid(self) -> dict[str, list[float]]:
        known = self._parametrisation
        bounds = zip(known.low, known.high, strict=True)
        values = [np.linspace(low, high, self._levels).tolist() for low, high in bounds]
        return dict(zip(known.names, values, strict=True))

    def stops(self, number: int, rung: int, score: float) -> bool:
        """Take a trial's score so far; whether the pruner stops it there."""
        trial_id = self.trials[number]._trial_id
        self._storage.set_trial_intermediate_value(trial_id, rung, score)
        return self._pruner.prune(self._study, self._storage.get_trial(trial_id))

    def tell(self, number: int, values: Sequence[float] | None, *, stopped: bool = False) -> None:
        """Take a trial's score, and its cost if it has one; None: it was stopped at a rung, or has failed."""
        trial = self.trials[number]
        # Not Study.tell: there, samplers that are through try to stop Optuna's own loop, and raise where there is none.
        ended, outcome = _outcome(values, stopped, trial.intermediate_values)
        self._storage.set_trial_state_values(trial._trial_id, ended, outcome)
        self._learn(self._values(trial), None if values is None else values[0])

    def take_in(self, trial: FrozenTrial, *, spares_starts: bool = True) -> None:
        """Add a finished trial of the same parameters; by default, a start that was scored there isn't to come."""
        if trial.distributions != self._distributions:
            raise InputError(f"study: its trial {trial.number} has other parameters than this search")
        self._storage.create_new_trial(self._id, trial)
        if spares_starts:
            self._spare(self._values(trial))

    def _spare(self, values: np.ndarray) -> None:
        self._starts = [start for start in self._starts if not np.array_equal(start, values)]

    def _learn(self, values: np.ndarray, score: float | None) -> None:
        if self._cmaes is not None:
            low, high = self._parametrisation.low, self._parametrisation.high
            self._cmaes.tell((values - low) / (high - low), score)

    def _values(self, trial: FrozenTrial) -> np.ndarray:
        return np.array([trial.params[name] for name in self._parametrisation.names], dtype=float)

    def state_dict(self) -> dict[str, Any]:
        """All trials, none of them running."""
        trials = self.trials
        no_score = [math.nan] * len(self.directions)
        return {
            "values": np.array([self._values(trial) for trial in trials]).reshape(-1, len(self._parametrisation.names)),
            "scores": np.array(
                [trial.values if trial.state == TrialState.COMPLETE else no_score for trial in trials]
            ).reshape(-1, len(self.directions)),
            "stopped": np.array([trial.state == TrialState.PRUNED for trial in trials], dtype=bool),
            "rungs": np.array(
                [[trial.intermediate_values.get(rung, math.nan) for rung in RUNGS] for trial in trials]
            ).reshape(-1, len(RUNGS)),
            "notes": [
                {key: note for key, note in trial.system_attrs.items() if key != "fixed_params"} for trial in trials
            ],
            "study_notes": dict(self._storage.get_study_system_attrs(self._id)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Fill a new study."""
        columns = (state["scores"].tolist(), state["stopped"].tolist(), state["rungs"].tolist(), state["notes"])
        for values, scores, stopped, so_far, notes in zip(state["values"], *columns, strict=True):
            distributions = self._distributions
            if self._parametrisation.integers:
                distributions = _distributions(self._parametrisation, values)
            named = zip(distributions.items(), values.tolist(), strict=True)
            params = {name: distribution.to_external_repr(value) for (name, distribution), value in named}
            told = None if math.isnan(scores[0]) else scores
            known = {rung: value for rung, value in zip(RUNGS, so_far, strict=True) if not math.isnan(value)}
            ended, outcome = _outcome(told, stopped, known)
            trial = create_trial(
                state=ended,
                values=outcome,
                params=params,
                distributions=distributions,
                system_attrs=dict(notes),
                intermediate_values=known,
            )
            self._storage.create_new_trial(self._id, trial)
            self._spare(values)
            self._learn(values, None if told is None else told[0])
        for key, note in state["study_notes"].items():
            self._storage.set_study_system_attr(self._id, key, note)


def _outcome(
    values: Sequence[float] | None, stopped: bool, so_far: Mapping[int, float]
) -> tuple[TrialState, Sequence[float] | None]:
    """State and values of a trial. That of one that was stopped is its last score so far, as Optuna has it."""
    if values is not None:
        return TrialState.COMPLETE, values
    if stopped and so_far:
        return TrialState.PRUNED, [so_far[max(so_far)]]
    return TrialState.FAIL, None


def _new_pruner(name: str) -> BasePruner:
    """Optuna's pruner of that name. A step is a rung, and all resources are given: nothing is guessed from trials."""
    match name:
        case "median":
            return MedianPruner()
        case "successive_halving":
            return SuccessiveHalvingPruner(min_resource=min(RUNGS), reduction_factor=2)
        case "hyperband":
            return HyperbandPruner(min_resource=min(RUNGS), max_resource=WHOLE, reduction_factor=2)
        case _:
            return NopPruner()


def _distributions(parametrisation: Parametrisation, values: np.ndarray) -> dict[str, BaseDistribution]:
    """What each parameter was drawn from, those before it having had these values."""
    found: dict[str, BaseDistribution] = {}
    for i, name in enumerate(parametrisation.names):
        low, high = parametrisation.bounds(values[:i].tolist())
        found[name] = IntDistribution(int(low), int(high)) if parametrisation.integers else FloatDistribution(low, high)
    return found
