"""Base class of mask schedules within a training: one mask that changes at some steps, saved in checkpoints.

Changes depend on the network, the mask and the step only, so that a checkpoint needs no other state than the mask.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.training import MaskSchedule
from masksearch.utils.errors import InputError


def default_interval(steps: int) -> int:
    """Return the default number of optimiser steps between two mask changes: 100, or 1/40 of a shorter training.

    That is min(100, ``steps`` // 40), at least 1. 100 is the number of Evci et al. 2020.
    """
    return max(1, min(100, steps // 40))


def default_end(steps: int, begin: int = 0) -> int:
    """Return the default step after which masks no longer change: 75 % of the training (Evci et al. 2020)."""
    return begin + (steps - begin) * 3 // 4


class ScheduleState(TypedDict):
    """Checkpoint entries of a mask that changes in training: settings, mask bits, and the density requested last."""

    settings: dict[str, object]
    bits: Tensor  # bool (n_units,)
    reached: NotRequired[float]  # density that gradual pruning requested last


class ChangingMask(MaskSchedule, ABC):
    """Base class of schedules that change a pruning mask during training; subclasses choose the steps and new masks.

    The mask does not change if a weight is not finite: then weights can't be ranked, and the training ends.
    """

    def __init__(self, model: nn.Module, space: NetworkSpace, mask: Mask, settings: Mapping[str, object]) -> None:
        space.check_mask(mask)
        self.model, self.space = model, space
        self._settings = dict(settings)
        self._set(mask)

    def _set(self, mask: Mask) -> None:
        self.mask, self._masks = mask, self.space.parameter_masks(mask)
        self.space.set_norms(self.model, mask)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Current masks of the training: {parameter name: bool tensor of the parameter's shape, True = kept}."""
        return self._masks

    @abstractmethod
    def _due(self, step: int) -> bool: ...

    @abstractmethod
    def _next(self, step: int) -> Mask: ...

    def __call__(self, step: int) -> bool:
        """Change the mask if a change is due at ``step``; return whether the mask changed."""
        if not self._due(step) or not _finite(self.model):
            return False
        before = self.mask
        self._set(self._next(step))
        return self.mask != before

    def state_dict(self) -> dict[str, object]:
        """Return the mask and the settings of the pruning schedule, to save them in a checkpoint."""
        return {"settings": self._settings, "bits": self.mask.bits}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the mask of the pruning schedule from a checkpoint.

        Raises
        ------
        InputError
            If the state is of other settings; the message names the first difference.
        """
        saved_state = cast(ScheduleState, state)
        for name, value in self._settings.items():
            if (saved := saved_state["settings"].get(name)) != value:
                raise InputError(
                    f"checkpoint: its masks changed with {name} {saved}, and this training has {value}; give the same"
                )
        self._set(Mask(self.space, saved_state["bits"]))


def _finite(model: nn.Module) -> bool:
    with torch.no_grad():
        return bool(torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all())
