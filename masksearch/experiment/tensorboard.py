"""TensorBoard events of a cell: curves of search and training, pictures of masks, the row in the hparams tab."""

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from masksearch.core.layout import Layer
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Trial
from masksearch.core.space import MaskSpace
from masksearch.experiment.cell_results import CellResult
from masksearch.searching.history_store import incumbents
from masksearch.searching.subspace import Subspace
from masksearch.training import EpochRow
from masksearch.utils.errors import InputError, first_line

_SEARCH_CHARTS: dict[str, list[object]] = {
    "score, best, current": ["Multiline", ["search/score", "search/best", "search/current"]],
    "temperature and radius": ["Multiline", ["search/temperature", "search/radius"]],
    "distance to the start and to the best": ["Multiline", ["search/hamming_start", "search/hamming_best"]],
    "density of the layers": ["Multiline", ["density/.*"]],
}
_POINTS = 1000  # of a curve, about
_MASKS = 8  # of a search, as pictures
_PIXELS = 48  # of a picture's side, at most
_LAYERS = 12  # with a picture each, at most
_SHARES = np.append(0.0, 1.1 ** np.arange(-100.0, 2.0))  # borders of a histogram's bins: 10 % apart, up to 1.1


_P = ParamSpec("_P")


def charts(metric: str = "accuracy") -> dict[str, dict[str, list[object]]]:
    """Return the layout of TensorBoard's tab Custom Scalars: {category: {title: [kind of chart, names of curves]}}."""
    training: dict[str, list[object]] = {
        metric: ["Multiline", [f"val/{_tag(metric)}", f"train/{_tag(metric)}"]],
        "loss": ["Multiline", ["val/loss", "train/loss"]],
        "learning rate": ["Multiline", ["train/lr"]],
    }
    return {"Search": _SEARCH_CHARTS, "Training": training}


def _tag(metric: str) -> str:
    return metric.replace(" ", "_")


def _side_output(method: Callable[Concatenate["Tracker", _P], None]) -> Callable[Concatenate["Tracker", _P], None]:
    """Decorate a method so that an error of it ends the writing of events with a warning, but never the run."""

    @wraps(method)
    def writing(self: "Tracker", *arguments: _P.args, **options: _P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *arguments, **options)
        except InputError:
            raise
        except Exception as error:  # of the disk, or of TensorBoard
            self.broken = True
            reason = first_line(error)
            warnings.warn(
                f"TensorBoard's events in {self.folder} can't be written ({reason}); the run continues without them",
                stacklevel=3,
            )

    return writing


def _quiet_threads() -> None:
    """Keep TensorBoard's writing threads from printing a traceback; their errors reach the methods of trackers."""
    before = threading.excepthook
    if getattr(before, "of_masksearch", False):
        return

    def hook(args: Any) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            before(args)

    hook.of_masksearch = True  # type: ignore[attr-defined]
    threading.excepthook = hook


