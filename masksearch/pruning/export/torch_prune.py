"""Conversion of weight masks to and from ``torch.nn.utils.prune`` and state dicts.

``torch.nn.utils.prune`` keeps a masked ``weight`` as a parameter ``weight_orig`` and a buffer ``weight_mask`` of ones
and zeros, and multiplies them before every forward pass.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from masksearch.core.mask import Mask
from masksearch.spaces.weight_mask_space import WeightSpace
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

StateForm = Literal["zeros", "torch_prune"]


def to_torch_prune(model: nn.Module, space: WeightSpace, mask: Mask) -> None:
    """Apply a weight mask to a network in place, as ``torch.nn.utils.prune`` does: ``weight_orig * weight_mask``.

    The mask stays in effect during training; ``torch.nn.utils.prune.remove(layer, "weight")`` makes it permanent.

    Raises
    ------
    InputError
        If the mask or the model is not of this space, or a layer has a mask already. Then the model does not change.
    """
    layers = {}
    masks = _weight_masks(space, mask)
    modules = dict(model.named_modules())
    for layer, (name, keep) in zip(space.layers, masks.items(), strict=True):
        module = modules.get(layer.name)
        if module is not None and hasattr(module, "weight_orig"):
            raise InputError(
                f"model: layer {layer.name!r} has a mask already; make it permanent with "
                "torch.nn.utils.prune.remove first"
            )
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.shape != keep.shape:
            raise InputError(
                f"model: {type(model).__name__} has no {name} of shape {layer.shape} as {space.describe()}"
            )
        layers[name] = (module, keep.to(weight.device))
    for module, keep in layers.values():
        prune.custom_from_mask(module, "weight", keep)


def from_torch_prune(model: nn.Module, space: WeightSpace) -> Mask:
    """Return the mask of a network pruned by ``torch.nn.utils.prune``; layers without a mask are fully kept.

    Parameters
    ----------
    model : nn.Module
        A network with masks of ``torch.nn.utils.prune``.
    space : WeightSpace
        The space of the unpruned network.

    Raises
    ------
    InputError
        If no layer has a mask, a tensor outside the space (such as a bias) has one, or the model is not of this space.
    """
    state = model.state_dict()
    masked = {name.removesuffix("_mask") for name in state if name.endswith("_mask") and f"{name[:-5]}_orig" in state}
    if not masked:
        raise InputError(
            f"model: no layer of {type(model).__name__} has a mask of torch.nn.utils.prune; if its weights "
            "are zero instead, read its state dict"
        )
    weights = space.layer_weights()
    if outside := sorted(masked - set(weights)):
        raise InputError(f"model: {outside[0]} has a mask and is not in this {space.describe()}")
    whole = {name: torch.ones_like(state[name]) for name in weights if name in state and name not in masked}
    return mask_of_state({**state, **whole}, space)


def mask_of_state(state: Mapping[str, Tensor], space: WeightSpace) -> Mask:
    """Return the weight mask in a state dict: its ``weight_mask`` entries; without them, True where weights are not 0.

    Weights that are zero for other reasons count as pruned.

    Raises
    ------
    InputError
        If the state dict is not of this space.
    """
    _check_weight_space(space)
    kept = []
    for layer, name in zip(space.layers, space.layer_weights(), strict=True):
        values = state.get(f"{name}_mask", state.get(name))
        if values is None or tuple(values.shape) != layer.shape:
            raise _misfit(name, values, space)
        kept.append((values != 0).flatten().cpu())
    return Mask(space, torch.cat(kept))


def masked_state(
    state: Mapping[str, Tensor], space: WeightSpace, mask: Mask, form: StateForm = "zeros"
) -> dict[str, Tensor]:
    """Return a copy of a state dict with masked weights: 0, or pairs ``weight_orig``, ``weight_mask`` (see ``form``).

    Parameters
    ----------
    state : mapping
        State dict of the network, plain or from ``torch.nn.utils.prune``, whose masks are replaced. Tensors without a
        mask are not copied.
    space : WeightSpace
        The space of the mask.
    mask : Mask
        The mask to apply.
    form : {"zeros", "torch_prune"}
        ``zeros``: pruned weights are zero, for any network of the class. ``torch_prune``: ``weight_orig`` and
        ``weight_mask``, for networks masked by :func:`to_torch_prune` or ``torch.nn.utils.prune``.

    Raises
    ------
    InputError
        If the mask or the state dict is not of this space.
    """
    choose("form", form, list(get_args(StateForm)))
    masked = dict(state)
    for name, keep in _weight_masks(space, mask).items():
        weight = masked.pop(f"{name}_orig", masked.get(name))
        if weight is None or weight.shape != keep.shape:
            raise _misfit(name, weight, space)
        masked.pop(f"{name}_mask", None)
        keep = keep.to(weight.device)
        if form == "zeros":
            masked[name] = weight.masked_fill(~keep, 0)
        else:
            masked.pop(name, None)
            masked |= {f"{name}_orig": weight, f"{name}_mask": keep.to(weight.dtype)}
    return masked


def _weight_masks(space: WeightSpace, mask: Mask) -> dict[str, Tensor]:
    _check_weight_space(space)
    space.check_mask(mask)
    return space.parameter_masks(mask)


def _check_weight_space(space: object) -> None:
    if not isinstance(space, WeightSpace):
        raise InputError(f"space: a {type(space).__name__}; masks of single weights need a weight space")


def _misfit(name: str, tensor: Tensor | None, space: WeightSpace) -> InputError:
    has = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
    return InputError(f"state: it has {has} for {name} of this {space.describe()}")
