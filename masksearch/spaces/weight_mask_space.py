"""Weight space of a network: masks with one bit per weight of its matrix products and convolutions."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces.base_space import NetworkSpace, table_lines, unwrapped
from masksearch.utils.errors import InputError, require
from masksearch.utils.registry import choose

LayerKind = Literal["all", "conv", "linear"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

_SCALES = "scales, as of a normalisation: each multiplies one channel, in no matrix product"
"""Reason why parameters of one dimension are left out."""
_SHOWN = 8  # names of layers with one reason in a printed line


class WeightSpace(NetworkSpace):
    """Weight masks of a network: one bit per weight of its matrix products and convolutions.

    Made by :func:`weight_space`. ``print(space)`` shows a table.

    Attributes
    ----------
    left_out : tuple of (str, str)
        Layers and parameters that no mask changes, and the reason. Biases are never masked, and not listed.
    n_parameters : int
        Parameters of the network. Densities and sparsities are shares of ``n_units``.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[str, tuple[int, ...], int]],
        weights: Mapping[str, str],
        left_out: Sequence[tuple[str, str]],
        n_parameters: int,
    ) -> None:
        super().__init__(sizes, "weight")
        self._weights = dict(weights)  # layer -> parameter
        self.left_out = tuple(left_out)
        self.n_parameters = n_parameters

    def __str__(self) -> str:
        rows = [(layer.name, str(layer.size), "x".join(map(str, layer.shape))) for layer in self.layers]
        share = f"units are {self.n_units:,} of {self.n_parameters:,} parameters; densities are shares of the units"
        lines = [repr(self), share, *table_lines([("layer", "units", "weight"), *rows])]
        names: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            names.setdefault(reason, []).append(name)
        for reason, some in names.items():
            more = f", + {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
            lines.append(f"left out: {', '.join(some[:_SHOWN])}{more}: {reason}")
        return "\n".join(lines)

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return {weight name: bool tensor, True = kept} of the weights that a mask covers."""
        return {self._weights[layer.name]: mask.bits[layer.slice].view(layer.shape) for layer in self.layers}

    def layer_weights(self) -> list[str]:
        """Return the names of the weights that masks can change, in order of the layers."""
        return [self._weights[layer.name] for layer in self.layers]

    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Flatten the tensors of all prunable weights, given by name, into one tensor with an entry per weight.

        ``tensors`` holds them by parameter name. A unit is one entry: there is nothing to sum, ``part`` has no effect.
        """
        return torch.cat([tensors[name].detach().flatten() for name in self.layer_weights()])


