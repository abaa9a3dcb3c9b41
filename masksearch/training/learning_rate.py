"""Learning rates as a function of the epoch and of the validation losses so far, so that there is no state to keep."""

from collections.abc import Sequence
from math import cos, inf, pi

from masksearch.training.settings import TrainSettings

__all__ = ["learning_rate"]

_THRESHOLD = 1e-4  # a validation loss counts as lower if it is by this share of the lowest one


def learning_rate(settings: TrainSettings, epoch: int, val_losses: Sequence[float] = ()) -> float:
    """The learning rate of one epoch.

    Parameters
    ----------
    settings : TrainSettings
        Names the schedule and its numbers.
    epoch : int
        Epochs of the schedule that are over: 0 for the first one.
    val_losses : sequence of float
        Validation losses of the epochs that are over, since the training began; only ``plateau`` reads them.

    Notes
    -----
    ``multistep`` is lr x factor^(milestones reached). ``cosine`` is lr x (1 + cos(pi x epoch / epochs)) / 2 (Loshchilov
    and Hutter 2017, equation 5: one cycle down to 0). ``plateau`` multiplies by factor whenever the loss has failed to
    fall for more than ``patience`` epochs in a row. Epochs beyond ``settings.epochs`` keep the rate of the last one;
    ``plateau``, which knows no end, goes on.
    """
    scheduled = max(0, min(epoch, settings.epochs - 1))
    if settings.lr_schedule == "multistep":
        return settings.lr * settings.factor ** sum(scheduled >= milestone for milestone in settings.milestones)
    if settings.lr_schedule == "cosine":
        return settings.lr * (1 + cos(pi * scheduled / max(1, settings.epochs))) / 2
    if settings.lr_schedule == "plateau":
        return settings.lr * settings.factor ** _falls(val_losses[:epoch], settings.patience)
    return settings.lr


def _falls(losses: Sequence[float], patience: int) -> int:
    """How often the plateau schedule has cut the rate after these losses."""
    falls, waited, lowest = 0, 0, inf
    for loss in losses:
        if loss < lowest * (1 - _THRESHOLD) or lowest == inf:
            waited, lowest = 0, loss
        else:
            waited += 1
        if waited > patience:
            falls, waited = falls + 1, 0
    return falls
