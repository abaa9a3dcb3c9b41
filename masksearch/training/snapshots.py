"""Snapshots of a training's weights: after a given step, of the best epoch, and at the end."""

from collections.abc import Sequence

from masksearch.training.averaging import Averaging
from masksearch.training.record import Training, copy_weights
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError


class SnapshotMoments:
    """Recorder that copies a network's weights into ``Training.snapshots`` at given points of the training.

    Parameters
    ----------
    moments : sequence of TrainingMoment
        Moments since epoch 0 of the learning-rate schedule.
    steps_per_epoch : int
        Optimiser steps per epoch.
    begin, until : int
        Epochs of the schedule at which the training begins and ends.
    validated : bool
        Whether there is a validation split, which ``best`` needs.

    Raises
    ------
    InputError
        For moments before the beginning or after the end, and for ``best`` without validation.
    """

    def __init__(
        self, moments: Sequence[TrainingMoment], steps_per_epoch: int, begin: int, until: int, validated: bool
    ) -> None:
        for moment in moments:
            moment.check_within(steps_per_epoch, until, "snapshots")
            first = begin * steps_per_epoch + (moment.best and moment.unit == "ep")  # best needs one epoch
            if moment.steps(steps_per_epoch, until) < first:
                raise InputError(f"snapshots: {moment} is over before the training begins, at {begin}ep")
            if moment.best and not validated:
                raise InputError(f"snapshots: {moment} needs validation examples; pass val, or another moment")
        self._plain = {moment: moment.steps(steps_per_epoch, until) for moment in moments if not moment.best}
        self._best = [moment for moment in moments if moment.best]

    def after_step(self, training: Training, step: int, average: Averaging | None = None) -> None:
        """Copy the weights, or their moving average, if a snapshot is due after optimiser step number ``step``."""
        if reached := [moment for moment, at in self._plain.items() if at == step]:
            training.snapshots |= dict.fromkeys(reached, average.weights() if average else copy_weights(training.model))

    def after_epoch(self, training: Training, epoch: int) -> None:
        """Copy the best weights until now if a snapshot of them is due after epoch ``epoch``, counted from 1."""
        if training.best:
            reached = [moment for moment in self._best if moment.unit == "ep" and moment.count == epoch]
            training.snapshots |= dict.fromkeys(reached, training.best.weights)

    def at_end(self, training: Training) -> None:
        """Add snapshots that are still missing after the last epoch: ``best``, and ``end`` after an early stop."""
        missing = [moment for moment in self._plain if moment.unit == "end" and moment not in training.snapshots]
        for moment in missing:
            training.snapshots[moment] = copy_weights(training.model)
        for moment in self._best:
            if moment not in training.snapshots:
                best = training.best
                training.snapshots[moment] = best.weights if best else copy_weights(training.model)
