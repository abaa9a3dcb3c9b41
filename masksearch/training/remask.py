"""What a training needs to know of masks that change while it runs."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Remask"]


class Remask(Protocol):
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
