"""TensorBoard files of one run. They are derived data: made anew whenever the run is taken up again."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

__all__ = ["LAYOUT", "Tracker"]

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

    What an earlier process left there is removed first: whoever takes up a run tells its whole story again, so that no
    curve jumps back or ends twice.

    Parameters
    ----------
    folder : Path
        The run's folder; it holds the event file.
    """

    def __init__(self, folder: Path) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        self._writer.add_custom_scalars(LAYOUT)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each of several curves, by tag; NaN is left out."""
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
        """The run's row in the hparams tab: its settings, and the final metrics to compare by."""
        known = {tag: value for tag, value in metrics.items() if not math.isnan(value)}
        self._writer.add_hparams(dict(settings), known, run_name=".")

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
