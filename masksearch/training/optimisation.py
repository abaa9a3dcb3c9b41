"""Optimisers and learning-rate schedules."""

from collections.abc import Callable, Iterable, Sequence
from math import cos, inf, pi
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adam, AdamW, Optimizer

from masksearch.training.train_settings import TrainSettings
from masksearch.utils.registry import Table

Parameters = list[nn.Parameter] | list[dict[str, Any]]
"""List of parameters, or of parameter groups (dicts) with settings of their own."""

Build = Callable[[Parameters, TrainSettings, bool], Optimizer]


def _sgd(parameters: Parameters, settings: TrainSettings, fused: bool) -> Optimizer:
    return SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _adam(parameters: Parameters, settings: TrainSettings, fused: bool) -> Optimizer:
    return Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _adamw(parameters: Parameters, settings: TrainSettings, fused: bool) -> Optimizer:
    return AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _adadelta(parameters: Parameters, settings: TrainSettings, fused: bool) -> Optimizer:
    # torch has no fused Adadelta.
    return Adadelta(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


OPTIMIZERS: Table[Build] = Table("optimizer", {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "adadelta": _adadelta})


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings, device: torch.device) -> Optimizer:
    """Return a new optimiser, as ``settings`` describe it, of those ``parameters`` that require gradients."""
    trained: Parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.no_decay:
        matrices, vectors = ([p for p in trained if (p.ndim < 2) == short] for short in (False, True))  # type: ignore[union-attr]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        trained = [group for group in groups if group["params"]]
    return OPTIMIZERS[settings.optimizer](trained, settings, device.type in ("cpu", "cuda"))


def load_optimizer(optimizer: Optimizer, state: dict[str, object]) -> None:
    """Restore an optimiser's state from a checkpoint; raise a ValueError for tensors of other shapes."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimiser has shape {tuple(value.shape)}")
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # A file has no strides, but fused kernels need equal strides of parameter and state.
                values[name] = torch.empty_like(parameter).copy_(value)


_THRESHOLD = 1e-4  # relative decrease of the validation loss that counts as an improvement


def learning_rate(settings: TrainSettings, epoch: int, val_losses: Sequence[float] = ()) -> float:
    """Return the learning rate of an epoch, as the schedule in ``settings`` defines it.

    Parameters
    ----------
    settings : TrainSettings
        The schedule and its parameters.
    epoch : int
        Completed epochs of the schedule: 0 for the first one.
    val_losses : sequence of float
        Validation losses of the epochs of this training; only ``plateau`` uses them.

    Notes
    -----
    ``multistep`` is lr x factor^(milestones reached). ``cosine`` is lr x (1 + cos(pi x epoch / epochs)) / 2 (Loshchilov
    and Hutter 2017, equation 5: one cycle down to 0). ``plateau`` multiplies by factor after more than
    ``patience`` epochs in a row without improvement, as ReduceLROnPlateau does. Epochs beyond ``settings.epochs`` keep
    the rate of the last one; ``plateau`` continues.

    torch's schedulers have a state; this function has none, so that any epoch can begin in a new process.
    """
    scheduled = max(0, min(epoch, settings.epochs - 1))
    if settings.lr_schedule == "multistep":
        return settings.lr * settings.factor ** sum(scheduled >= milestone for milestone in settings.milestones)
    if settings.lr_schedule == "cosine":
        return settings.lr * (1 + cos(pi * scheduled / max(1, settings.epochs))) / 2
    if settings.lr_schedule == "plateau":
        return settings.lr * settings.factor ** _reductions(val_losses[:epoch], settings.patience)
    return settings.lr


def _reductions(losses: Sequence[float], patience: int) -> int:
    """Number of reductions of the plateau schedule after these losses."""
    reductions, waited, lowest = 0, 0, inf
    for loss in losses:
        if loss < lowest * (1 - _THRESHOLD) or lowest == inf:
            waited, lowest = 0, loss
        else:
            waited += 1
        if waited > patience:
            reductions, waited = reductions + 1, 0
    return reductions
