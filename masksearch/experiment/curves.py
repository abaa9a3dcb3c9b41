"""A cell in TensorBoard: curves of its search, pictures of its masks, its row in the hparams tab."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masksearch.experiment.cells import Cell
from masksearch.experiment.pictures import mask_pictures
from masksearch.history_file import incumbents
from masksearch.mask import Mask
from masksearch.space import MaskSpace
from masksearch.tracking import Tracker
from masksearch.trial import Trial

__all__ = ["SearchCurves", "compare_by", "show_mask", "show_search"]

_POINTS = 1000  # of a curve, about
_MASKS = 8  # of a search, as pictures


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
        if trial.score.cost is not None:
            curves["search/cost"] = trial.score.cost
        if self._seconds:
            curves["search/scorings_per_second"] = (trial.number + 1) / self._seconds
        self._tracker.scalars(curves, trial.number)
        densities = [value for name, value in trial.metrics.items() if name.startswith("density/")]
        if densities:
            self._tracker.histogram("layers/density", densities, trial.number)


def show_search(tracker: Tracker, folder: Path, space: MaskSpace, lifted: Callable[[Mask], Mask] | None) -> None:
    """Pictures of the masks that a search in ``folder`` stood on, at some moments; none if it stood on none.

    Parameters
    ----------
    space : MaskSpace
        What was searched.
    lifted : callable or None
        From a mask of it to the mask that is shown, if that is another one.
    """
    for number, mask in incumbents(folder, space, _MASKS):
        tracker.pictures(mask_pictures(lifted(mask) if lifted else mask), number)


def show_mask(tracker: Tracker, mask: Mask, step: int) -> None:
    """The picture of one mask, and how the densities of its layers are spread."""
    tracker.pictures(mask_pictures(mask), step)
    tracker.histogram("layers/density", list(mask.densities().values()), step)


def compare_by(tracker: Tracker, cell: Cell, metrics: dict[str, Any]) -> None:
    """The cell's row in the hparams tab."""
    settings: dict[str, bool | str | float | int] = {
        name: metrics[name]
        for name in ("method", "sparsity", "find_at", "seed", "schedule", "n_rounds", "rewind_to", "control")
    }
    settings["retrain_lr"] = cell.retrain_lr or cell.settings.train.lr
    val_accuracy, seconds = metrics["trained"]["val_accuracy"], metrics["seconds"]
    final = {
        "final/untrained_test_accuracy": metrics["untrained"]["test_accuracy"],
        "final/trained_test_accuracy": metrics["trained"]["test_accuracy"],
        "final/val_accuracy": math.nan if val_accuracy is None else val_accuracy,
        "final/search_score": metrics["score"]["search_score"],
        "final/optimism_gap": metrics["score"]["accuracy_gap"],
        "final/params": metrics["cost"]["nonzero_params"],
        "final/effective_macs": metrics["cost"]["effective_macs"],
        "final/speedup": seconds["latency_dense_batch_64"] / seconds["latency_ticket_batch_64"],
    }
    tracker.hyperparameters(settings, final)
