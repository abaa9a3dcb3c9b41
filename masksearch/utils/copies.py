"""Copies of networks that deepcopy refuses: those that keep tensors of a forward pass, or compute their weights."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from masksearch.utils.nested import output_tensors


def copy_network(model: nn.Module, replaced: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a network, in which tensors that modules keep from a forward pass are detached.

    Parameters
    ----------
    replaced : mapping, optional
        id(object in the network) -> object that the copy has in its place.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in output_tensors([value for name, value in vars(module).items() if name not in _REGISTERED]):
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo | dict(replaced or {}))


_REGISTERED = ("_parameters", "_buffers", "_modules")


def empty_caches(model: nn.Module) -> None:
    """Make a network's modules drop tensors cached in eval mode: call ``model.train()``, then restore all modes."""
    if all(type(module).train is nn.Module.train for module in model.modules()):
        return
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module, training in modes.items():
        module.training = training
