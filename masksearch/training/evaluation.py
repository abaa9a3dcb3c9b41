"""Accuracy and loss of a network on a split."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from masksearch.training.feed import Examples, Feed, forward_batch
from masksearch.training.input_check import Loss, cross_entropy, mode_kept, probe
from masksearch.utils.seeds import seeded

__all__ = ["Evaluation", "evaluate", "evaluate_feed"]


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a split."""

    accuracy: float | None  # share of images whose highest logit is their label; None where outputs aren't logits
    loss: float  # mean over images
    n: int  # images


def evaluate(
    model: nn.Module,
    split: Examples,
    *,
    device: torch.device | str = "cpu",
    loss: Loss | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Score a network in eval mode, in its own precision. Its weights, modes and the random state stay as they were.

    Parameters
    ----------
    model : nn.Module
        Moved to ``device``.
    split : Examples
        ``.inputs`` float (n, c, h, w) and ``.targets`` int64 (n,).
    device : torch.device or str
        Where it runs.
    loss : callable, optional
        Outputs and labels -> mean loss, a scalar tensor; cross-entropy if left out.
    batch_size : int, optional
        Images per forward pass; if left out, what suits the device.

    Raises
    ------
    InputError
        For data or outputs that can't be scored.
    """
    device = torch.device(device)
    model.to(device)
    seen = probe(model, split, device, loss)
    return evaluate_feed(
        model, Feed(split, device, seen.channels_last), loss or cross_entropy, seen.classifies, batch_size
    )


def evaluate_feed(
    model: nn.Module, feed: Feed, loss: Loss, classifies: bool, batch_size: int | None = None
) -> Evaluation:
    """:func:`evaluate` for images that are on the device and have been looked at before."""
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
    """Mean over images of losses that are means over batches; the one moment at which the host waits for the device."""
    values = torch.stack(losses).cpu().double()
    return float(values @ torch.tensor(sizes, dtype=torch.float64) / sum(sizes))
