"""Learned supermasks: masks under which untrained weights have a low loss.

Supermasks use the gradient of the loss for every weight at every step, over epochs of training examples. Searches and
criteria have less information, so that supermasks are an upper reference for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from masksearch.core.amount import Amount, Density, OnEmpty, Scope
from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.supermasks.methods import SupermaskSettings, constant, draw_edge_popup, draw_zhou, kaiming
from masksearch.supermasks.scored_network import ScoredNetwork, frozen_weights
from masksearch.training import EpochRow, Examples, TrainSettings, train
from masksearch.training.train_settings import LrSchedule
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table
from masksearch.utils.seeds import torch_generator

__all__ = ["SUPERMASKS", "Supermask", "SupermaskSettings", "learn"]


@dataclass(frozen=True)
class Supermask:
    """Definition of a method that learns masks of untrained weights: how weights are scored, and SGD settings."""

    start: Callable[[Tensor, torch.Generator], Tensor]  # weight -> initial scores
    draw: Callable[[Tensor, int], Tensor]  # scores (n,), ones -> 0/1 mask (n,) with a gradient for the scores
    rank: Callable[[Tensor], Tensor]  # scores -> saliency, higher = keep
    about: str  # short description
    source: str  # authors and year of the paper
    lr: float
    weight_decay: float
    lr_schedule: LrSchedule
    power: float  # exponent of the rescaling: weights of a layer times (all / kept) ** power
    momentum: float = 0.9


SUPERMASKS: Table[Supermask] = Table(
    "supermask",
    {
        "edge_popup": Supermask(
            kaiming,
            draw_edge_popup,
            torch.abs,
            about="learn a score per weight, keep the largest |score|; straight-through gradients",
            source="Ramanujan et al. 2020",
            lr=0.1,
            weight_decay=5e-4,
            lr_schedule="cosine",
            power=0.5,  # scaled Kaiming: the variance of a layer's outputs stays that of the dense one
        ),
        "zhou": Supermask(
            constant,
            draw_zhou,
            torch.Tensor.detach,
            about="learn a score per weight, keep with probability sigmoid(score); straight-through gradients",
            source="Zhou et al. 2019",
            lr=100.0,
            weight_decay=0.0,
            lr_schedule="constant",
            power=1.0,  # section 5, dynamic weight rescaling
        ),
    },
)

_DEFAULTS = SupermaskSettings()
_PUBLISHED = Amount(1.0, scope="layerwise", on_empty="allow")


def learn(
    name: str,
    model: nn.Module,
    space: NetworkSpace,
    split: Examples,
    density: Density | Amount | None = None,
    *,
    sparsity: Density | None = None,
    settings: SupermaskSettings = _DEFAULTS,
    scope: Scope | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: bool = False,
    on_empty: OnEmpty | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[EpochRow], bool | None] | None = None,
) -> Mask:
    """Learn by gradient descent which weights of an untrained network to keep, and return the mask.

    Scores are the only trained parameters of a copy of the network; weights, biases and normalisations are frozen. The
    loss is that of the split's task. Every forward pass, and the result, has exactly the requested density.

    Parameters
    ----------
    name : str
        A method in ``SUPERMASKS``: ``"edge_popup"`` or ``"zhou"``.
    space : NetworkSpace
        A weight space of ``model``.
    split : Examples
        Training examples: a split such as ``data.train``.
    density : float, {layer name: float} or Amount, optional
        Kept / all weights. Exactly one of ``density`` and ``sparsity`` is given.
    sparsity : float or {layer name: float}, optional
        1 - density.
    settings : SupermaskSettings
        Epochs, batch size and learning rate of the training of scores.
    scope : {"layerwise", "erk", "global"}, optional
        Distribution of a density over layers. ``layerwise``, the default, is the published scope; ``global`` ranks the
        scores of all layers together, at every step and at the end, though edge-popup's scores start larger in layers
        with a small fan-in.
    seed : int
        Seed of scores, order of the examples, augmentation and drawn masks.
    device, augment, checkpoint, on_epoch
        As in :func:`masksearch.training.train`; ``on_epoch`` returning True ends the learning there.
    on_empty : {"allow", "keep_one", "raise"}, optional
        Treatment of layers of which the final mask would keep nothing; default ``allow``. Layers may be empty while
        scores are learned.
    generator : torch.Generator, optional
        Breaks ties of the resulting mask.

    Raises
    ------
    InputError
        For filter spaces, a loss that is not finite, and the errors of :func:`masksearch.training.train` and
        ``space.top_k``.

    Notes
    -----
    While scores are learned, BatchNorm uses batch statistics, as in both papers, and dropout is active. The running
    statistics of the copy are discarded. If the model's statistics are untrained, recalibrate them before evaluation in
    eval mode.
    """
    row = SUPERMASKS[name]
    if space.granularity != "weight":
        raise InputError(f"supermask {name!r}: is for weight masks, not {space.granularity}")
    amount = Amount.of(density, sparsity=sparsity, scope=scope, on_empty=on_empty, default=_PUBLISHED)
    if amount.hold != "units":
        raise InputError(f"hold: {amount.hold!r}; supermasks are weight masks, which allow only 'units'")
    kept = amount.quotas(space) if amount.fixes_layers else [amount.count(space)]
    draws = torch_generator(seed, "supermask", "scores")
    learner = ScoredNetwork(
        model,
        space,
        [row.start(weight, draws) for weight in frozen_weights(model, space)],
        kept,
        row.draw,
        row.rank,
        row.power if settings.rescale else 0.0,
    )
    sgd = TrainSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=row.lr if settings.lr is None else settings.lr,
        momentum=row.momentum,
        weight_decay=row.weight_decay,
        lr_schedule=row.lr_schedule,
    )
    training = train(
        learner,
        split,
        sgd,
        seed=seed,
        device=device,
        augment=augment,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    if training.diverged:
        raise InputError(
            f"lr: {sgd.lr}; with it the loss is {training.epochs[-1].train_loss} in epoch {len(training.epochs)}; "
            "give a smaller learning rate"
        )
    return space.top_k(learner.saliency(), amount, generator=generator)
