"""Network slimming: an L1 penalty on BatchNorm's scales, which makes those of useless channels small."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.utils.errors import InputError

__all__ = ["Slimming"]


class Slimming:
    """Adds the penalty's subgradient, strength x sign(gamma), to the gradient of every BatchNorm scale.

    Liu et al. 2017 (equation 1). sign(0) is 0, so that a scale that is pruned feels nothing. The loss that a training
    reports is without the penalty.

    Parameters
    ----------
    model : nn.Module
        On its device already.
    strength : float
        0 does nothing.

    Raises
    ------
    InputError
        If there is a penalty and no scale that is trained.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        self._strength = strength
        scales = [module.weight for module in model.modules() if isinstance(module, _BatchNorm)] if strength else []
        self._scales = [scale for scale in scales if scale is not None and scale.requires_grad]
        if strength and not self._scales:
            raise InputError(
                f"bn_l1: {strength}; {type(model).__name__} has no BatchNorm scale to train, so it must be 0"
            )

    @torch.no_grad()
    def __call__(self) -> None:
        """Add the subgradient; between the backward pass and the optimiser's step."""
        # By scale, because two modules may share one.
        gradients = {scale: scale.grad for scale in self._scales if scale.grad is not None}
        if gradients:
            signs = torch._foreach_sign(list[Tensor](gradients))
            torch._foreach_add_(list(gradients.values()), signs, alpha=self._strength)
