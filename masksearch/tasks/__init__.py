"""Tasks: the table of losses, metrics and distances, for classification, regression, segmentation, language models."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from masksearch.tasks.metrics import MeanIoU, Meter, Perplexity, Top1, Top5, binary_f1, macro_f1, r2
from masksearch.tasks.task import Loss, Metric, Task, read_output
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

__all__ = ["CLASSIFICATION", "TASKS", "Loss", "Meter", "Metric", "Task", "as_task", "read_output", "with_loss"]

IGNORED = -100
"""Target of positions that losses and metrics ignore, as in PyTorch's cross-entropy."""


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of logits (b, classes), in nats, always in float32."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)


def pixel_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of segmentation logits: the mean over each example's pixels, then over examples.

    In nats. ``outputs`` are logits (b, classes, ...), ``targets`` classes (b, ...). Ignored pixels do not count, nor do
    examples that have no other pixels.
    """
    losses = F.cross_entropy(
        outputs.float(), targets, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing
    )
    counted = (targets != IGNORED).flatten(1).sum(1)
    return (losses.flatten(1).sum(1) / counted.clamp_min(1)).sum() / (counted > 0).sum()


def kl_divergence(dense: Tensor, masked: Tensor) -> Tensor:
    """Return the mean KL divergence KL(dense || masked) between logits (b, classes) of two networks, in nats."""
    return F.kl_div(
        F.log_softmax(masked.float(), 1), F.log_softmax(dense.float(), 1), reduction="batchmean", log_target=True
    )


def bernoulli_kl(dense: Tensor, masked: Tensor) -> Tensor:
    """Return KL(dense || masked) between two multi-label networks: sum over labels, mean over examples, in nats.

    Both arguments are logits (b, labels), one per Bernoulli variable.
    """
    dense, masked = dense.float(), masked.float()
    each = dense.sigmoid() * (F.logsigmoid(dense) - F.logsigmoid(masked))
    each = each + (-dense).sigmoid() * (F.logsigmoid(-dense) - F.logsigmoid(-masked))
    return each.sum() / len(dense)


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits and targets of 0 and 1, in nats, in float32."""
    return F.binary_cross_entropy_with_logits(_shaped(outputs, targets).float(), targets.float())


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of outputs and targets, in float32."""
    return F.mse_loss(_shaped(outputs, targets).float(), targets.float())


def squared_distance(dense: Tensor, masked: Tensor) -> Tensor:
    """Return the mean squared difference between the outputs of two networks, in float32."""
    return F.mse_loss(masked.float(), dense.float())


def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.numel() != targets.numel():
        raise InputError(
            f"model: returns outputs {tuple(outputs.shape)} for targets {tuple(targets.shape)}; "
            "one output per target is needed"
        )
    return outputs.reshape(targets.shape)


def _pixels(outputs: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Logits (b, classes, ...) and classes (b, ...) -> logits (positions, classes) and classes (positions,)."""
    rows = outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
    if targets is None:
        return rows, None
    counted = targets.flatten() != IGNORED
    return rows[counted], targets.flatten()[counted]


