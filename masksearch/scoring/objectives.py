"""Objectives: what a scorer measures. Higher is better, always."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.mask import Mask
from masksearch.scoring.proxies import KERNEL_IMAGES, bn_recalibrated, gradient_flow, ntk_condition, synflow_flow
from masksearch.scoring.width import relative_width, width
from masksearch.spaces import FilterSpace
from masksearch.table import Table

__all__ = [
    "OBJECTIVES",
    "CustomObjective",
    "LearnedLoss",
    "LogitObjective",
    "Objective",
    "accuracy",
    "calibrated_loss",
    "loss",
]

LogitObjective = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), labels (n,)) -> scalar tensor, without a synchronisation with the host."""

CustomObjective = Callable[[nn.Module, Tensor, Tensor], float]
"""(masked model in eval mode, images (n, c, h, w), labels (n,)) -> float."""

FilterObjective = Callable[[FilterSpace, Mask], float]
"""What a filter mask says by itself, without the network's weights and without images."""

LearnedLoss = Literal["val", "train"]
"""The loss after a short training on validation images, or during its last epoch on what it learns."""

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


@dataclass(frozen=True)
class Objective:
    """A row of the table: one of the functions, or the loss that :class:`ShortTraining` looks at."""

    about: str
    of_logits: LogitObjective | None = None
    of_network: CustomObjective | None = None
    of_filters: FilterObjective | None = None
    of_training: LearnedLoss | None = None
    images: int | None = None  # of the split it scores on that it looks at, at most; None: at all


OBJECTIVES: Table[Objective] = Table(
    "objective",
    {
        "accuracy": Objective("share of images that are classified rightly", accuracy),
        "loss": Objective("minus the mean cross-entropy", loss),
        "calibrated_loss": Objective("minus the cross-entropy of logits brought to one deviation", calibrated_loss),
        "bn_recalibrated": Objective(
            "minus the cross-entropy, BatchNorm statistics taken anew under the mask", of_network=bn_recalibrated
        ),
        "short_training": Objective(
            "minus the cross-entropy after a few steps of the ticket's training", of_training="val"
        ),
        "training_loss": Objective(
            "minus the training loss in the last epoch of so short a training (Ru et al. 2021)",
            of_training="train",
            images=0,
        ),
        "gradient_flow": Objective("norm of the loss's gradient in the kept weights", of_network=gradient_flow),
        "synflow_flow": Objective(
            "log of the synaptic flow through the masked network", of_network=synflow_flow, images=0
        ),
        "ntk_condition": Objective(
            "minus the log condition number of the neural tangent kernel",
            of_network=ntk_condition,
            images=KERNEL_IMAGES,
        ),
        "width": Objective("filters: minus the sum of the layers' reciprocal widths", of_filters=width, images=0),
        "relative_width": Objective(
            "filters: minus the sum of the layers' reciprocal densities", of_filters=relative_width, images=0
        ),
    },
)
