"""Optimiser steps: gradients of one or several batches, scaled, penalised and clipped; then masks and averages."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.training.averaging import Averaging
from masksearch.training.data_parallel import DataParallel
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.record import Weights
from masksearch.training.slimming import Slimming
from masksearch.training.train_settings import TrainSettings


@dataclass(frozen=True)
class StepState:
    """State of an :class:`OptimizerStep` in a checkpoint: averaged weights and the scale of float16 losses."""

    average: Weights | None  # None: no averaging
    average_steps: int  # optimiser steps that the average is over
    scaler: dict[str, object] | None  # of torch's GradScaler; None: no loss scaling


class OptimizerStep:
    """Optimiser step with gradient accumulation, clipping, float16 loss scaling, masks and averaged weights.

    The CPU never waits for the GPU.

    Parameters
    ----------
    model : nn.Module
        The network, already on its device.
    parallel : DataParallel
        The network on all ranks.
    optimizer : Optimizer
        Optimiser of the network's parameters.
    settings : TrainSettings
        Accumulation, clipping, precision and warm-up.
    slimming, masking, remask, averaging
        What is applied in every step, in this order: before the step, and after it.
    steps_per_epoch : int
        Optimiser steps of an epoch, for the warm-up.
    after_step : callable
        Function that is called after every step with the number of steps since epoch 0 of the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        parallel: DataParallel,
        optimizer: Optimizer,
        settings: TrainSettings,
        slimming: Slimming,
        masking: Masking,
        remask: MaskSchedule | None,
        averaging: Averaging | None,
        steps_per_epoch: int,
        after_step: Callable[[int], None],
    ) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._parallel, self._ranks = parallel, parallel.ranks
        self._optimizer, self._settings, self._after_step = optimizer, settings, after_step
        self._slimming, self._masking, self._remask, self._averaging = slimming, masking, remask, averaging
        self._warmup_steps = settings.warmup * steps_per_epoch
        device = next(model.parameters()).device
        self._scaler = torch.amp.GradScaler(device.type) if settings.precision == "float16" else None
        self._count = self._parts = self._first_parts = 0

    @property
    def lr(self) -> float:
        """Learning rate of the last optimiser step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def start_epoch(self, lr: float) -> None:
        """Prepare for a new epoch: set its learning rate, and start gradient accumulation anew."""
        self._scheduled, self._count = lr, 0
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def add(self, loss: Tensor, parts: int, total: int | None = None) -> None:
        """Add the gradient of a batch's mean loss, weighted by ``parts``: the batch's number of examples or tokens.

        A batch of 0 parts adds nothing. ``total`` is the number of parts on all ranks together; None: it is counted.
        """
        size = self._ranks.size
        if total is None:
            total = int(self._ranks.sum(parts))
        if self._count == 0:
            self._optimizer.zero_grad(set_to_none=True)
            self._parts, self._first_parts = 0, max(1, total)
        if self._settings.accumulate > 1 or size > 1:  # the gradient of the mean over all examples of the step
            loss = loss * (parts * size / self._first_parts)  # DistributedDataParallel divides by the size
        if total:  # a batch of padding alone has no loss
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        self._count, self._parts = self._count + 1, self._parts + total

    @property
    def ready(self) -> bool:
        """Whether enough batches' gradients were accumulated for the next optimiser step."""
        return self._count == self._settings.accumulate

    @property
    def pending(self) -> bool:
        """Whether gradients of batches were accumulated since the last optimiser step, so that a step is still due."""
        return self._count > 0

    def __call__(self, step: int) -> None:
        """Make a step; ``step`` is the number of steps before it since epoch 0 of the schedule."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        if self._count > 1 and (gradients := self._gradients()):
            with torch.no_grad():
                torch._foreach_mul_(gradients, self._first_parts / max(1, self._parts))
        self._slimming()
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        if step < self._warmup_steps:
            self._set_lr(self._scheduled * min(1.0, (step + 1) / self._warmup_steps))
        elif self._settings.warmup:
            self._set_lr(self._scheduled)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)  # no step if a gradient overflows
            self._scaler.update()
            if self._remask is not None:
                for gradient in self._gradients():
                    gradient.nan_to_num_(0, 0, 0)
        self._masking()
        self._parallel.copy_buffers()
        changed = self._remask is not None and self._remask(step + 1)
        if changed and self._remask is not None:
            self._masking.change(self._remask.masks, self._optimizer)
        if self._averaging is not None:
            self._averaging.update()
            if changed:
                self._masking.mask(self._averaging.average)
        self._count = 0
        self._after_step(step + 1)

    def state(self) -> StepState:
        """Return the averaged weights and the scale factor of float16 losses, for a checkpoint."""
        averaging, scaler = self._averaging, self._scaler
        return StepState(
            None if averaging is None else averaging.weights(),
            0 if averaging is None else averaging.steps,
            None if scaler is None else scaler.state_dict(),
        )

    def restore(self, state: StepState) -> None:
        """Restore the averaged weights and the scale factor of float16 losses that :meth:`state` returned.

        Raises
        ------
        ValueError
            If the state lacks what this step needs, or is of another network.
        """
        if self._averaging is not None:
            if state.average is None:
                raise ValueError("no averaged weights")
            self._averaging.load(state.average, state.average_steps)
        if self._scaler is not None:
            if state.scaler is None:
                raise ValueError("no scale of float16 losses")
            self._scaler.load_state_dict(state.scaler)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]

    def _set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