def _next_tokens(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (b, t, vocabulary) and tokens (b, t) -> logits at positions with a next token, and the next tokens."""
    outputs, targets = outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
    counted = targets != IGNORED
    return outputs[counted], targets[counted]


def _n_maps(targets: Tensor) -> int:
    return int((targets != IGNORED).flatten(1).any(1).sum())


def _n_next_tokens(targets: Tensor) -> int:
    return int((targets[:, 1:] != IGNORED).sum())


def _need(fine: bool, what: str, targets: Any, needed: str) -> None:
    if not fine:
        found = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(f"{what}: targets are {found}; {needed}")


def _is_integer(targets: Any) -> bool:
    return isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()


def _check_classes(targets: Any, what: str) -> None:
    if _is_integer(targets) and targets.ndim == 2 and targets.shape[1] == 1:
        raise InputError(f"{what}: targets are {tuple(targets.shape)}; classification needs (n,): give targets[:, 0]")
    _need(
        _is_integer(targets) and targets.ndim == 1,
        what,
        targets,
        f"classification needs integer classes (n,); name the task of other targets, such as {_likely_task(targets)}",
    )
    if int(targets.min()) < 0:
        raise InputError(f"{what}: label {int(targets.min())}; labels are 0 or more")


def _likely_task(targets: Any) -> str:
    """Return the task that the form of targets suggests, as an argument."""
    if not isinstance(targets, Tensor):
        return "task='regression'"
    labels = targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all())
    if not _is_integer(targets):
        return "task='multilabel'" if labels else "task='regression'"
    return "task='multilabel'" if labels else "task='language_model'" if targets.ndim == 2 else "task='segmentation'"


def _check_zero_one(targets: Any, what: str) -> None:
    fine = isinstance(targets, Tensor) and bool(((targets == 0) | (targets == 1)).all())
    _need(fine, what, targets, "this task needs targets of 0 and 1")


def _check_binary(targets: Any, what: str) -> None:
    fine = isinstance(targets, Tensor) and (targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] == 1))
    _need(fine, what, targets, "binary needs one target of 0 or 1 per example, (n,) or (n, 1)")
    _check_zero_one(targets, what)


def _check_labels(targets: Any, what: str) -> None:
    _need(isinstance(targets, Tensor) and targets.ndim == 2, what, targets, "multilabel needs targets (n, labels)")
    _check_zero_one(targets, what)


def _check_values(targets: Any, what: str) -> None:
    _need(
        isinstance(targets, Tensor) and targets.is_floating_point(),
        what,
        targets,
        "regression needs floating-point targets (n, ...); convert them with .float()",
    )
    if not targets.isfinite().all():
        raise InputError(f"{what}: targets hold NaN or infinity; allowed are finite numbers")


def _check_maps(targets: Any, what: str) -> None:
    _need(_is_integer(targets) and targets.ndim > 1, what, targets, "segmentation needs integer classes (n, h, w)")


def _check_tokens(targets: Any, what: str) -> None:
    _need(_is_integer(targets) and targets.ndim == 2, what, targets, "language_model needs integer tokens (n, t)")


CLASSIFICATION = Task(
    cross_entropy,
    Top1,
    distance=kl_divergence,
    name="classification",
    metric_name="accuracy",
    also={"top-5 accuracy": Top5},
    check=_check_classes,
    smoothed=cross_entropy,
    classifies=True,
)

TASKS: Table[Task] = Table(
    "task",
    {
        "classification": CLASSIFICATION,
        "binary": Task(
            binary_cross_entropy,
            binary_f1,
            distance=bernoulli_kl,
            name="binary",
            metric_name="F1",
            check=_check_binary,
        ),
        "multilabel": Task(
            binary_cross_entropy,
            macro_f1,
            distance=bernoulli_kl,
            name="multilabel",
            metric_name="macro F1",
            check=_check_labels,
        ),
        "regression": Task(
            mean_squared_error,
            r2,
            distillation=squared_distance,
            name="regression",
            metric_name="R2",
            check=_check_values,
        ),
        "segmentation": Task(
            pixel_cross_entropy,
            MeanIoU,
            distance=kl_divergence,
            name="segmentation",
            metric_name="mean IoU",
            check=_check_maps,
            weight=_n_maps,
            smoothed=pixel_cross_entropy,
            select=_pixels,
            weighs_examples=True,
        ),
        "language_model": Task(
            cross_entropy,
            Perplexity,
            distance=kl_divergence,
            higher_is_better=False,
            name="language_model",
            metric_name="perplexity",
            check=_check_tokens,
            weight=_n_next_tokens,
            smoothed=cross_entropy,
            select=_next_tokens,
        ),
    },
)


def as_task(task: str | Task) -> Task:
    """Return the task with this name in :data:`TASKS`; if ``task`` is a :class:`Task` already, return it unchanged."""
    return TASKS[task] if isinstance(task, str) else task


def with_loss(task: Task, loss: Callable[[Any, Any], Tensor]) -> Task:
    """Return a copy of a task with another loss function, which is called with the network's unchanged return value.

    Label smoothing is refused.
    """
    return replace(task, loss=loss, smoothed=None, output=lambda outputs: outputs, select=None)
