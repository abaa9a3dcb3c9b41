"""Network slimming: an L1 penalty on BatchNorm scales, which makes the scales of unimportant channels small."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.utils.errors import InputError


class Slimming:
    """L1 penalty on a network's BatchNorm scales: a call of this object adds strength x sign(scale) to their gradients.

    Liu et al. 2017 (equation 1). sign(0) is 0, so that pruned scales get no penalty. Reported losses are without the
    penalty.

    Parameters
    ----------
    model : nn.Module
        The network, already on its device.
    strength : float
        Factor of the penalty; 0: no penalty.

    Raises
    ------
    InputError
        If ``strength`` is above 0 and the network has no trainable scale.
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
        """Add the subgradient. Call it between the backward pass and the optimiser's step."""
        # A dict, because two modules may share a scale.
        gradients = {scale: scale.grad for scale in self._scales if scale.grad is not None}
        if gradients:
            signs = torch._foreach_sign(list[Tensor](gradients))
            torch._foreach_add_(list(gradients.values()), signs, alpha=self._strength)
