"""Weight space of a network: one unit per weight of its linear and convolutional layers."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces.network_space import NetworkSpace, table_lines
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["LayerKind", "WeightSpace", "weight_space"]

LayerKind = Literal["all", "conv", "linear"]

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "all": (nn.Linear, *_CONVOLUTIONS),
    "conv": _CONVOLUTIONS,
    "linear": (nn.Linear,),
}


class WeightSpace(NetworkSpace):
    """Masks with one bit per weight. Made by :func:`weight_space`. ``print(space)`` shows a table."""

    def __str__(self) -> str:
        rows = [(layer.name, str(layer.size), "x".join(map(str, layer.shape))) for layer in self.layers]
        return "\n".join([repr(self), *table_lines([("layer", "units", "weight"), *rows])])

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Weight name -> bool tensor of the weight's shape."""
        return {_weight(layer.name): mask.bits[layer.slice].view(layer.shape) for layer in self.layers}

    def layer_weights(self) -> list[str]:
        """Names of the masked weights, in order of the layers."""
        return [_weight(layer.name) for layer in self.layers]

    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """The entries of ``tensors`` (by parameter name, a state dict for example) as one tensor (n_units,).

        A unit is one entry, so that there is nothing to sum and ``part`` has no effect.
        """
        return torch.cat([tensors[_weight(layer.name)].detach().flatten() for layer in self.layers])


def _weight(layer: str) -> str:
    """Name of a layer's weight; a model that is itself a layer has the name ""."""
    return f"{layer}.weight" if layer else "weight"


def weight_space(
    model: nn.Module,
    kinds: LayerKind = "all",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
) -> WeightSpace:
    """The space of weight masks of a network. Biases and normalisations are never masked.

    Parameters
    ----------
    model : nn.Module
        Any module; it is not changed.
    kinds : {"all", "conv", "linear"}
        Which kinds of layers have units.
    include, exclude : str or sequence of str
        Shell patterns of layer names (``"features.*"``). A layer is in the space if a pattern of ``include`` fits and
        none of ``exclude`` does.

    Raises
    ------
    InputError
        If no layer is left, or two layers share a weight (one mask bit would stand for two positions).
    """
    include, exclude = ([p] if isinstance(p, str) else list(p) for p in (include, exclude))
    choose("kinds", kinds, list(get_args(LayerKind)))
    sizes: list[tuple[str, tuple[int, ...], int]] = []
    owner: dict[int, str] = {}
    for name, module in model.named_modules():
        chosen = any(fnmatch(name, p) for p in include) and not any(fnmatch(name, p) for p in exclude)
        if not isinstance(module, _KINDS[kinds]) or not chosen:
            continue
        weight = module.weight
        if not isinstance(weight, nn.Parameter):
            raise InputError(
                f"model: the weight of layer {name!r} is computed from others; remove the parametrization first"
            )
        if id(weight) in owner:
            raise InputError(
                f"model: layers {owner[id(weight)]!r} and {name!r} share one weight; leave one out by its name"
            )
        owner[id(weight)] = name
        sizes.append((name, tuple(weight.shape), weight.numel()))
    if not sizes:
        raise InputError(f"model: {type(model).__name__} has no {kinds} layer with weights that fits {include}")
    return WeightSpace(sizes, "weight")
