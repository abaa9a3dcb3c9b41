"""What a training leaves behind: rows, snapshots, the best weights."""

from dataclasses import dataclass, field
from math import isfinite

from torch import Tensor, nn

from masksearch.training.duration import Duration

__all__ = ["Best", "EpochRow", "Training", "Weights", "copy_weights"]

Weights = dict[str, Tensor]
"""A network's ``state_dict()``, BatchNorm statistics included, on the CPU."""


def copy_weights(model: nn.Module) -> Weights:
    """The network's state as it is now, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a training."""

    epoch: int  # of the learning-rate schedule: 1 for the first one
    train_loss: float  # mean over the epoch's images, each as it was seen: augmented, in train mode, smoothed
    train_accuracy: float | None  # the same; None where outputs aren't logits
    val_loss: float | None  # in eval mode, without label smoothing; None without a validation split
    val_accuracy: float | None
    lr: float
    seconds: float  # wall clock, validation included

    @property
    def finite(self) -> bool:
        """Whether its losses are numbers."""
        return isfinite(self.train_loss) and (self.val_loss is None or isfinite(self.val_loss))

    def better_than(self, other: "EpochRow") -> bool:
        """Higher validation accuracy, or a lower validation loss where there is no accuracy; False on a tie."""
        if self.val_accuracy is not None and other.val_accuracy is not None:
            return self.val_accuracy > other.val_accuracy
        return self.val_loss is not None and other.val_loss is not None and self.val_loss < other.val_loss


@dataclass(frozen=True)
class Best:
    """The best epoch by validation, and the weights after it."""

    row: EpochRow
    weights: Weights

    @property
    def epoch(self) -> int:
        """Its number, 1 for the first one."""
        return self.row.epoch


@dataclass
class Training:
    """A training, over or under way.

    Attributes
    ----------
    model : nn.Module
        The network, trained in place.
    epochs : list of EpochRow
        In order.
    snapshots : dict of Duration -> weights
        The weights at the moments asked for, masked like the network. Moments that a training which ended early has
        not reached are missing, ``end`` is where it ended, and the best by a moment is the best so far.
    best : Best or None
        None without a validation split or without an epoch that ended in finite losses.
    stopped : bool
        ``on_epoch`` ended it before its last epoch.
    """

    model: nn.Module
    epochs: list[EpochRow] = field(default_factory=list)
    snapshots: dict[Duration, Weights] = field(default_factory=dict)
    best: Best | None = None
    stopped: bool = False

    @property
    def diverged(self) -> bool:
        """Whether it ended because a loss was no longer a number; the last row holds that loss."""
        return bool(self.epochs) and not self.epochs[-1].finite

    def over(self, epochs: int) -> bool:
        """Whether nothing is left to do of a training that makes so many epochs."""
        return len(self.epochs) >= epochs or self.stopped or self.diverged
