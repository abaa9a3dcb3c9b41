"""Measures: scores for any task that are accumulated over batches of a network's outputs."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from masksearch.scoring.objectives import LogitObjective, TaskObjective, score_of
from masksearch.tasks import Task
from masksearch.tasks.task import relative_squared_error
from masksearch.utils.errors import InputError
from masksearch.utils.nested import concatenate


class Measure(Protocol):
    """Protocol of a score computed batch by batch: ``update`` adds a batch, ``value`` returns the score so far."""

    def update(self, outputs: Any, targets: Any, n: int, dense: Any) -> None:
        """Add a batch of ``n`` examples to the score; ``dense``: the unpruned network's outputs, if needed."""

    def value(self) -> float:
        """Return the score of all batches added so far; higher is better."""


def new_measure(kind: TaskObjective, task: Task) -> Measure:
    """Return an accumulator of a score: task metric, minus loss, or minus distance to the dense network's outputs."""
    measures: dict[TaskObjective, Callable[[Task], Measure]]
    measures = {"metric": _Metric, "loss": _Loss, "distance": _Distance}
    return measures[kind](task)


def counted_outputs(task: Task, outputs: Any, targets: Any) -> Any:
    """Return the outputs that a task's loss reads: the main output, without ignored positions such as padding.

    Without targets, no positions are ignored.
    """
    outputs = task.read(outputs)
    return outputs if task.select is None or targets is None else task.select(outputs, targets)[0]


class _Metric:
    """The score of the task's main metric; NaN if an output is not finite."""

    def __init__(self, task: Task) -> None:
        self._task, self._finite = task, True
        ((self._name, self._meter),) = task.meters(main_only=True).items()
        self._device: torch.device | None = None

    def update(self, outputs: Any, targets: Any, n: int, dense: Any) -> None:
        outputs, targets = self._task.selected(outputs, targets)
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if not self._finite or not all(bool(tensor.isfinite().all()) for tensor in tensors):
            self._finite = False
            return
        if tensors and tensors[0].device != self._device and hasattr(self._meter, "to"):  # torchmetrics
            self._device = tensors[0].device
            self._meter.to(self._device)
        self._meter.update(outputs, targets)

    def value(self) -> float:
        if not self._finite:
            return math.nan
        found = self._meter.compute()
        if isinstance(found, Tensor) and found.numel() != 1:
            raise InputError(f"metric {self._name!r}: {found.numel()} numbers; a score needs a single number")
        return self._task.score(float(found))


class _Loss:
    """Minus the mean loss over examples, or over tokens where the task weighs by tokens."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._losses: list[Tensor] = []
        self._n = 0

    def update(self, outputs: Any, targets: Any, n: int, dense: Any) -> None:
        if parts := self._task.n_parts(targets, n):
            self._losses.append(self._task.loss_of(outputs, targets).reshape(()) * parts)
            self._n += parts

    def value(self) -> float:
        return -float(torch.stack(self._losses).sum()) / self._n if self._n else math.nan


class _Distance:
    """Minus the distance between masked and dense outputs.

    A task's own distance is weighted by examples, tokens or pixels. The relative squared error is that of all outputs
    at once.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._distances: list[Tensor] = []
        self._n = 0
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, targets: Any, n: int, dense: Any) -> None:
        outputs = counted_outputs(self._task, outputs, targets)
        if self._task.distance is None:
            self._outputs.append((dense, outputs))
        elif parts := self._parts(outputs, targets, n):
            self._distances.append(self._task.distance(dense, outputs).reshape(()) * parts)
            self._n += parts

    def _parts(self, outputs: Any, targets: Any, n: int) -> int:
        """Number of items over which a distance is a mean: examples, tokens or pixels."""
        if targets is None:
            return n
        return len(outputs) if self._task.weighs_examples else self._task.n_parts(targets, n)

    def value(self) -> float:
        if self._outputs:
            dense, masked = (torch.cat(side) for side in zip(*self._outputs, strict=True))
            return -float(relative_squared_error(dense, masked))
        return -float(torch.stack(self._distances).sum()) / self._n if self._n else math.nan


class LogitMeasure(Measure):
    """Score that is a function of all logits (n, classes) and labels (n,), which are collected until the end."""

    def __init__(self, objective: LogitObjective, task: Task) -> None:
        self._objective, self._task = objective, task
        self._batches: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, targets: Any, n: int, dense: Any) -> None:  # noqa: D102
        self._batches.append(self._task.selected(outputs, targets))

    def value(self) -> float:  # noqa: D102
        logits, labels = (concatenate(side) for side in zip(*self._batches, strict=True))
        return score_of(self._objective, self._objective(logits, labels))
