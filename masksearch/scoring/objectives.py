"""Objectives: what a scorer measures. Higher is better, always."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import FilterSpace
from masksearch.utils.registry import Table

__all__ = [
    "OBJECTIVES",
    "CustomObjective",
    "LearnedLoss",
    "LogitObjective",
    "Objective",
    "accuracy",
    "bn_recalibrated",
    "calibrated_loss",
    "loss",
    "width",
]

LogitObjective = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), labels (n,)) -> scalar tensor, without a synchronisation with the host."""

CustomObjective = Callable[[nn.Module, Tensor, Tensor], float]
"""(masked model in eval mode, images (n, c, h, w), labels (n,)) -> float."""

FilterObjective = Callable[[FilterSpace, Mask], float]
"""(filter space, mask) -> float, without weights and images."""

LearnedLoss = Literal["val", "train"]
"""The loss of a short training: on validation images at its end, or on training images during its last epoch."""

_LOGIT_DEVIATION = 3.0
_REMOVED = (
    "removed after 0.1.0: no search with it was shown to beat the best criterion; its measurements are in "
    "benchmarks/README.md; use width for filters, calibrated_loss for weights"
)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images whose largest logit is the label's, in [0, 1]. NaN if a logit is not finite."""
    share = (logits.argmax(1) == labels).double().mean()
    return torch.where(logits.isfinite().all(), share, torch.nan)  # argmax would call NaN the largest


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean cross-entropy, in nats."""
    return -F.cross_entropy(logits, labels)


def calibrated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean cross-entropy of 3 z / std(z), the deviation taken over all logits of all images.

    A mask of an untrained network changes the scale of the logits as much as their order, and the scale dominates
    cross-entropy. With a fixed deviation, cross-entropy measures only which logits are larger. It is smooth, and a much
    better guide for a search than accuracy.
    """
    deviation = logits.std().clamp_min(torch.finfo(logits.dtype).tiny ** 0.5)
    return loss(_LOGIT_DEVIATION * logits / deviation, labels)


def bn_recalibrated(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus the mean cross-entropy, in nats, with BatchNorm statistics of these images under the mask.

    Pruning shifts the inputs of later layers, so the running statistics of the trained network no longer fit (Li et al.
    2020, EagleEye). All images form one batch: its statistics are the limit of re-estimation.

    Parameters
    ----------
    model : nn.Module
        Masked network in eval mode; modes, statistics and weights stay unchanged.
    images : Tensor (n, c, h, w)
        Inputs.
    labels : Tensor (n,)
        Classes, int64.
    """
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.train()
            norm.momentum, norm.num_batches_tracked = 0.0, None  # leaves the running statistics unchanged
        with torch.no_grad():
            return -float(F.cross_entropy(model(images), labels))
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.eval()
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def width(space: FilterSpace, mask: Mask) -> float:
    """Minus the sum of 1 / n over the network's layers, n the outputs that a layer keeps. Needs no images or weights.

    In an untrained chain of ReLU layers, the fluctuation of gradients grows exponentially with this sum over the hidden
    layers (Hanin 2018). Other networks use the same sum: each convolution that writes to a residual trunk adds the
    trunk's width once. Layers that lose no outputs under any mask do not count. Returns minus infinity for a mask that
    empties a layer.
    """
    widths = space.widths(mask)
    return -float((1 / widths).sum()) if widths.all() else -math.inf


@dataclass(frozen=True)
class Objective:
    """A row of the table: one of the functions, or the loss that :class:`ShortTraining` measures."""

    about: str
    of_logits: LogitObjective | None = None
    of_network: CustomObjective | None = None
    of_filters: FilterObjective | None = None
    of_training: LearnedLoss | None = None
    images: int | None = None  # largest number of images that are evaluated; None: all images of the split


OBJECTIVES: Table[Objective] = Table(
    "objective",
    {
        "accuracy": Objective("share of correctly classified images", accuracy),
        "loss": Objective("minus the mean cross-entropy", loss),
        "calibrated_loss": Objective(
            "minus the cross-entropy of logits with a fixed standard deviation", calibrated_loss
        ),
        "bn_recalibrated": Objective(
            "minus the cross-entropy with BatchNorm statistics recomputed under the mask", of_network=bn_recalibrated
        ),
        "short_training": Objective(
            "minus the cross-entropy after a few steps of the ticket's training", of_training="val"
        ),
        "training_loss": Objective(
            "minus the training loss in the last epoch of a short training (Ru et al. 2021)",
            of_training="train",
            images=0,
        ),
        "width": Objective("filters: minus the sum of the layers' reciprocal widths", of_filters=width, images=0),
    },
    removed=dict.fromkeys(("gradient_flow", "ntk_condition", "relative_width", "synflow_flow"), _REMOVED),
)
