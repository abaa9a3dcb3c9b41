"""Evaluation of networks: metrics and loss on a data split."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from masksearch.training.batch_feed import Feed, forward_batch
from masksearch.training.input_check import InputCheck, Loss, check_inputs, mode_kept
from masksearch.training.metric_collector import MetricCollector
from masksearch.training.training_splits import Examples
from masksearch.utils.errors import InputError, check_whole
from masksearch.utils.nested import as_device, call_model, n_examples
from masksearch.utils.seeds import seeded


@dataclass(frozen=True)
class Evaluation:
    """Metrics and loss of a network on a data split."""

    metric: float | None  # main metric of the split's task; None if it can't be computed
    loss: float  # mean loss over examples; for a language model, over tokens
    n: int  # number of examples
    metrics: dict[str, float] = field(default_factory=dict)  # all metrics by name, the main metric first

    @property
    def accuracy(self) -> float | None:
        """Main metric of the evaluation, which is the accuracy in classification."""
        return self.metric


def evaluate(
    model: nn.Module,
    split: Examples,
    *,
    device: torch.device | str = "cpu",
    loss: Loss | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Return metrics and loss of a network on a data split, in eval mode.

    Weights, modes and the global random state do not change.

    Parameters
    ----------
    model : nn.Module
        The network; it is moved to ``device``. It is called with ``model(x)``, ``model(*x)`` or ``model(**x)``.
    split : Examples
        A split such as ``data.test``, or any object with ``.inputs`` and ``.targets``.
    device : torch.device or str
        Device of the evaluation.
    loss : callable, optional
        (what the network returned, targets) -> mean loss, a scalar tensor. Default: the loss of the split's task.
    batch_size : int, optional
        Examples per forward pass. Default: depends on the device. Loaders have their own sizes.

    Raises
    ------
    InputError
        For data or outputs that can't be evaluated.
    """
    device = as_device(device)
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
    model.to(device)
    checked = check_inputs(model, split, device, loss)
    feed = Feed(split, device, checked.channels_last, check=checked.check_targets)
    return evaluate_feed(model, feed, checked, batch_size, main_only=False)


def evaluate_feed(
    model: nn.Module, feed: Feed, checked: InputCheck, batch_size: int | None = None, *, main_only: bool = True
) -> Evaluation:
    """Return metrics and loss of a network, in eval mode, on all batches of a data split's :class:`Feed`.

    :func:`check_inputs` has checked the split.
    """
    losses: list[Tensor] = []
    parts: list[int] = []
    n, task = 0, checked.loss_task
    metering = MetricCollector(checked.task, feed.device, main_only=main_only) if checked.metered else None
    with mode_kept(model), seeded(0, feed.device), torch.no_grad():
        model.eval()
        for inputs, targets in feed.in_order(batch_size or forward_batch(feed.device)):
            outputs, size = call_model(model, inputs), n_examples(inputs)
            losses.append(task.loss_of(outputs, targets).reshape(()))
            parts.append(task.n_parts(targets, size))
            n += size
            if metering is not None:
                metering.add(outputs, targets)
    loss = mean_loss(losses, parts)
    metrics = metrics_of(metering, loss)
    return Evaluation(next(iter(metrics.values()), None), loss, n, metrics)


def metrics_of(metering: MetricCollector | None, loss: float) -> dict[str, float]:
    """Return {metric name: value} of a metric collector; {} for None, or if metrics fail and ``loss`` isn't finite."""
    if metering is None:
        return {}
    try:
        return metering.compute()
    except InputError:
        if loss - loss == 0:  # finite
            raise
        return {}


def mean_loss(losses: Sequence[Tensor], parts: Sequence[int]) -> float:
    """Return the mean loss over all examples or tokens, given each batch's mean loss and number of examples or tokens.

    Batches whose number in ``parts`` is 0 do not count. The CPU waits for the GPU here.
    """
    values = torch.stack(list(losses)).cpu().double()
    weights = torch.tensor(parts, dtype=torch.float64)
    if not weights.all():
        values, weights = values[weights > 0], weights[weights > 0]
    return float(values @ weights / sum(parts)) if len(values) else float("nan")
