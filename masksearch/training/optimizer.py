"""The optimisers, each in the fastest of torch's implementations for the device."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adam, AdamW, Optimizer

from masksearch.table import Table
from masksearch.training.settings import TrainSettings

__all__ = ["OPTIMIZERS", "build_optimizer", "load_optimizer"]

Build = Callable[[list[nn.Parameter], TrainSettings, bool], Optimizer]


def _sgd(parameters: list[nn.Parameter], settings: TrainSettings, fused: bool) -> Optimizer:
    return SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _adam(parameters: list[nn.Parameter], settings: TrainSettings, fused: bool) -> Optimizer:
    return Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _adamw(parameters: list[nn.Parameter], settings: TrainSettings, fused: bool) -> Optimizer:
    return AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _adadelta(parameters: list[nn.Parameter], settings: TrainSettings, fused: bool) -> Optimizer:
    # There is no fused Adadelta; torch takes its foreach form on CUDA and the plain one on the CPU.
    return Adadelta(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


OPTIMIZERS: Table[Build] = Table("optimizer", {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "adadelta": _adadelta})


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings, device: torch.device) -> Optimizer:
    """The optimiser that ``settings`` name, over those of ``parameters`` that want gradients."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return OPTIMIZERS[settings.optimizer](trained, settings, device.type in ("cpu", "cuda"))


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Put back a state that has been in a file."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # A file doesn't keep strides, and fused kernels walk parameter and state side by side.
                values[name] = torch.empty_like(parameter).copy_(value)
