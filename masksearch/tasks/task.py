"""A task: loss, metric and distance between two networks' outputs, and how to read the outputs."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from masksearch.tasks.metrics import Meter, WholeSplit
from masksearch.utils.errors import InputError

Loss = Callable[[Any, Any], Tensor]
"""Function (outputs, targets) -> mean loss of a batch, a scalar tensor."""

Metric = Meter | Callable[[], Meter] | Callable[[Any, Any], float]
"""Metric of a task: a torchmetrics.Metric, a class of one, or a function (all outputs, all targets) -> float."""

_AUXILIARY_WEIGHT = 0.3  # weight of an auxiliary head's loss (Szegedy et al. 2015, section 5)
_OUTPUT_NAMES = ("logits", "out", "last_hidden_state")  # Transformers, torchvision, Transformers without a head


class TargetCheck(Protocol):
    """Protocol of a function that raises an :class:`InputError` if targets don't fit a task."""

    def __call__(self, targets: Any, what: str) -> None:
        """Raise an error that begins with ``what`` if the targets don't fit the task."""


def read_output(outputs: Any) -> Any:
    """Return a network's main output, given its return value: a tensor itself, or ``logits``, ``out`` or item 0."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):  # Transformers' ModelOutput is an ordered dict
        name = next((name for name in _OUTPUT_NAMES if name in outputs), None)
        return outputs[name] if name else next(iter(outputs.values()))
    for name in _OUTPUT_NAMES:
        if isinstance(getattr(outputs, name, None), Tensor):
            return getattr(outputs, name)
    return read_output(outputs[0]) if isinstance(outputs, tuple | list) and outputs else outputs


def _auxiliary(outputs: Any, main: Any) -> list[Tensor]:
    """Outputs of auxiliary heads: the other tensors of the shape of the main output."""
    if isinstance(outputs, Tensor) or not isinstance(main, Tensor):
        return []
    others = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple | list) else ()
    return [o for o in others if isinstance(o, Tensor) and o is not main and o.shape == main.shape]


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is trained for: loss, metric, distance between two networks' outputs, and how to read outputs.

    Parameters
    ----------
    loss : callable
        (outputs, targets) -> mean loss of a batch, a scalar tensor with gradients.
    metric : torchmetrics.Metric or callable
        A metric that is updated with (outputs, targets) of every batch; or a function (outputs, targets) -> float,
        called once with all outputs and targets of a split, on the CPU. A metric is never averaged over batches.
    output : callable, optional
        Return value of a network -> the outputs that loss, metric and distance get. Default: a tensor itself;
        ``logits`` or ``out`` of a dict or an object with attributes; the first element of a tuple.
    higher_is_better : bool
        Direction of the metric. Scores are the metric, or minus the metric where lower is better.
    distance : callable, optional
        (dense outputs, masked outputs) -> scalar tensor, the objective ``distance`` and the loss of distillation.
        Default: mean squared difference over the variance of the dense outputs.
    name : str
        Name in settings and reports.
    metric_name : str, optional
        Name of the metric in tables. Default: the name of the function or class; ``metric`` for a lambda.
    also : mapping
        Further metrics by name, reported only.
    check : callable, optional
        (targets, name) -> None; raises an :class:`~masksearch.InputError` for targets that don't fit.
    weight : callable, optional
        Targets of a batch -> number of equal parts that its mean loss is over, such as tokens. Default: examples.
    smoothed : callable, optional
        (outputs, targets, label smoothing) -> loss. Without it, label smoothing is refused.
    select : callable, optional
        (outputs, targets) -> (outputs, targets) of the positions that count, such as those of no padding; applied
        before loss, metric and distance.
    weighs_examples : bool
        Whether the loss gets all positions, ignored ones included, and weighs examples equally by itself. The metric
        and the distance get the positions that ``select`` returns.
    distillation : callable, optional
        (dense outputs, masked outputs) -> scalar tensor, the loss of distillation, in the unit of ``loss``. Default:
        ``distance``.
    classifies : bool
        Whether outputs are logits (n, classes) and targets are classes (n,): the fast accuracy paths need that.
    """

    loss: Loss
    metric: Metric
    output: Callable[[Any], Any] | None = None
    higher_is_better: bool = True
    distance: Callable[[Any, Any], Tensor] | None = None
    name: str = "own"
    metric_name: str = ""
    also: Mapping[str, Metric] = field(default_factory=dict)
    check: TargetCheck | None = None
    weight: Callable[[Any], int] | None = None
    smoothed: Callable[[Any, Any, float], Tensor] | None = None
    select: Callable[[Any, Any], tuple[Any, Any]] | None = None
    weighs_examples: bool = False
    distillation: Callable[[Any, Any], Tensor] | None = None
    classifies: bool = False

    def __post_init__(self) -> None:
        for name in ("loss", "metric"):
            if not callable(getattr(self, name)):
                raise InputError(f"{name}: {getattr(self, name)!r}; allowed is a callable")
        if not self.metric_name:
            object.__setattr__(self, "metric_name", _name_of(self.metric))

    def __repr__(self) -> str:
        direction = "higher" if self.higher_is_better else "lower"
        return f"Task({self.name!r}, metric {self.metric_name!r}, {direction} is better)"

    @property
    def identity(self) -> dict[str, object]:
        """Dict that identifies the task in files: its name or, for a task of your own, the names of its functions."""
        if self.name != "own":
            return {"task": self.name}
        parts = {"loss": self.loss, "metric": self.metric, "output": self.output, "distance": self.distance}
        parts["distillation"] = self.distillation
        return {"task": "own", **{name: _full_name(part) for name, part in parts.items() if part is not None}}

    def read(self, outputs: Any) -> Any:
        """Return the output tensor that the task's loss, metric and distance use, from a network's return value."""
        return (self.output or read_output)(outputs)

    def selected(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return (outputs, targets) of a batch without ignored positions, such as padding."""
        outputs = self.read(outputs)
        return self.select(outputs, targets) if self.select else (outputs, targets)

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """Return the task's mean loss on a batch, given the network's return value and the targets."""
        if self.weighs_examples:
            return self.loss(self.read(outputs), targets)
        return self.loss(*self.selected(outputs, targets))

    def training_loss(self, outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss that training minimises: the task's loss, plus 0.3 x the loss of each auxiliary head.

        Label smoothing applies to both.
        """
        main = self.read(outputs)
        value = self._smoothed(main, targets, label_smoothing)
        for other in _auxiliary(outputs, main) if self.output is None else ():
            value = value + _AUXILIARY_WEIGHT * self._smoothed(other, targets, label_smoothing)
        return value

    def _smoothed(self, outputs: Tensor, targets: Any, label_smoothing: float) -> Tensor:
        if self.select and not self.weighs_examples:
            outputs, targets = self.select(outputs, targets)
        if not label_smoothing:
            return self.loss(outputs, targets)
        if self.smoothed is None:
            raise InputError(f"label_smoothing: {label_smoothing}; it must be 0 for task {self.name!r}")
        return self.smoothed(outputs, targets, label_smoothing)

    def distance_of(self, dense: Any, masked: Any, targets: Any = None) -> Tensor:
        """Return the distance between the outputs of a dense and a masked network, from the networks' return values.

        Positions that ``targets`` mark as ignored don't count.
        """
        dense, masked = self.read(dense), self.read(masked)
        if self.select is not None and targets is not None:
            dense, masked = self.select(dense, targets)[0], self.select(masked, targets)[0]
        return (self.distance or relative_squared_error)(dense, masked)

    def n_parts(self, targets: Any, n: int) -> int:
        """Return the number of items that a batch's mean loss averages over, such as its ``n`` examples or its tokens.

        Examples whose positions are all ignored do not count.
        """
        return n if self.weight is None else self.weight(targets)

    def meters(self, *, main_only: bool = False) -> dict[str, Meter]:
        """Return new metric objects for a data split, as {metric name: object}, the task's main metric first."""
        metrics = {self.metric_name: self.metric} | ({} if main_only else dict(self.also))
        return {name: _new_meter(metric) for name, metric in metrics.items()}

    def score(self, metric: float) -> float:
        """Return a metric's value as a score (higher is better): minus the value if lower metrics are better."""
        return metric if self.higher_is_better else -metric


def relative_squared_error(dense: Tensor, masked: Tensor) -> Tensor:
    """Return the mean squared difference of a masked and a dense network's outputs / variance of the dense outputs."""
    dense, masked = dense.float(), masked.float()
    return (masked - dense).square().mean() / dense.var(correction=0).clamp_min(torch.finfo(torch.float32).tiny)


def _new_meter(metric: Any) -> Meter:
    meter: Any
    if inspect.isclass(metric):
        meter = metric()
        return meter
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        meter = copy.deepcopy(metric)
        if hasattr(meter, "reset"):
            meter.reset()
        return meter
    return WholeSplit(metric)


def _name_of(metric: Any) -> str:
    name: str = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else name


def _full_name(part: Any) -> str:
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"
