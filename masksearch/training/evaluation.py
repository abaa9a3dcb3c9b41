"""Evaluation of networks: accuracy and loss on a split."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from masksearch.training.batches import Examples, Feed, forward_batch
from masksearch.training.input_check import Loss, check_inputs, cross_entropy, mode_kept
from masksearch.utils.seeds import seeded

__all__ = ["Evaluation", "evaluate", "evaluate_feed"]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and loss of a network on a split."""

    accuracy: float | None  # share of images whose highest logit is their label; None where outputs aren't logits
    loss: float  # mean over images
    n: int  # examples


def evaluate(
    model: nn.Module,
    split: Examples,
    *,
    device: torch.device | str = "cpu",
    loss: Loss | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate a network in eval mode. Weights, modes and the global random state do not change.

    Parameters
    ----------
    model : nn.Module
        Moved to ``device``.
    split : Examples
        ``.inputs`` float (n, c, h, w) and ``.targets`` int64 (n,).
    device : torch.device or str
        Device of the evaluation.
    loss : callable, optional
        (outputs, targets) -> mean loss, a scalar tensor. Default: cross-entropy.
    batch_size : int, optional
        Examples per forward pass. Default: depends on the device.

    Raises
    ------
    InputError
        For data or outputs that can't be evaluated.
    """
    device = torch.device(device)
    model.to(device)
    checked = check_inputs(model, split, device, loss)
    return evaluate_feed(
        model, Feed(split, device, checked.channels_last), loss or cross_entropy, checked.classifies, batch_size
    )


def evaluate_feed(
    model: nn.Module, feed: Feed, loss: Loss, classifies: bool, batch_size: int | None = None
) -> Evaluation:
    """:func:`evaluate` for checked examples that are on the device."""
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    sizes: list[int] = []
    with mode_kept(model), seeded(0, feed.device), torch.no_grad():
        model.eval()
        for images, labels in feed.in_order(batch_size or forward_batch(feed.device)):
            outputs = model(images)
            losses.append(loss(outputs, labels).reshape(()))
            sizes.append(len(labels))
            if classifies:
                correct.append((outputs.argmax(1) == labels).sum())
    accuracy = int(torch.stack(correct).sum()) / len(feed) if classifies else None
    return Evaluation(accuracy, mean_loss(losses, sizes), len(feed))


def mean_loss(losses: list[Tensor], sizes: list[int]) -> float:
    """Mean over examples of losses that are means over batches. Here the host waits for the device, once."""
    values = torch.stack(losses).cpu().double()
    return float(values @ torch.tensor(sizes, dtype=torch.float64) / sum(sizes))
