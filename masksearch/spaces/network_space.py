"""A space over the parameters of a network: which of their entries a mask zeroes, and how to zero them for a while."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

__all__ = ["NetworkSpace"]


class NetworkSpace(MaskSpace, ABC):
    """All masks of a network at one granularity. It holds names and shapes, never the network or its weights."""

    @abstractmethod
    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Parameter name -> bool tensor of its shape, True = kept; parameters that no mask touches are left out."""

    @abstractmethod
    def layer_weights(self) -> list[str]:
        """Names of the weights whose units the space's layers are made of."""

    @abstractmethod
    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Sum what ``tensors`` (by parameter name) hold where each unit is: (n_units,), on the tensors' device.

        ``part`` is ``"all"``, everything that the unit removes, or ``"filters"``, the weights that make its channels.
        """

    @contextmanager
    def applied(self, model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
        """Zero in ``model`` what ``mask`` prunes, for the length of a ``with`` block.

        On leaving the block, also through an exception, every touched parameter has its old bits back; what was written
        to it meanwhile is lost.

        Raises
        ------
        InputError
            If the mask or the model is not of this space.
        """
        touched = self._touched(model, mask)
        before = {name: parameter.detach().clone() for name, (parameter, _) in touched.items()}
        try:
            with torch.no_grad():
                for parameter, keep in touched.values():
                    parameter.masked_fill_(~keep, 0)
            yield model
        finally:
            with torch.no_grad():
                for name, (parameter, _) in touched.items():
                    parameter.copy_(before[name])

    def apply(self, model: nn.Module, mask: Mask) -> None:
        """Zero in ``model`` what ``mask`` prunes, for good."""
        with torch.no_grad():
            for parameter, keep in self._touched(model, mask).values():
                parameter.masked_fill_(~keep, 0)

    def check_own(self, mask: Mask) -> None:
        """Raise an :class:`InputError` if the mask is not of this space."""
        if mask.space is not self and mask.space.fingerprint != self.fingerprint:
            raise InputError(f"mask of a {mask.space.describe()}; it doesn't fit this {self.describe()}")

    def _touched(self, model: nn.Module, mask: Mask) -> dict[str, tuple[nn.Parameter, Tensor]]:
        self.check_own(mask)
        parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied weight has two names
        touched = {}
        for name, keep in self.parameter_masks(mask).items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != keep.shape:
                has = "nothing" if parameter is None else f"shape {tuple(parameter.shape)}"
                raise InputError(
                    f"model: {type(model).__name__} has {has} for {name} {tuple(keep.shape)} of this {self.describe()}"
                )
            touched[name] = (parameter, keep.to(parameter.device))
        return touched
