"""The moments of a training at which weights are kept: after a step, the best by an epoch, the end."""

from collections.abc import Sequence

from masksearch.training.duration import Duration
from masksearch.training.record import Training, copy_weights
from masksearch.utils.errors import InputError

__all__ = ["Moments"]


class Moments:
    """Fills ``snapshots`` of a :class:`Training` while it runs.

    Parameters
    ----------
    wanted : sequence of Duration
        Moments since epoch 0 of the learning-rate schedule.
    steps_per_epoch : int
        Optimiser steps that an epoch has.
    begin, until : int
        Epochs that are over when the training begins, and when it ends.
    validated : bool
        Whether there is a validation split: without one there is no best epoch.

    Raises
    ------
    InputError
        For moments before the beginning or after the end, and for a best state without validation.
    """

    def __init__(
        self, wanted: Sequence[Duration], steps_per_epoch: int, begin: int, until: int, validated: bool
    ) -> None:
        for moment in wanted:
            moment.check_within(steps_per_epoch, until, "snapshots")
            first = begin * steps_per_epoch + (moment.best and moment.unit == "ep")  # the best of no epoch is nothing
            if moment.steps(steps_per_epoch, until) < first:
                raise InputError(f"snapshots: {moment} is over before the training begins, at {begin}ep")
            if moment.best and not validated:
                raise InputError(f"snapshots: {moment} is best by validation; pass val, or another moment")
        self._plain = {moment: moment.steps(steps_per_epoch, until) for moment in wanted if not moment.best}
        self._best = [moment for moment in wanted if moment.best]

    def after_step(self, training: Training, step: int) -> None:
        """Keep the weights if this step is a moment. Step 0 is the start of the schedule."""
        if now := [moment for moment, at in self._plain.items() if at == step]:
            training.snapshots |= dict.fromkeys(now, copy_weights(training.model))

    def after_epoch(self, training: Training, epoch: int) -> None:
        """Keep the best weights by validation until this epoch, 1 for the schedule's first, if that is a moment."""
        if training.best:
            now = [moment for moment in self._best if moment.unit == "ep" and moment.count == epoch]
            training.snapshots |= dict.fromkeys(now, training.best.weights)

    def at_end(self, training: Training) -> None:
        """Fill in what no epoch could: ``end`` where the training ended early, the best of all its epochs."""
        missing = [moment for moment in self._plain if moment.unit == "end" and moment not in training.snapshots]
        for moment in missing:
            training.snapshots[moment] = copy_weights(training.model)
        for moment in self._best:
            if moment not in training.snapshots:
                best = training.best
                training.snapshots[moment] = best.weights if best else copy_weights(training.model)
