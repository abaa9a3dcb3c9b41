"""Objectives: quantities that a scorer measures for a mask. Higher is always better."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.tasks import CLASSIFICATION, Task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model
from masksearch.utils.registry import Table

LogitObjective = Callable[[Tensor, Tensor], Tensor]
"""Function (logits (n, classes), labels (n,)) -> scalar tensor, which doesn't wait for the GPU (no ``.item()``)."""

CustomObjective = Callable[..., float]
"""Function (masked model in eval mode, inputs of all examples, targets of all examples) -> float."""

FilterObjective = Callable[[FilterSpace, Mask], float]
"""Function (filter space, mask) -> float, which needs neither weights nor examples."""

TaskObjective = Literal["metric", "loss", "distance"]
"""Quantity that scores a mask: the task's metric, its loss, or the distance between masked and dense outputs."""

LearnedLoss = Literal["val", "train"]
"""Loss that scores a short training: on validation examples at its end, or on training examples in its last epoch."""

_LOGIT_DEVIATION = 3.0
_REMOVED = (
    "removed after 0.1.0: no search with it was shown to beat the best criterion; its measurements are in "
    "docs/results/tried.md; use width for filters, calibrated_loss for weights"
)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of correctly classified examples, in [0, 1]; NaN if a logit is not finite."""
    share = (logits.argmax(1) == labels).double().mean()
    return torch.where(logits.isfinite().all(), share, torch.nan)  # argmax would call NaN the largest


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return minus the mean cross-entropy of logits (n, classes) and labels (n,), in nats."""
    return -F.cross_entropy(logits, labels)


def calibrated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return minus the mean cross-entropy of logits that are scaled to a standard deviation of 3.

    The standard deviation is that of all logits of all examples. A mask of an untrained network changes the scale of
    the logits as much as their order, and the scale dominates cross-entropy. With a fixed deviation, cross-entropy
    measures only which logits are larger. It is smooth, and a much better guide for a search than accuracy.
    """
    deviation = logits.std().clamp_min(torch.finfo(logits.dtype).tiny ** 0.5)
    return loss(_LOGIT_DEVIATION * logits / deviation, labels)


def bn_recalibrated(model: nn.Module, inputs: Nested, targets: Any, task: Task = CLASSIFICATION) -> float:
    """Return minus a masked network's mean loss, with BatchNorm statistics computed anew from the given examples.

    Pruning shifts the inputs of later layers, so the running statistics of the trained network no longer fit (Li et al.
    2020, EagleEye). All examples form one batch: its statistics are the limit of re-estimation.

    Parameters
    ----------
    model : nn.Module
        Masked network in eval mode; modes, statistics and weights stay unchanged.
    inputs : Tensor (n, ...), or a tuple or dict of such tensors
        Inputs of all examples.
    targets : Tensor (n, ...), or a tuple or dict of such tensors, or None
        Targets of all examples.
    task : Task
        The loss. Default: the cross-entropy of classes, in nats.
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
            outputs = call_model(model, inputs)
            if task.loss is CLASSIFICATION.loss and task.select is None:  # in the precision of the logits
                return loss(task.read(outputs), targets).item()
            return -float(task.loss_of(outputs, targets))
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.eval()
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def width(space: FilterSpace, mask: Mask) -> float:
    """Return the score "width" of a filter mask: minus the sum over layers of 1 / (kept output channels of the layer).

    The objective needs no examples and no weights. In an untrained chain of ReLU layers, the fluctuation of gradients
    grows exponentially with this sum over the hidden layers (Hanin 2018). Other networks use the same sum: each
    convolution that writes to a residual trunk adds the trunk's width once. Layers that lose no outputs under any mask
    do not count. Returns minus infinity for a mask that empties a layer.
    """
    widths = space.widths(mask)
    return -float((1 / widths).sum()) if widths.all() else -math.inf


