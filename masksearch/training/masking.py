"""Masks in training: pruned weights stay exactly zero, also under momentum; masks may change between steps."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.utils.errors import InputError

__all__ = ["MaskSchedule", "Masking"]


class MaskSchedule(Protocol):
    """Masks that change during a training. What it does must follow from its state, the network and the step alone."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks as they are now: parameter name -> bool tensor of its shape, True = kept. Always the same names."""

    def __call__(self, step: int) -> bool:
        """Look at the network after an optimiser step, and say whether the masks have changed.

        Pruned weights are zero already. Gradients of the step are there, those of pruned weights among them.

        Parameters
        ----------
        step : int
            Optimiser steps since epoch 0 of the learning-rate schedule: 1 for the first one.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, as a plain tree for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raise an :class:`InputError` if it is of other settings."""


class Masking:
    """Zeroes what masks prune, once at the start and after every optimiser step.

    Parameters
    ----------
    model : nn.Module
        On its device already.
    masks : mapping
        Parameter name -> bool tensor of its shape, True = kept.

    Raises
    ------
    InputError
        If a mask names no parameter, or has another shape or type.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, keep in masks.items():
            if name not in parameters:
                raise InputError(f"masks: {name!r} is no parameter of {type(model).__name__}")
            if keep.dtype != torch.bool or keep.shape != parameters[name].shape:
                raise InputError(
                    f"masks: {name!r} is {keep.dtype} {tuple(keep.shape)}; "
                    f"torch.bool {tuple(parameters[name].shape)} is needed"
                )
        self._names = list(masks)
        self._parameters: list[Tensor] = [parameters[name] for name in masks]
        self._factors = [
            torch.empty_like(parameter).copy_(keep)  # strides of the parameter: multiplied side by side
            for parameter, keep in zip(self._parameters, masks.values(), strict=True)
        ]
        with torch.no_grad():
            for parameter, factor in zip(self._parameters, self._factors, strict=True):
                parameter.masked_fill_(factor == 0, 0)  # not a product: NaN x 0 is NaN

    @torch.no_grad()
    def __call__(self) -> None:
        """Zero the pruned weights again, all parameters in one call."""
        if self._parameters:
            torch._foreach_mul_(self._parameters, self._factors)

    @torch.no_grad()
    def change(self, masks: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Go over to other masks of the same parameters. What is dropped becomes zero, what is regrown begins there.

        What ``optimizer`` remembers of either (momentum, moments) is forgotten: while a weight was pruned, it gathered
        gradients of steps that were never made.
        """
        for name, parameter, factor in zip(self._names, self._parameters, self._factors, strict=True):
            keep = masks[name].to(parameter.device)
            changed = (factor != 0) ^ keep
            parameter.masked_fill_(changed, 0)
            for entry, value in optimizer.state.get(parameter, {}).items():
                if entry != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(changed, 0)
            factor.copy_(keep)
