"""TensorBoard files of one run. They are derived data: made anew whenever the run is taken up again."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

__all__ = ["Tracker"]


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

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each of several curves, by tag; NaN is left out."""
        for tag, value in values.items():
            if not math.isnan(value):
                self._writer.add_scalar(tag, value, step)

    def hyperparameters(self, settings: Mapping[str, bool | str | float | int], metrics: Mapping[str, float]) -> None:
        """The run's row in the hparams tab: its settings, and the final metrics to compare by."""
        known = {tag: value for tag, value in metrics.items() if not math.isnan(value)}
        self._writer.add_hparams(dict(settings), known, run_name=".")

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
