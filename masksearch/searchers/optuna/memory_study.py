"""An Optuna study in memory that is restored from arrays; every trial has a new sampler with a derived seed."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from masksearch.searchers.optuna.cmaes_optimizer import Cmaes
from masksearch.searchers.optuna.parametrisations import Parametrisation
from masksearch.searchers.optuna.shared_study import SharedStudy
from masksearch.searchers.optuna.study_storage import quiet
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive

_NAME = "search"


class MemoryStudy:
    """Optuna study in memory that proposes points (a few numbers each); it can be restored exactly from arrays.

    A proposal is a function of the finished trials, the seed and the trial's number only, since every trial has a new
    sampler with a seed derived from (seed, number). The state of a search is therefore the list of trials, with the
    attributes that samplers attach to trials and study (a generation's number, its parents).

    Parameters
    ----------
    sampler : str
        A name in :data:`~masksearch.searchers.optuna.optuna_search.SAMPLERS`.
    parametrisation : Parametrisation
        Names and bounds of the numbers. Its start points are the first trials, except starts that another search has
        scored.
    seed : int
        Seed of the samplers.
    has_costs : bool
        Whether trials have a second value, their cost, which is minimised.
    """

    def __init__(self, sampler: str, parametrisation: Parametrisation, seed: int, *, has_costs: bool) -> None:
        self._sampler, self._parametrisation, self._seed = sampler, parametrisation, seed
        self._starts = list(parametrisation.starts)  # not proposed yet
        self._storage = InMemoryStorage()
        self.directions = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * has_costs
        with quiet():
            self._id = self._storage.create_new_study(self.directions, _NAME)
        self._study = optuna.load_study(study_name=_NAME, storage=self._storage)
        self._distributions: dict[str, BaseDistribution] = {
            name: FloatDistribution(low, high)
            for name, low, high in zip(
                parametrisation.names, parametrisation.low.tolist(), parametrisation.high.tolist(), strict=True
            )
        }
        self._cmaes: Cmaes | None = None
        if sampler == "cmaes":
            self._cmaes = Cmaes(len(parametrisation.names), seed, len(self._starts))

    def __len__(self) -> int:
        return self._storage.get_n_trials(self._id)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Return all trials of the Optuna study, in order; do not change them."""
        return self._storage.get_all_trials(self._id, deepcopy=False)

    @property
    def max_asks(self) -> int | None:
        """Return how many trials :meth:`ask` can still begin before :meth:`tell` has to be called; None: any number."""
        return None if self._cmaes is None else self._cmaes.max_asks

    @property
    def step_size(self) -> float | None:
        """Return the standard deviation of CMA-ES, as a share of the parameters' range; None for other samplers."""
        return None if self._cmaes is None else self._cmaes.step_size

    def ask(self) -> tuple[int, np.ndarray]:
        """Begin the next trial; return its number and the point to score, an array of shape (n_parameters,)."""
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
            _ = trial.relative_params  # NSGA counts a trial in a generation only if its relative parameters are read
        points = self._parametrisation
        bounds = zip(points.names, points.low.tolist(), points.high.tolist(), strict=True)
        return np.array([trial.suggest_float(name, low, high) for name, low, high in bounds], dtype=float)

    def _fixed(self, number: int) -> np.ndarray | None:
        """The point of a trial that no sampler of Optuna proposes: a start, or a point of CMA-ES; else None."""
        if self._starts:
            return self._starts.pop(0)
        if self._cmaes is None:
            return None
        low, high = self._parametrisation.low, self._parametrisation.high
        return np.clip(low + (high - low) * self._cmaes.ask(number), low, high)

    def _new_sampler(self, number: int) -> BaseSampler:
        seed = derive(self._seed, "optuna", number) % 2**32
        same = derive(self._seed, "optuna", self._sampler) % 2**32  # for samplers with one sequence over all trials
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
                case _:
                    return samplers.RandomSampler(seed=seed)  # also for cmaes, whose points are fixed
        if self._sampler == "tpe" and len(self.directions) > 1:
            return sampler  # with a cost, Optuna samples every parameter independently
        # A new sampler would search all trials for the parameters, in time O(trials x parameters); they are known here.
        sampler.infer_relative_search_space = lambda study, trial: self._distributions  # type: ignore[method-assign]
        return sampler

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Finish trial ``number`` with its score and, if the study has costs, its cost; None means that it failed."""
        trial = self.trials[number]
        self._storage.set_trial_state_values(trial._trial_id, _state(values), values)
        self._learn(self._values(trial), None if values is None else values[0])

    def add_trial(self, trial: FrozenTrial, *, skip_start: bool = True) -> None:
        """Add a finished trial of another search in a shared study; by default, its point is not proposed again."""
        if trial.distributions != self._distributions:
            raise InputError(f"study: its trial {trial.number} has other parameters than this search")
        self._storage.create_new_trial(self._id, trial)
        if skip_start:
            self._skip_start(self._values(trial))

    def _skip_start(self, values: np.ndarray) -> None:
        self._starts = [start for start in self._starts if not np.array_equal(start, values)]

    def _learn(self, values: np.ndarray, score: float | None) -> None:
        if self._cmaes is not None:
            low, high = self._parametrisation.low, self._parametrisation.high
            self._cmaes.tell((values - low) / (high - low), score)

    def _values(self, trial: FrozenTrial) -> np.ndarray:
        return np.array([trial.params[name] for name in self._parametrisation.names], dtype=float)

    def waiting(self) -> dict[int, np.ndarray]:
        """Return {number: point} of the trials that wait for their scores."""
        return {trial.number: self._values(trial) for trial in self.trials if trial.state == TrialState.RUNNING}

    def state_dict(self) -> dict[str, object]:
        """Return all trials of the study as arrays, from which the study can be restored."""
        trials = self.trials
        no_score = [math.nan] * len(self.directions)
        running = list(self.waiting())
        return {
            **({"waiting": running} if running else {}),
            "values": np.array([self._values(trial) for trial in trials]).reshape(-1, len(self._parametrisation.names)),
            "scores": np.array(
                [trial.values if trial.state == TrialState.COMPLETE else no_score for trial in trials]
            ).reshape(-1, len(self.directions)),
            "notes": [
                {key: note for key, note in trial.system_attrs.items() if key != "fixed_params"} for trial in trials
            ],
            "study_notes": dict(self._storage.get_study_system_attrs(self._id)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the trials that :meth:`state_dict` returned; this study must not have trials yet."""
        rows = zip(state["values"], state["scores"].tolist(), state["notes"], strict=True)
        for number, (values, scores, notes) in enumerate(rows):
            result = None if math.isnan(scores[0]) else scores
            waits = number in state.get("waiting", [])
            trial = create_trial(
                state=TrialState.RUNNING if waits else _state(result),
                values=result,
                params=dict(zip(self._parametrisation.names, values.tolist(), strict=True)),
                distributions=self._distributions,
                system_attrs=dict(notes),
            )
            self._storage.create_new_trial(self._id, trial)
            self._skip_start(values)
            if not waits:
                self._learn(values, None if result is None else result[0])
        for key, note in state["study_notes"].items():
            self._storage.set_study_system_attr(self._id, key, note)


@dataclass
class OptunaState:
    """State from which a search by an Optuna sampler resumes: its study with all trials."""

    study: MemoryStudy  # the trials of this search, and of the others if they are shared
    start_is_due: bool  # whether the given start mask is still to be proposed
    shared: SharedStudy | None  # the study that several searches share, if they do
    foreign_trials: int = 0  # number of trials of other searches in ``study``


def _state(values: Sequence[float] | None) -> TrialState:
    return TrialState.FAIL if values is None else TrialState.COMPLETE
