"""Metrics of a whole data split: objects that are updated with every batch and computed once."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from masksearch.utils.nested import concatenate, to_device


@runtime_checkable
class Meter(Protocol):
    """Protocol of a metric with ``update`` per batch and ``compute`` at the end, such as torchmetrics.Metric."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch to a metric: the network's outputs and the targets."""

    def compute(self) -> Any:
        """Return the metric of all batches so far, a number or a tensor with one element."""


class WholeSplit:
    """Metric that stores outputs and targets of all batches on the CPU, and computes a function of them at the end."""

    def __init__(self, function: Callable[[Any, Any], float]) -> None:
        self._function = function
        self._outputs: list[Any] = []
        self._targets: list[Any] = []

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch to a metric: the network's outputs and the targets."""
        self._outputs.append(to_device(outputs, "cpu"))
        self._targets.append(to_device(targets, "cpu"))

    def compute(self) -> float:
        """Return the metric: the function is called once, with the joined outputs and targets of all batches."""
        return float(self._function(concatenate(self._outputs), concatenate(self._targets)))


class _Share:
    """Share of examples that are right, counted on the device."""

    def __init__(self) -> None:
        self._right: list[Tensor] = []
        self._n = 0

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return whether each example counts as classified correctly: bool (b,)."""
        raise NotImplementedError

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch to the accuracy: logits (b, classes) and target classes (b,)."""
        self._right.append(self.right(outputs, targets).sum())
        self._n += len(targets)

    def compute(self) -> float:
        """Return the share of correctly classified examples, in [0, 1]."""
        return int(torch.stack(self._right).sum()) / self._n


class Top1(_Share):
    """Accuracy metric: the share of examples whose largest logit belongs to the target class."""

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return whether each example's largest logit belongs to its target class: bool (batch,)."""
        return outputs.argmax(1) == targets


class Top5(_Share):
    """Top-5 accuracy metric: the share of examples whose target class is among the five largest logits."""

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return whether each example's target class is among its five largest logits: bool (batch,)."""
        return (outputs.topk(min(5, outputs.shape[1]), dim=1).indices == targets[:, None]).any(1)


class Perplexity:
    """Perplexity metric of a language model: exp(mean cross-entropy over all tokens)."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._tokens = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch to the perplexity: logits (tokens, vocabulary) and the tokens that they predict (tokens,)."""
        self._sums.append(torch.nn.functional.cross_entropy(outputs.float(), targets, reduction="sum").double())
        self._tokens += targets.numel()

    def compute(self) -> float:
        """Return the perplexity, exp(mean cross-entropy), of all tokens added so far."""
        return float((torch.stack(self._sums).sum() / self._tokens).exp())


class MeanIoU:
    """Metric of segmentation: mean intersection over union of the classes (Everingham et al. 2010).

    Classes count if they occur in targets or predictions.
    """

    def __init__(self) -> None:
        self._confusion: Tensor | None = None  # (classes, classes): rows are targets, columns are predictions

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch to the mean intersection over union: logits (pixels, classes) and classes (pixels,)."""
        classes = outputs.shape[1]
        pairs = targets * classes + outputs.argmax(1)
        counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def compute(self) -> float:
        """Return the mean IoU over classes: pixels in target and prediction / pixels in at least one of the two."""
        assert self._confusion is not None, "at least one batch is needed"
        confusion = self._confusion.double()
        both = confusion.diagonal()
        either = confusion.sum(0) + confusion.sum(1) - both
        return float((both[either > 0] / either[either > 0]).mean())


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return R^2 (coefficient of determination), averaged over target columns; 0 for predicting the targets' mean."""
    from sklearn.metrics import r2_score

    return float(
        r2_score(targets.double().flatten(1) if targets.ndim > 1 else targets.double(), _like(outputs, targets))
    )


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = outputs.double().reshape(targets.shape)
    return outputs.flatten(1) if outputs.ndim > 1 else outputs


def binary_f1(outputs: Tensor, targets: Tensor) -> float:
    """Return the F1 score of the positive class (logits above 0); 0 if no example is predicted to be positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets.flatten() > 0.5, outputs.flatten() > 0, zero_division=0))


def macro_f1(outputs: Tensor, targets: Tensor) -> float:
    """Return the F1 score averaged over labels; logits above 0 predict a label. A label never predicted counts 0."""
    from sklearn.metrics import f1_score

    labels = targets.shape[1]
    return float(
        f1_score(targets.reshape(-1, labels) > 0.5, outputs.reshape(-1, labels) > 0, average="macro", zero_division=0)
    )