class Tracker:
    """Writer of TensorBoard events (curves, pictures, hyperparameters) to the folder of one run.

    Event files of an earlier process are deleted first. A resumed run writes all its events again, so that no curve
    jumps back or ends twice. If events can't be written, the run goes on without them, after one warning.

    Parameters
    ----------
    folder : Path
        The run's folder; it holds the event file.
    metric : str
        Name of the task's metric, for the tags of its curves.
    """

    def __init__(self, folder: Path, metric: str = "accuracy") -> None:
        self.folder, self._metric, self.broken = folder, _tag(metric), False
        self._writer: Any = None
        _quiet_threads()
        self._open(charts(metric))

    @_side_output
    def _open(self, shown: dict[str, dict[str, list[object]]]) -> None:
        """Delete old event files, and open a new one."""
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        from torch.utils.tensorboard import SummaryWriter  # here: importing it takes 0.3 s, and only runs need it

        self._writer = SummaryWriter(str(self.folder))
        self._writer.add_custom_scalars(shown)

    @_side_output
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to several TensorBoard curves, given as {name of the curve: value}; NaN is left out."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if not math.isnan(value)]
        self._writer._get_file_writer().add_summary(Summary(value=points), step)  # one event, not one a curve

    def epoch(self, row: EpochRow) -> None:
        """Add an epoch's losses and metrics to the TensorBoard curves ``train/...`` and ``val/...``."""
        values = {
            "train/loss": row.train_loss,
            f"train/{self._metric}": row.train_metric,
            "val/loss": row.val_loss,
            f"val/{self._metric}": row.val_metric,
            "train/lr": row.lr,
        }
        self.scalars({tag: value for tag, value in values.items() if value is not None}, row.epoch)

    def mask(self, mask: Mask, step: int) -> None:
        """Show a mask in TensorBoard: pictures of its layers, and a histogram of the layers' densities."""
        self._pictures(mask, step)
        self.densities(list(mask.densities().values()), step)

    @_side_output
    def densities(self, values: Sequence[float], step: int) -> None:
        """Add a histogram of the layers' densities, each in [0, 1], to TensorBoard."""
        self._writer.add_histogram("layers/density", np.asarray(values), step, bins=_SHARES)

    def search(self, space: MaskSpace) -> None:
        """Add pictures of a search's current masks to TensorBoard; none if its searcher has no current mask.

        Masks of a subspace are shown as masks of all units.
        """
        for number, mask in incumbents(self.folder, space, _MASKS):
            self._pictures(space.lifted(mask) if isinstance(space, Subspace) else mask, number)

    def result(self, result: CellResult, lr: float) -> None:
        """Add a run's settings and results to TensorBoard's hparams tab; ``lr`` is the learning rate of retraining."""
        names = ("method", "sparsity", "find_at", "seed", "schedule", "n_rounds", "rewind_to", "control", "distill")
        final = {
            f"final/untrained_test_{self._metric}": result.untrained.test_accuracy,
            f"final/trained_test_{self._metric}": result.trained.test_accuracy,
            f"final/val_{self._metric}": result.trained.val_accuracy,
            "final/search_score": result.score.search_score,
            "final/optimism_gap": result.score.accuracy_gap,
            "final/params": result.cost.nonzero_params,
            "final/effective_macs": result.cost.effective_macs,
            "final/speedup": result.speedup,
        }
        settings = {name: getattr(result, name) for name in names} | {"retrain_lr": lr}
        self.hyperparameters(settings, {tag: value for tag, value in final.items() if value is not None})

    @_side_output
    def hyperparameters(self, settings: Mapping[str, bool | str | float | int], metrics: Mapping[str, float]) -> None:
        """Add a run's settings and final metrics to TensorBoard's hparams tab."""
        known = {tag: value for tag, value in metrics.items() if not math.isnan(value)}
        self._writer.add_hparams(dict(settings), known, run_name=".")

    @_side_output
    def close(self) -> None:
        """Write all TensorBoard events that are still in memory, and close the event file."""
        self._writer.close()

    @_side_output
    def _pictures(self, mask: Mask, step: int) -> None:
        """Add a picture of each layer; of many layers, of the first, the last and some between them."""
        layers = mask.space.layers
        stride = max(1, math.ceil((len(layers) - 1) / (_LAYERS - 1)))
        for layer in (*layers[:-1:stride], layers[-1]):
            self._writer.add_image(f"mask/{layer.name}", _picture(mask, layer), step)


class SearchCurves:
    """TensorBoard curves of a search, over its trials; a long search gets only about 1,000 points per curve."""

    def __init__(self, tracker: Tracker, budget: int) -> None:
        self._tracker, self._stride = tracker, max(1, budget // _POINTS)
        self._best, self._seconds = math.nan, 0.0

    def add(self, trial: Trial) -> None:
        """Add the search's next trial (scored mask) to the TensorBoard curves."""
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
            self._tracker.densities(densities, trial.number)


def _picture(mask: Mask, layer: Layer) -> Tensor:
    """The share of kept units in every pixel, (1, height, width), in [0, 1]; the outputs of weights run downwards."""
    bits = mask.bits[layer.slice].float()
    rows = layer.shape[0] if math.prod(layer.shape) == layer.size else 1
    picture = bits.view(1, rows, -1)
    if rows == 1:
        picture = picture.expand(1, 4, -1)
    _, height, width = picture.shape
    return F.adaptive_avg_pool2d(picture, (min(height, _PIXELS), min(width, _PIXELS)))
