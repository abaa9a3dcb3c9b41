"""Base class of the mask spaces of networks: which parameter entries a mask zeroes, and masks applied to networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.spaces.masked_norms import norms_over
from masksearch.utils.copies import empty_caches
from masksearch.utils.errors import InputError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class NetworkSpace(MaskSpace, ABC):
    """Base class of spaces of pruning masks of a network; it stores names and shapes of parameters, no weights.

    A unit is what one mask bit switches: a weight, or a group of channels.
    """

    removes_parts: ClassVar[bool] = False
    """Whether pruning makes the network smaller (filters, blocks); otherwise pruned weights stay as zeros."""

    left_out: Sequence[tuple[str, str]] = ()
    """Layers and branches that masks can't prune, as (name, reason) pairs."""

    def __repr__(self) -> str:
        """Return one line with the numbers of units and layers, and the fingerprint."""
        name, layers = type(self).__name__, len(self.layers)
        return f"{name}({self.n_units} units in {layers} layer{'s' * (layers != 1)}, fingerprint {self.fingerprint})"

    @abstractmethod
    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return a mask as {parameter name: bool tensor, True = kept}, for all parameters that masks can change."""

    @abstractmethod
    def layer_weights(self) -> list[str]:
        """Return the names of the weights that masks prune, entry by entry or by whole filters."""

    @abstractmethod
    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Sum tensors, given by parameter name, over the entries of each unit; return one sum per unit.

        ``part`` is ``"all"``, or ``"filters"`` for only those entries of weights that make the unit's channels.
        """

    @contextmanager
    def applied(self, model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
        """Context manager in which the pruned entries of a network's parameters are zero; it restores them at its end.

        At the end of the block, also after an exception, every masked parameter gets its old values back, bit for bit;
        changes made within the block are lost.

        Raises
        ------
        InputError
            If the mask or the model is not of this space.
        """
        masked = self._masked_parameters(model, mask)
        kept_in_norms = self.kept_in_norms(mask)
        before = {name: parameter.detach().clone() for name, (parameter, _) in masked.items()}
        try:
            with torch.no_grad():
                for parameter, keep in masked.values():
                    parameter.masked_fill_(~keep, 0)
            empty_caches(unwrapped(model))
            with norms_over(unwrapped(model), kept_in_norms) if kept_in_norms else nullcontext():
                yield model
        finally:
            with torch.no_grad():
                for name, (parameter, _) in masked.items():
                    parameter.copy_(before[name])
            empty_caches(unwrapped(model))

    def apply(self, model: nn.Module, mask: Mask) -> None:
        """Zero the entries of a network's parameters that a mask prunes, in place and permanently."""
        with torch.no_grad():
            for parameter, keep in self._masked_parameters(model, mask).values():
                parameter.masked_fill_(~keep, 0)
        self.set_norms(model, mask)

    def kept_in_norms(self, mask: Mask) -> dict[str, tuple[Tensor, int]]:
        """Return {norm: (indices of kept channels, channel dimension)}, for norms that a mask makes smaller."""
        return {}

    def set_norms(self, model: nn.Module, mask: Mask) -> None:
        """Make a network's norms use only channels that a mask keeps; spaces other than those of filters do nothing."""

    def _masked_parameters(self, model: nn.Module, mask: Mask) -> dict[str, tuple[nn.Parameter, Tensor]]:
        self.check_mask(mask)
        model = unwrapped(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied weight has two names
        masked = {}
        for name, keep in self.parameter_masks(mask).items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != keep.shape:
                has = "nothing" if parameter is None else f"shape {tuple(parameter.shape)}"
                raise InputError(
                    f"model: {type(model).__name__} has {has} for {name} {tuple(keep.shape)} of this {self.describe()}"
                )
            masked[name] = (parameter, keep.to(parameter.device))
        return masked


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel or torch.compile; other networks unchanged.

    Raises
    ------
    InputError
        If ``model`` is no nn.Module, or a ScriptModule.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: a {type(model).__name__}; an nn.Module is needed")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("model: a ScriptModule, whose units cannot be removed; give the nn.Module it was made of")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def on_inner_network(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator for functions of (model, space, ...): the function gets the network inside DataParallel and the like.

    :func:`unwrapped` says what is taken off. Where the function's annotation names one kind of space, a space of
    another kind raises an InputError.
    """
    kind = function.__annotations__["space"]

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> _Result:
        space = options.get("space", arguments[1] if len(arguments) > 1 else None)
        if kind is not NetworkSpace and space is not None and not isinstance(space, kind):
            raise InputError(
                f"{function.__name__}: space is a {type(space).__name__}; allowed is a {kind.__name__}, as "
                f"ms.{kind.__name__.removesuffix('Space').lower()}_space returns"
            )
        if arguments:
            arguments = (unwrapped(arguments[0]), *arguments[1:])
        elif "model" in options:
            options["model"] = unwrapped(options["model"])
        return function(*arguments, **options)

    return call


def table_lines(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return rows of (layer, units, text) as text lines with aligned columns."""
    names, units = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{name:{names}}  {count:>{units}}  {text}" for name, count, text in rows]