def weight_space(
    model: nn.Module,
    kinds: LayerKind = "all",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
) -> WeightSpace:
    """Return the space of masks with one bit per weight that enters a matrix product or a convolution.

    Those are the weights of linear, bilinear and convolutional layers, of ``nn.MultiheadAttention`` (``in_proj_weight``
    and others), of recurrent layers and cells, and of Transformers' ``Conv1D``. Embeddings, weights that an embedding
    shares, biases and normalisations are never masked. A parameter of another module has units if a pattern of
    ``include`` other than ``"*"`` fits its name. ``space.left_out`` has the rest, with reasons.

    Parameters
    ----------
    model : nn.Module
        Any module; it is not changed.
    kinds : {"all", "conv", "linear"}
        Which kinds of layers masks cover.
    include, exclude : str or sequence of str
        Shell patterns of layer names (``"features.*"``). A layer is in the space if a pattern of ``include`` fits and
        none of ``exclude`` does. The layer of an attention's or recurrent weight has the name of the parameter.

    Raises
    ------
    InputError
        If no layer is left, a pattern of ``exclude`` fits nothing, or two layers share a weight (one mask bit would
        stand for two positions).
    """
    model = unwrapped(model)
    for name, patterns in (("include", include), ("exclude", exclude)):
        several = [patterns] if isinstance(patterns, str) else patterns
        fits = isinstance(several, list | tuple | set | frozenset) and all(isinstance(one, str) for one in several)
        require(name, ascii(patterns)[:60], fits, "a pattern of layers' names, or a list of patterns")
    include, exclude = ([p] if isinstance(p, str) else list(p) for p in (include, exclude))
    choose("kinds", kinds, list(get_args(LayerKind)))
    found = list(_weights_of(model))
    _check_patterns(exclude, [name for name, *_ in found])
    named = [pattern for pattern in include if pattern != "*"]
    embedded = {id(module.weight): name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    owner: dict[int, str] = {}
    sizes: list[tuple[str, tuple[int, ...], int]] = []
    weights: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for layer, parameter, kind, weight in found:
        if any(fnmatch(layer, pattern) for pattern in exclude):
            left_out.append((layer, "named by exclude"))
        elif kind == "parameter" and not any(fnmatch(layer, pattern) for pattern in named):
            left_out.append((layer, "a parameter of a module without a rule; name it with include to mask it"))
        elif kind == "embedding":
            left_out.append((layer, "an embedding: its rows are looked up and multiply nothing"))
        elif not any(fnmatch(layer, pattern) for pattern in include):
            left_out.append((layer, f"no pattern of include fits ({', '.join(include)})"))
        elif kinds not in ("all", kind):
            left_out.append((layer, f"kinds is {kinds!r}"))
        elif not isinstance(weight, nn.Parameter):
            raise InputError(
                f"model: the weight of layer {layer!r} is computed from others; remove the parametrization first"
            )
        elif id(weight) in embedded:
            left_out.append((layer, f"its weight is that of the embedding {embedded[id(weight)]!r}"))
        elif id(weight) in owner:
            raise InputError(
                f"model: layers {owner[id(weight)]!r} and {layer!r} share one weight; leave one out by its name"
            )
        else:
            owner[id(weight)] = layer
            weights[layer] = parameter
            sizes.append((layer, tuple(weight.shape), weight.numel()))
    if not sizes:
        sort = "" if kinds == "all" else f"{kinds} "
        whose = "" if include == ["*"] else f" whose name fits {' or '.join(include)}"
        raise InputError(
            f"model: {type(model).__name__} has no {sort}layer with weights to prune{whose}; a network with linear "
            "layers or convolutions is needed"
        )
    left_out += [(name, _SCALES) for name in _scales_of(model)]
    return WeightSpace(sizes, weights, left_out, sum(parameter.numel() for parameter in model.parameters()))


def _weights_of(model: nn.Module) -> Iterator[tuple[str, str, str, Tensor]]:
    """Layer, parameter, kind and tensor of every weight of two or more dimensions, in order of the modules.

    The layer of a module's ``weight`` is the module; other weights have the parameter's name.
    """
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        kind = _kind(module)
        if kind in ("linear", "conv", "embedding"):
            yield name, f"{prefix}weight", kind, module.weight
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and not nn.parameter.is_lazy(parameter):
                yield f"{prefix}{own}", f"{prefix}{own}", _kind_of_parameter(kind, own), parameter


def _scales_of(model: nn.Module) -> Iterator[str]:
    """Names of modules with a ``weight`` of one dimension, and of other such parameters; biases are not among them."""
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1 and "bias" not in own:
                yield name if own == "weight" else f"{name}.{own}".removeprefix(".")


def _kind(module: nn.Module) -> str:
    # Transformers' Conv1D is a linear layer with a transposed weight; Transformers is not imported for its type.
    if isinstance(module, nn.Linear | nn.Bilinear) or type(module).__name__ == "Conv1D":
        return "linear"
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return "product" if isinstance(module, (*_RECURRENT, nn.MultiheadAttention)) else "parameter"


def _kind_of_parameter(kind: str, name: str) -> str:
    # nn.MultiheadAttention's bias_k and bias_v are rows that are appended, and multiply nothing of the input.
    return "parameter" if kind == "product" and "bias" in name else kind


def _check_patterns(exclude: Sequence[str], names: Sequence[str]) -> None:
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name in names):
            raise InputError(f"exclude: {pattern!r} fits no layer; there are {', '.join(names[:20])}")
