"""Objectives: what a scorer measures. Higher is better, always."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.table import Table

__all__ = ["OBJECTIVES", "CustomObjective", "LogitObjective", "accuracy", "calibrated_loss", "loss"]

LogitObjective = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), labels (n,)) -> scalar tensor, without a synchronisation with the host."""

CustomObjective = Callable[[nn.Module, Tensor, Tensor], float]
"""(masked model in eval mode, images (n, c, h, w), labels (n,)) -> float."""

_LOGIT_DEVIATION = 3.0


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images whose largest logit is the label's, in [0, 1]. NaN if a logit is not finite."""
    share = (logits.argmax(1) == labels).double().mean()
    return torch.where(logits.isfinite().all(), share, torch.nan)  # argmax would call NaN the largest


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean cross-entropy, in nats."""
    return -F.cross_entropy(logits, labels)


def calibrated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean cross-entropy of 3 z / std(z), the deviation taken over all logits of all images.

    A mask of an untrained network scales the logits as much as it shapes them, and cross-entropy mostly sees the scale.
    With the deviation fixed it sees only which logits are larger, and smoothly so: a far better guide than accuracy.
    """
    deviation = logits.std().clamp_min(torch.finfo(logits.dtype).tiny ** 0.5)
    return loss(_LOGIT_DEVIATION * logits / deviation, labels)


OBJECTIVES: Table[LogitObjective] = Table(
    "objective", {"accuracy": accuracy, "loss": loss, "calibrated_loss": calibrated_loss}
)
