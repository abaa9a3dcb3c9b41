"""Record of a training: rows of epochs, snapshots, best weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, isnan

from torch import Tensor, nn

from masksearch.training.training_moment import TrainingMoment

FORMER_NAMES = {"train_accuracy": "train_metric", "val_accuracy": "val_metric"}
"""{name of a field of :class:`EpochRow` in files of version 1.0 and before: its name now}."""

Weights = dict[str, Tensor]
"""State dict of a network, with BatchNorm statistics, on the CPU."""


def copy_weights(model: nn.Module) -> Weights:
    """Return a copy of the network's state dict, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class EpochRow:
    """Results of one epoch of a training: losses, metrics, learning rate and duration."""

    epoch: int  # number in the learning-rate schedule: 1 for the first one
    train_loss: float  # mean over the augmented examples, in train mode, with smoothing and distillation
    train_metric: float | None  # main metric over the same outputs; None if it can't be computed
    val_loss: float | None  # mean loss in eval mode, without label smoothing; None without a validation split
    val_metric: float | None
    lr: float
    seconds: float  # wall-clock time, validation included
    higher_is_better: bool = True  # whether a higher metric is better

    @property
    def train_accuracy(self) -> float | None:
        """Main metric of the epoch on the training examples, which is the accuracy in classification."""
        return self.train_metric

    @property
    def val_accuracy(self) -> float | None:
        """Main metric of the epoch on the validation examples, which is the accuracy in classification."""
        return self.val_metric

    @property
    def finite(self) -> bool:
        """Whether the training loss and, if there is one, the validation loss of this epoch are finite."""
        return isfinite(self.train_loss) and (self.val_loss is None or isfinite(self.val_loss))

    def better_than(self, other: "EpochRow") -> bool:
        """Return whether this epoch has a better validation metric than ``other``; without metrics, a lower loss."""
        if self.val_metric is not None and other.val_metric is not None:
            if isnan(other.val_metric):
                return not isnan(self.val_metric)
            if self.higher_is_better:
                return self.val_metric > other.val_metric
            return self.val_metric < other.val_metric
        return self.val_loss is not None and other.val_loss is not None and self.val_loss < other.val_loss


@dataclass(frozen=True)
class Best:
    """Best epoch of a training by validation, and the weights after it."""

    row: EpochRow
    weights: Weights

    @property
    def epoch(self) -> int:
        """Number of the training's epoch with the best validation result; the first epoch is 1."""
        return self.row.epoch


@dataclass
class Training:
    """Result of a training, finished or in progress: the network, results by epoch, snapshots and best weights.

    Attributes
    ----------
    model : nn.Module
        The network, trained in place.
    epochs : list of EpochRow
        Results of every epoch, in order.
    snapshots : dict of TrainingMoment -> weights
        The weights at the requested moments, with the masks of the network. If the training ended early, later moments
        are missing, ``end`` is the early end, and the best by a moment is the best so far.
    best : Best or None
        None without a validation split or without an epoch with finite losses.
    stopped : bool
        Whether ``on_epoch`` or early stopping ended the training before its last epoch.
    metric_name : str
        Name of the metric of the rows.
    """

    model: nn.Module
    epochs: list[EpochRow] = field(default_factory=list)
    snapshots: dict[TrainingMoment, Weights] = field(default_factory=dict)
    best: Best | None = None
    stopped: bool = False
    metric_name: str = "accuracy"

    def __repr__(self) -> str:
        last = self.epochs[-1] if self.epochs else None
        loss = "" if last is None else f", train loss {last.train_loss:.4g}"
        value = None if last is None else last.val_metric
        shown = "" if value is None else f"{value:.2%}" if self.metric_name == "accuracy" else f"{value:.4g}"
        metric = shown and f", val {self.metric_name} {shown}"
        best = "" if self.best is None else f", best epoch {self.best.epoch}"
        state = ", stopped" if self.stopped else ", diverged" if self.diverged else ""
        return f"Training({type(self.model).__name__}, {len(self.epochs)} epochs{loss}{metric}{best}{state})"

    def add(self, row: EpochRow, weights: Callable[[], Weights]) -> None:
        """Append an epoch's results to this training; if the epoch is the best so far, also store ``weights()``."""
        self.epochs.append(row)
        if row.val_loss is not None and row.finite and (self.best is None or row.better_than(self.best.row)):
            self.best = Best(row, weights())

    @property
    def diverged(self) -> bool:
        """Whether the training ended because a loss was NaN or infinite; the last epoch's results have that loss."""
        return bool(self.epochs) and not self.epochs[-1].finite

    def over(self, epochs: int) -> bool:
        """Return whether this training is over: it has done ``epochs`` epochs, was stopped early, or diverged."""
        return len(self.epochs) >= epochs or self.stopped or self.diverged
