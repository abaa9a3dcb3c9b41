"""The loop over the epochs of a training: each is trained, validated, recorded and, from time to time, saved."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from masksearch.training.averaging import Averaging
from masksearch.training.checkpoint import Checkpoint
from masksearch.training.epoch import EpochPass
from masksearch.training.optimisation import learning_rate
from masksearch.training.record import EpochRow, Training, copy_weights
from masksearch.training.request import TrainingRequest
from masksearch.training.snapshots import SnapshotMoments
from masksearch.training.validation import Validation

CHECKPOINT_SECONDS = 5.0  # minimum time between two checkpoints, in seconds

OnEpoch = Callable[[EpochRow], bool | None]


@dataclass(frozen=True)
class TrainingLoop:
    """Loop over the remaining epochs of a training; each epoch's results are added to the record ``training``."""

    request: TrainingRequest
    training: Training  # with the epochs of a checkpoint, if there is one
    epochs: EpochPass
    validation: Validation | None
    moments: SnapshotMoments
    averaging: Averaging | None
    checkpoint: Checkpoint | None
    on_epoch: OnEpoch | None

    def run(self) -> None:
        """Train the network until the last epoch, an early stop, or a loss that is NaN or infinite."""
        training, saved = self.training, monotonic()
        if not training.epochs:
            self.moments.after_step(training, self.request.begin * self.epochs.steps_per_epoch, self.averaging)
        while not self._over:
            self._record(self._epoch())
            if self._over or monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = monotonic()
            if self._user_ends():
                training.stopped = True
                self._save()

    @property
    def _over(self) -> bool:
        return self.training.over(self.request.until - self.request.begin)

    def _epoch(self) -> EpochRow:
        """Train and validate for one epoch; return its row, which is that of rank 0 on all ranks."""
        start, epoch = monotonic(), self.request.begin + len(self.training.epochs)
        losses = [row.val_loss for row in self.training.epochs if row.val_loss is not None]
        train_loss, train_metric = self.epochs.run(epoch, learning_rate(self.request.settings, epoch, losses))
        evaluation = self.validation() if self.validation else None
        row = EpochRow(
            epoch=epoch + 1,
            train_loss=train_loss,
            train_metric=train_metric,
            val_loss=evaluation.loss if evaluation else None,
            val_metric=evaluation.metric if evaluation else None,
            lr=self.epochs.step.lr,
            seconds=monotonic() - start,
            higher_is_better=self.request.examples.task.higher_is_better,
        )
        return self.epochs.parallel.ranks.from_first(partial(replace, row))  # all ranks decide by the same numbers

    def _record(self, row: EpochRow) -> None:
        """Add the row; keep the weights if they are the best; stop early after too many epochs that are not."""
        training, patience = self.training, self.request.settings.stop_after
        training.add(row, self.averaging.weights if self.averaging else partial(copy_weights, training.model))
        waited = row.epoch - (training.best.epoch if training.best else self.request.begin)
        training.stopped = patience is not None and waited >= patience
        self.moments.after_epoch(training, row.epoch)

    def _save(self) -> None:
        if self.checkpoint:
            self.checkpoint.save(self.epochs.step)

    def _user_ends(self) -> bool:
        """Call ``on_epoch`` with the last row; return whether it ends the training, as rank 0 decides."""
        ends = bool(self.on_epoch and self.on_epoch(self.training.epochs[-1]))
        return self.epochs.parallel.ranks.from_first(lambda: ends)
