"""TensorBoard events of a cell: curves of search and training, pictures of masks, the row in the hparams tab."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from masksearch.core.layout import Layer
from masksearch.core.mask import Mask
from masksearch.core.protocol import Trial
from masksearch.core.space import MaskSpace
from masksearch.experiment.cell import Cell
from masksearch.experiment.results import CellResult
from masksearch.searching.history_store import incumbents
from masksearch.training import EpochRow

__all__ = [
    "LAYOUT",
    "SearchCurves",
    "Tracker",
    "compare_by",
    "mask_pictures",
    "show_mask",
    "show_search",
    "track_epoch",
]


LAYOUT = {
    "Search": {
        "score, best, current": ["Multiline", ["search/score", "search/best", "search/current"]],
        "temperature and radius": ["Multiline", ["search/temperature", "search/radius"]],
        "distance to the start and to the best": ["Multiline", ["search/hamming_start", "search/hamming_best"]],
        "density of the layers": ["Multiline", ["density/.*"]],
    },
    "Training": {
        "accuracy": ["Multiline", ["val/accuracy", "train/accuracy"]],
        "loss": ["Multiline", ["val/loss", "train/loss"]],
        "learning rate": ["Multiline", ["train/lr"]],
    },
}
"""The charts of TensorBoard's tab Custom Scalars: each with its curves, of all runs that are chosen there."""

_SHARES = np.append(0.0, 1.1 ** np.arange(-100.0, 2.0))  # borders of a histogram's bins: 10 % apart, up to 1.1


class Tracker:
    """Writes curves and hyperparameters of one run folder.

    Event files of an earlier process are deleted first. A resumed run writes all its events again, so that no curve
    jumps back or ends twice.

    Parameters
    ----------
    folder : Path
        The run's folder; it holds the event file.
    """

    def __init__(self, folder: Path) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        from torch.utils.tensorboard import SummaryWriter  # here: importing it takes 0.3 s, and only runs need it

        self._writer = SummaryWriter(str(folder))
        self._writer.add_custom_scalars(LAYOUT)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each of several curves, by tag; NaN is left out."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if not math.isnan(value)]
        self._writer._get_file_writer().add_summary(Summary(value=points), step)  # one event, not one a curve

    def pictures(self, values: Mapping[str, Tensor], step: int) -> None:
        """One picture for each tag: (1, height, width), in [0, 1]."""
        for tag, picture in values.items():
            self._writer.add_image(tag, picture, step)

    def histogram(self, tag: str, shares: Sequence[float], step: int) -> None:
        """How some shares, each in [0, 1], are spread at one step."""
        self._writer.add_histogram(tag, np.asarray(shares), step, bins=_SHARES)

    def hyperparameters(self, settings: Mapping[str, bool | str | float | int], metrics: Mapping[str, float]) -> None:
        """Write the run's row of the hparams tab: its settings and its final metrics."""
        known = {tag: value for tag, value in metrics.items() if not math.isnan(value)}
        self._writer.add_hparams(dict(settings), known, run_name=".")

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()


def track_epoch(tracker: Tracker, row: EpochRow) -> None:
    """One point on each curve of a training: ``train/...``, ``val/...``, over epochs."""
    nan = math.nan
    tracker.scalars(
        {
            "train/loss": row.train_loss,
            "train/accuracy": nan if row.train_accuracy is None else row.train_accuracy,
            "val/loss": nan if row.val_loss is None else row.val_loss,
            "val/accuracy": nan if row.val_accuracy is None else row.val_accuracy,
            "train/lr": row.lr,
        },
        row.epoch,
    )


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


def compare_by(tracker: Tracker, cell: Cell, result: CellResult) -> None:
    """The cell's row in the hparams tab."""
    settings: dict[str, bool | str | float | int] = {
        name: getattr(result, name)
        for name in ("method", "sparsity", "find_at", "seed", "schedule", "n_rounds", "rewind_to", "control")
    }
    settings["retrain_lr"] = cell.retrain_lr or cell.settings.train.lr
    final = {
        "final/untrained_test_accuracy": result.untrained.test_accuracy,
        "final/trained_test_accuracy": result.trained.test_accuracy,
        "final/val_accuracy": result.trained.val_accuracy,
        "final/search_score": result.score.search_score,
        "final/optimism_gap": result.score.accuracy_gap,
        "final/params": result.cost.nonzero_params,
        "final/effective_macs": result.cost.effective_macs,
        "final/speedup": result.speedup,
    }
    tracker.hyperparameters(settings, {tag: value for tag, value in final.items() if value is not None})


_PIXELS = 48  # of a side, at most
_LAYERS = 12


def mask_pictures(mask: Mask) -> dict[str, Tensor]:
    """By ``mask/<layer>``: the share of kept units in every pixel, (1, height, width), in [0, 1].

    A weight matrix has its outputs downwards; filters stand side by side. Of many layers the first, the last and some
    between them are shown.
    """
    layers = mask.space.layers
    stride = max(1, math.ceil((len(layers) - 1) / (_LAYERS - 1)))
    shown = [*layers[:-1:stride], layers[-1]]
    return {f"mask/{layer.name}": _picture(mask, layer) for layer in shown}


def _picture(mask: Mask, layer: Layer) -> Tensor:
    bits = mask.bits[layer.slice].float()
    rows = layer.shape[0] if math.prod(layer.shape) == layer.size else 1
    picture = bits.view(1, rows, -1)
    if rows == 1:
        picture = picture.expand(1, 4, -1)
    _, height, width = picture.shape
    return F.adaptive_avg_pool2d(picture, (min(height, _PIXELS), min(width, _PIXELS)))
