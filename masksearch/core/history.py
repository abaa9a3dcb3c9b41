"""The history of a search: every trial in order, with the masks of the best few and of the Pareto front."""

import importlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Score, Trial
from masksearch.utils.errors import InputError


class History:
    """History of one search: the score of every trial (scored mask) in order; the best trials also have their masks.

    Searches that share an Optuna study have one history each, with their own trials only.

    Parameters
    ----------
    keep : int
        Number of best masks to keep, beside those of the front; other masks are dropped after their scoring.
    """

    def __init__(self, keep: int = 5) -> None:
        if keep < 1:
            raise InputError(f"keep: {keep}; a history keeps at least 1 mask, the best")
        self.keep = keep
        self.trials: list[Trial] = []
        self.seconds = 0.0  # of proposing and scoring
        self.first: Mask | None = None  # the first mask, at which a walk begins
        self.budgets: tuple[Budget, ...] = ()  # of the search, smallest first; several if larger ones continued it
        self._top: list[int] = []  # numbers of the trials with the best masks, best first; of equal scores, the earlier
        self._front: list[int] = []  # numbers of the trials of the front, cheapest first
        self._scores: dict[int, Score] = {}  # mask hash -> exact score
        self._bounds: dict[int, Score] = {}  # mask hash -> lowest bound, of masks without an exact score

    def __repr__(self) -> str:
        best = f", best score {self.best_score:.4g}" if self.has_best else ""
        budgets = ", ".join(f"{budget.scorings}" if budget.seconds is None else f"{budget}" for budget in self.budgets)
        return f"History({len(self)} trials{best}{f', budgets {budgets}' if len(self.budgets) > 1 else ''})"

    @classmethod
    def restored(cls, trials: Iterable[Trial], masks: dict[int, Mask], first: Mask, keep: int) -> "History":
        """Rebuild a search history from its trials (scored masks) in order; ``masks`` maps trial numbers to masks."""
        history = cls(keep)
        history.first = first
        for trial in trials:
            history._append(replace(trial, mask=masks.get(trial.number)))
        return history

    def add(self, mask: Mask, score: Score, metrics: dict[str, float]) -> Trial:
        """Append a mask with its score and metrics to the history, and return the new trial.

        A bound, NaN or an infinite score is never best, nor is one that doesn't count; of equal scores, the first is.
        """
        self.first = self.first or mask
        is_best = _counts(score) and (not self._top or score.value > self.best.score.value)
        known = score.counts and mask.hash in self._scores
        worth_keeping = _counts(score) and not known
        bound = self._bounds.get(mask.hash) if score.counts and not score.exact else None
        repeat = known or (bound is not None and bound.value == score.value)
        trial = Trial(len(self.trials), score, mask.hash, is_best, repeat, metrics, mask if worth_keeping else None)
        self._append(trial)
        return trial

    def _append(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.seconds += trial.score.seconds
        if not trial.score.counts:
            return
        if trial.score.exact:
            self._scores[trial.mask_hash] = trial.score
            self._bounds.pop(trial.mask_hash, None)
        elif trial.mask_hash not in self._scores:
            lowest = self._bounds.setdefault(trial.mask_hash, trial.score)
            if trial.score.value < lowest.value:
                self._bounds[trial.mask_hash] = trial.score
        if trial.mask is not None:
            left = self._rank(trial) + self._extend_front(trial)
            for number in left:
                if number not in self._top and number not in self._front:
                    self.trials[number] = replace(self.trials[number], mask=None)

    def _rank(self, trial: Trial) -> list[int]:
        """Add a trial to the best ones; returns the trials that are no longer among them."""
        better = sum(self.trials[number].score.value >= trial.score.value for number in self._top)
        self._top.insert(better, trial.number)
        return [self._top.pop()] if len(self._top) > self.keep else []

    def _extend_front(self, trial: Trial) -> list[int]:
        """Add a trial to the front unless another one dominates it; returns the trials that leave the front."""
        value, cost = trial.score.value, trial.score.cost
        if cost is None or math.isnan(cost):
            return []
        place = bisect_right(self._front, cost, key=lambda number: self._point(number)[1])
        if place and self._point(self._front[place - 1])[0] >= value:
            return [trial.number]
        beaten = [n for n in self._front if self._point(n)[1] >= cost and self._point(n)[0] <= value]
        self._front[place:place] = [trial.number]
        self._front = [number for number in self._front if number not in beaten]
        return beaten

    def _point(self, number: int) -> tuple[float, float]:
        score = self.trials[number].score
        assert score.cost is not None, "trials of the front have costs"
        return score.value, score.cost

    def known_score(self, mask: Mask, threshold: float | None = None) -> Score | None:
        """Return an earlier score of the same mask: the exact one, or an upper bound below ``threshold``; else None."""
        bound = self._bounds.get(mask.hash)
        if bound is not None:
            return bound if threshold is not None and bound.value < threshold else None
        return self._scores.get(mask.hash)

    @property
    def has_best(self) -> bool:
        """Whether any trial of the history has a finite score that is exact, not an upper bound."""
        return bool(self._top)

    @property
    def best(self) -> Trial:
        """Return the trial with the highest exact score (no upper bound); the trial also holds the scored mask.

        Raises
        ------
        InputError
            If no trial has an exact, finite score.
        """
        return self.top[0]

    @property
    def best_mask(self) -> Mask:
        """Return the mask with the highest exact score; raise an InputError if no trial has a finite score."""
        mask = self.best.mask
        assert mask is not None, "the best trials have their masks"
        return mask

    @property
    def best_score(self) -> float:
        """Return the highest exact score of any mask; raise an InputError if no trial has a finite score."""
        return self.best.score.value

    @property
    def top(self) -> list[Trial]:
        """Return the trials of the best masks (by default 5), best first; raise an InputError if no score is finite."""
        if not self._top:
            n = len(self.trials)
            raise InputError(f"history: none of its {n} trials has a finite score, so no mask is the best")
        return [self.trials[number] for number in self._top]

    @property
    def front(self) -> list[Trial]:
        """Return the Pareto front, cheapest first: trials for which no other trial has a better score and lower cost.

        Costs and scores rise along the front. For every trial with an exact score and a cost, the front has the trial,
        or one with at least its score at no higher cost; of equal trials, the first. The front of a search without
        costs is empty.
        """
        return [self.trials[number] for number in self._front]

    def within(self, cost: float) -> list[Trial]:
        """Return the trials of the Pareto front (score against cost) that cost at most ``cost``, best score first.

        Raises
        ------
        InputError
            If the front has no such trial.
        """
        if not self._front:
            raise InputError(
                f"history: none of its {len(self.trials)} trials has a score and a cost, so there is no Pareto front"
            )
        found = [trial for trial in self.front if self._point(trial.number)[1] <= cost]
        if not found:
            least = self._point(self._front[0])[1]
            raise InputError(
                f"cost: {cost:g}; the cheapest of {len(self.trials)} masks that were scored has {least:.3g}, so a "
                "higher cap or a larger budget is needed"
            )
        return found[::-1]

    def best_so_far(self) -> list[float]:
        """Return the best exact score up to each trial, in order of the trials; NaN before the first exact score."""
        curve: list[float] = []
        best = math.nan
        for trial in self.trials:
            if trial.is_best:
                best = trial.score.value
            curve.append(best)
        return curve

    def trials_dataframe(self) -> Any:
        """Return a pandas DataFrame with one row per trial (scored mask), in order.

        The columns are ``number``, ``score``, ``exact``, ``cost``, ``is_best``, ``is_repeat``, ``seconds``, ``images``,
        ``mask_hash`` and, for every metric of any trial, ``metrics_<name>``, NaN where a trial has no such metric.

        Raises
        ------
        InputError
            If pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise InputError(
                f"trials_dataframe: {error.name} is not installed, and the trials become a pandas DataFrame; "
                "run: pip install pandas"
            ) from None
        columns: dict[str, list[Any]] = {
            "number": [trial.number for trial in self],
            "score": [trial.score.value for trial in self],
            "exact": [trial.score.exact for trial in self],
            "cost": [math.nan if trial.score.cost is None else trial.score.cost for trial in self],
            "is_best": [trial.is_best for trial in self],
            "is_repeat": [trial.is_repeat for trial in self],
            "seconds": [trial.score.seconds for trial in self],
            "images": [trial.score.images for trial in self],
            "mask_hash": [trial.mask_hash for trial in self],
        }
        for name in dict.fromkeys(name for trial in self for name in trial.metrics):
            columns[f"metrics_{name}"] = [trial.metrics.get(name, math.nan) for trial in self]
        return pandas.DataFrame(columns)

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)


def _counts(score: Score) -> bool:
    return score.counts and score.exact and math.isfinite(score.value)