@dataclass(frozen=True)
class Objective:
    """Definition of an objective, a quantity that scores masks: its description, and the function that computes it.

    A row with ``of_logits`` alone is for classification. A row with ``of_task``, too, uses ``of_logits`` for
    classification and the quantity of the task for all other tasks.
    """

    about: str  # description in one line
    of_logits: LogitObjective | None = None
    of_network: CustomObjective | None = None
    of_filters: FilterObjective | None = None
    of_training: LearnedLoss | None = None
    images: int | None = None  # largest number of examples to evaluate; None: all examples of the split
    of_task: TaskObjective | None = None
    takes_task: bool = False  # whether of_network has a parameter task, for the task of the split
    reconstructs: bool = False  # whether masked networks are repaired on calibration examples before they are measured
    sequential: bool = False  # whether that repair solves each layer on the outputs of the repaired layers before it

    def fits(self, task: Task) -> bool:
        """Return whether this objective can score networks of a task; some objectives need classification."""
        return task.classifies or self.of_logits is None or self.of_task is not None


OBJECTIVES: Table[Objective] = Table(
    "objective",
    {
        "accuracy": Objective("classification: share of correctly classified examples", accuracy),
        "metric": Objective("the task's metric, or minus the metric where lower is better", of_task="metric"),
        "loss": Objective("minus the task's mean loss", loss, of_task="loss"),
        "calibrated_loss": Objective(
            "classification: minus the cross-entropy of logits with a fixed standard deviation", calibrated_loss
        ),
        "bn_recalibrated": Objective(
            "minus the task's loss with BatchNorm statistics recomputed for the masked network",
            of_network=bn_recalibrated,
            takes_task=True,
        ),
        "distance": Objective(
            "minus the task's distance between the outputs of the masked and the dense network", of_task="distance"
        ),
        "reconstructed": Objective(
            "minus the distance to the dense network's outputs (classes: KL) after least-squares repair of the mask",
            of_task="distance",
            reconstructs=True,
        ),
        "reconstructed_sequential": Objective(
            "the same after sequential repair, which solves each layer on the outputs of the repaired layers before it",
            of_task="distance",
            reconstructs=True,
            sequential=True,
        ),
        "short_training": Objective("minus the loss after a few steps of the ticket's training", of_training="val"),
        "training_loss": Objective(
            "minus the training loss in the last epoch of a short training (Ru et al. 2021)",
            of_training="train",
            images=0,
        ),
        "width": Objective("filters: minus the sum of the layers' reciprocal widths", of_filters=width, images=0),
    },
    removed=dict.fromkeys(("gradient_flow", "ntk_condition", "relative_width", "synflow_flow"), _REMOVED),
)


def score_of(objective: Callable[..., object], value: Any) -> float:
    """Return an objective's result, a number or a tensor of one element, as a float.

    Raises
    ------
    InputError
        If ``value`` is neither a number nor a tensor of one element.
    """
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        found = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else ascii(value)[:60]
        given = getattr(objective, "func", objective)  # of a partial
        name = getattr(given, "__name__", type(given).__name__)
        raise InputError(
            f"objective: {name} returned {found}; a number is needed, such as the accuracy, higher = better"
        ) from None


def objective_row(objective: str | CustomObjective, task: Task, space: NetworkSpace) -> Objective:
    """Return the :class:`Objective` that has a given name, or a new one for a user's function of a masked network.

    The metric of a plain classification is the accuracy, with the same fast paths.

    Raises
    ------
    InputError
        If the objective does not fit the task or the space.
    """
    if not isinstance(objective, str):
        if not callable(objective):
            raise InputError(f"objective: {objective!r}; give a name of OBJECTIVES, or f(model, inputs, targets)")
        return Objective("a function of the network", of_network=objective)
    row = OBJECTIVES[objective]
    if row.of_training is not None:
        raise InputError(f"objective: {objective} trains every ticket for a few steps; use ShortTraining")
    if not row.fits(task):
        fitting = ", ".join(n for n, other in OBJECTIVES.items() if other.fits(task) and other.of_training is None)
        raise InputError(
            f"objective: {objective!r} needs a classification, and the task is {task.name!r}; allowed are {fitting}"
        )
    if row.of_filters is not None and not isinstance(space, FilterSpace):
        raise InputError(
            f"objective: {objective} scores filter masks only, and this is a {space.describe()}; give another objective"
        )
    is_accuracy = task.classifies and task.metric is CLASSIFICATION.metric
    return OBJECTIVES["accuracy"] if objective == "metric" and is_accuracy else row
