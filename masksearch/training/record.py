"""Record of a training: rows of epochs, snapshots, best weights."""

from dataclasses import dataclass, field
from math import isfinite

from torch import Tensor, nn

from masksearch.training.duration import Duration

__all__ = ["Best", "EpochRow", "Training", "Weights", "copy_weights"]

Weights = dict[str, Tensor]
"""A network's ``state_dict()``, BatchNorm statistics included, on the CPU."""


def copy_weights(model: nn.Module) -> Weights:
    """A copy of the network's state, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a training."""

    epoch: int  # number in the learning-rate schedule: 1 for the first one
    train_loss: float  # mean over the epoch's examples, augmented, in train mode, with label smoothing
    train_accuracy: float | None  # likewise; None if outputs are not logits
    val_loss: float | None  # in eval mode, without label smoothing; None without a validation split
    val_accuracy: float | None
    lr: float
    seconds: float  # wall clock, validation included

    @property
    def finite(self) -> bool:
        """Whether the training loss and, if there is one, the validation loss of this epoch are finite."""
        return isfinite(self.train_loss) and (self.val_loss is None or isfinite(self.val_loss))

    def better_than(self, other: "EpochRow") -> bool:
        """Whether the validation accuracy is higher (without accuracies, the validation loss lower); False for ties."""
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
        """Number of the epoch, 1 for the first one."""
        return self.row.epoch


@dataclass
class Training:
    """A training, finished or in progress.

    Attributes
    ----------
    model : nn.Module
        The network, trained in place.
    epochs : list of EpochRow
        In order.
    snapshots : dict of Duration -> weights
        The weights at the requested moments, masked like the network. If the training ended early, later moments are
        missing, ``end`` is the early end, and the best by a moment is the best so far.
    best : Best or None
        None without a validation split or without an epoch with finite losses.
    stopped : bool
        Whether ``on_epoch`` ended the training before its last epoch.
    """

    model: nn.Module
    epochs: list[EpochRow] = field(default_factory=list)
    snapshots: dict[Duration, Weights] = field(default_factory=dict)
    best: Best | None = None
    stopped: bool = False

    def __repr__(self) -> str:
        last = self.epochs[-1] if self.epochs else None
        loss = "" if last is None else f", train loss {last.train_loss:.4g}"
        accuracy = "" if last is None or last.val_accuracy is None else f", val accuracy {last.val_accuracy:.2%}"
        best = "" if self.best is None else f", best epoch {self.best.epoch}"
        state = ", stopped" if self.stopped else ", diverged" if self.diverged else ""
        return f"Training({type(self.model).__name__}, {len(self.epochs)} epochs{loss}{accuracy}{best}{state})"

    @property
    def diverged(self) -> bool:
        """Whether the training ended because a loss was not finite; the last row has that loss."""
        return bool(self.epochs) and not self.epochs[-1].finite

    def over(self, epochs: int) -> bool:
        """Whether a training of ``epochs`` epochs is finished."""
        return len(self.epochs) >= epochs or self.stopped or self.diverged
