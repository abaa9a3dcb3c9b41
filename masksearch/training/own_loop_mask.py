"""Masks that stay applied in your own training loops: pruned weights are zeroed after every optimiser step."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.training.masking import masked_parameters


class MaskSpaceOfNetwork(Protocol):
    """Protocol of a mask space: the set of all pruning masks of some parameters of a network."""

    def check_mask(self, mask: Any) -> None:
        """Raise an :class:`InputError` unless ``mask`` was made for the same parameters as this space."""

    def parameter_masks(self, mask: Any) -> Mapping[str, Tensor]:
        """Return a mask of this space as {parameter name: bool tensor of the parameter's shape, True = kept}."""

    def set_norms(self, model: nn.Module, mask: Any) -> None:
        """Make a network's normalisation layers use only kept channels, if masks of this space require it."""


class KeptMask:
    """Mask that stays applied in your own training loop: call this object after every ``optimizer.step()``.

    Parameters are looked up by name at every call, so that ``model.to(device)`` and ``load_state_dict`` are allowed.

    Parameters
    ----------
    model : nn.Module
        The network.
    masks : mapping
        Parameter name -> bool tensor of its shape, True = kept.

    Raises
    ------
    InputError
        If a mask names no parameter, or has another shape or type.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        masked_parameters(model, masks)  # checks the masks
        self._model, self._pruned = model, {name: ~keep for name, keep in masks.items()}
        self._hooks: list[Any] = []
        self()

    @torch.no_grad()
    def __call__(self) -> None:
        """Zero the pruned weights again; after ``remove()``, do nothing."""
        for name, pruned in self._pruned.items():
            owner, _, attribute = name.rpartition(".")
            parameter = getattr(self._model.get_submodule(owner), attribute)
            if pruned.device != parameter.device:
                pruned = self._pruned[name] = pruned.to(parameter.device)
            parameter.masked_fill_(pruned, 0)  # a product would keep NaN, and the sign of a zero

    def attach(self, optimizer: Optimizer) -> "KeptMask":
        """Make an optimiser zero the pruned weights after each of its steps; return this :class:`KeptMask`."""
        self._hooks.append(optimizer.register_step_post_hook(lambda *_: self()))
        return self

    def remove(self) -> None:
        """Stop zeroing pruned weights after optimiser steps, so that the next step may change them."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._pruned = [], {}


def keep_mask(model: nn.Module, space: MaskSpaceOfNetwork, mask: Any) -> KeptMask:
    """Zero the pruned weights of a network now, and again after every optimiser step of your own training loop.

    Parameters
    ----------
    model : nn.Module
        The network; its pruned weights become zero at once.
    space : NetworkSpace
        A space of the network: ``ms.weight_space``, ``ms.filter_space``.
    mask : Mask
        A mask of the space.

    Returns
    -------
    KeptMask
        ``keep()`` zeroes the pruned weights again, bit for bit; call it after ``optimizer.step()`` and after loading
        weights. ``keep.attach(optimizer)`` does so after every step. ``keep.remove()`` ends it.

    Raises
    ------
    InputError
        If the mask is not of this space, or the network is of another one.
    """
    space.check_mask(mask)
    kept = KeptMask(model, space.parameter_masks(mask))
    space.set_norms(model, mask)
    return kept
