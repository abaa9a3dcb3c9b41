"""Masks during training: pruned weights stay exactly zero, and mask schedules may change masks between steps."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.utils.errors import InputError


class MaskSchedule(Protocol):
    """Protocol of masks that change during a training: an object that is called after every optimiser step.

    Changes may depend on state, network and step only.
    """

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Present masks as {parameter name: bool tensor of the same shape, True = kept}. The names never change."""

    def __call__(self, step: int) -> bool:
        """Update the masks after an optimiser step; return whether they changed.

        Pruned weights are zero; the gradients of the step, those of pruned weights included, still exist.

        Parameters
        ----------
        step : int
            Optimiser steps since epoch 0 of the learning-rate schedule: 1 for the first one.
        """

    def state_dict(self) -> dict[str, object]:
        """Return the state of this mask schedule as nested dicts and lists, for a checkpoint."""

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the state that :meth:`state_dict` returned; raise an InputError if the settings differ."""


def masked_parameters(model: nn.Module, masks: Mapping[str, Tensor]) -> list[Tensor]:
    """Return a network's parameters that have a mask in ``masks``, in the order of ``masks``; raise for wrong masks.

    Raises
    ------
    InputError
        If a mask names no parameter, or has another shape or type.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, keep in masks.items():
        if name not in parameters:
            raise InputError(f"masks: {name!r} is no parameter of {type(model).__name__}; give names of its parameters")
        if keep.dtype != torch.bool or keep.shape != parameters[name].shape:
            raise InputError(
                f"masks: {name!r} is {keep.dtype} {tuple(keep.shape)}; {type(model).__name__} needs torch.bool "
                f"{tuple(parameters[name].shape)}"
            )
    return [parameters[name] for name in masks]


class Masking:
    """Mask of a network in training: pruned weights are zeroed when the object is made, and at every call.

    Parameters
    ----------
    model : nn.Module
        The network, already on its device.
    masks : mapping
        Parameter name -> bool tensor of its shape, True = kept; checked by :func:`masked_parameters`.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self._names, self._parameters = list(masks), masked_parameters(model, masks)
        self._factors = [
            torch.empty_like(parameter).copy_(keep)  # with the parameter's strides, for fast products
            for parameter, keep in zip(self._parameters, masks.values(), strict=True)
        ]
        with torch.no_grad():
            for parameter, factor in zip(self._parameters, self._factors, strict=True):
                parameter.masked_fill_(factor == 0, 0)  # a product would keep NaN

    @torch.no_grad()
    def __call__(self) -> None:
        """Zero the pruned weights again."""
        if self._parameters:
            torch._foreach_mul_(self._parameters, self._factors)

    @torch.no_grad()
    def mask(self, tensors: Mapping[str, Tensor]) -> None:
        """Zero pruned entries in place in {parameter name: tensor}, such as a network's averaged weights."""
        if self._names:
            torch._foreach_mul_([tensors[name] for name in self._names], self._factors)

    @torch.no_grad()
    def change(self, masks: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Replace the network's masks by masks of the same parameters; newly pruned and regrown weights become zero.

        Their entries in the state of ``optimizer`` (momentum, moments) become zero, too: while a weight was pruned, the
        optimiser accumulated gradients of steps that had no effect.
        """
        for name, parameter, factor in zip(self._names, self._parameters, self._factors, strict=True):
            keep = masks[name].to(parameter.device)
            changed = (factor != 0) ^ keep
            parameter.masked_fill_(changed, 0)
            for entry, value in optimizer.state.get(parameter, {}).items():
                if entry != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(changed, 0)
            factor.copy_(keep)
