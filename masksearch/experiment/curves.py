"""Curves of a cell in TensorBoard: its search, and its row in the hparams tab."""

import math
from typing import Any

from masksearch.experiment.cells import Cell
from masksearch.tracking import Tracker
from masksearch.trial import Trial

__all__ = ["SearchCurves", "compare_by"]

_POINTS = 1000  # of a curve, about


class SearchCurves:
    """The curves of a search over its trials: one in some, and those at which the loop took a closer look."""

    def __init__(self, tracker: Tracker, budget: int) -> None:
        self._tracker, self._stride = tracker, max(1, budget // _POINTS)
        self._best, self._seconds = math.nan, 0.0

    def add(self, trial: Trial) -> None:
        """Take the next trial."""
        if trial.is_best:
            self._best = trial.score.value
        self._seconds += trial.score.seconds
        if trial.number % self._stride and "hamming_best" not in trial.metrics:
            return
        curves = {name if "/" in name else f"search/{name}": value for name, value in trial.metrics.items()}
        curves["search/best"] = self._best
        if trial.score.exact:  # a bound is no score
            curves["search/score"] = trial.score.value
        if self._seconds:
            curves["search/scorings_per_second"] = (trial.number + 1) / self._seconds
        self._tracker.scalars(curves, trial.number)


def compare_by(tracker: Tracker, cell: Cell, metrics: dict[str, Any]) -> None:
    """The cell's row in the hparams tab."""
    settings: dict[str, bool | str | float | int] = {
        name: metrics[name]
        for name in ("method", "sparsity", "find_at", "seed", "schedule", "n_rounds", "rewind_to", "control")
    }
    settings["retrain_lr"] = cell.retrain_lr or cell.settings.train.lr
    final = {
        "final/untrained_test_accuracy": metrics["untrained"]["test_accuracy"],
        "final/trained_test_accuracy": metrics["trained"]["test_accuracy"],
        "final/search_score": metrics["score"]["search_score"],
        "final/optimism_gap": metrics["score"]["accuracy_gap"],
        "final/effective_macs": metrics["cost"]["effective_macs"],
    }
    tracker.hyperparameters(settings, final)
