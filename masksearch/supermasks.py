"""Learned supermasks: masks under which untrained weights have a low loss (edge-popup; Zhou et al.).

Supermasks use the gradient of the loss for every weight at every step, over epochs of training examples. Searches and
criteria have less information, so that supermasks are an upper reference for them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from masksearch.core.density_allocation import Amount, Density, OnEmpty, Scope
from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.training import EpochRow, Examples, TrainSettings, train
from masksearch.training.train_settings import LrSchedule
from masksearch.utils.errors import InputError, check_numbers, require
from masksearch.utils.registry import Table
from masksearch.utils.seeds import torch_generator

__all__ = ["SUPERMASKS", "Supermask", "SupermaskSettings", "learn"]


@dataclass(frozen=True)
class SupermaskSettings:
    """Settings for learning a mask of untrained weights by SGD on one score per weight.

    Momentum, decay and schedule are those of the method's paper.
    """

    epochs: int = 5
    """Passes over the training examples; 0 leaves the initial scores unchanged."""
    batch_size: int = 64
    """Number of examples per batch; the last batch of an epoch may be smaller."""
    lr: float | None = None
    """Initial learning rate of the scores; if not given, the rate that the method's paper uses."""
    rescale: bool = True
    """Multiply kept weights by a factor, larger at lower density, while scores are learned, as in the papers.
    Otherwise logits are too small to learn."""

    def __post_init__(self) -> None:
        check_numbers(self, epochs=1_000_000, lr=1e6)
        require("epochs", self.epochs, self.epochs >= 0, "0 or more")
        require("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        require("lr", self.lr, self.lr is None or 0 < self.lr < inf, "a finite number above 0, or None")


def top(values: Tensor, kept: int) -> Tensor:
    """Return a 0/1 tensor (n,) with ones at the largest entries of ``values`` (n,); ``kept`` is the number of ones."""
    # Indices instead of a threshold: the count is exact also for ties, and the host does not wait for the device.
    return torch.zeros_like(values).scatter_(0, values.topk(kept, sorted=False).indices, 1)


def kaiming(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw initial scores, one per entry of a weight, uniformly in +-1/sqrt(fan in): Kaiming uniform, a = sqrt(5)."""
    scores = torch.empty(weight.shape, dtype=weight.dtype)
    return nn.init.kaiming_uniform_(scores, a=sqrt(5), generator=generator)


def constant(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return initial scores of 0, one per entry of a weight: a mask keeps all entries with equal probability."""
    return torch.zeros(weight.shape, dtype=weight.dtype)


def draw_edge_popup(scores: Tensor, kept: int) -> Tensor:
    """Return a 0/1 mask (n,) with ``kept`` ones, at the largest |scores|; the mask's gradient passes on to |scores|.

    Ramanujan et al. 2020, section 3: d loss / d rank is d loss / d (w m) times w for every weight w with mask m, kept
    or not. The rank is ``|s|``, as in the authors' experiments: the gradient of s is d loss / d rank times sign(s).
    """
    rank = scores.abs()
    return _straight_through(top(rank.detach(), kept), rank)


def draw_zhou(scores: Tensor, kept: int) -> Tensor:
    """Draw a random 0/1 mask (n,) with ``kept`` ones; the higher an entry's score, the likelier it is kept.

    The draw is from Bernoulli(sigmoid(s - t)) of the scores s.

    Zhou et al. 2019, section 5. A draw from Bernoulli(sigmoid(a)) is 1 if a plus logistic noise is above 0. Here t is
    the kept-th highest value of s + noise, so that every draw has the requested density; in the paper t is 0 and the
    density drifts. Gradients pass through sigmoid(s - t) with constant t.
    """
    noisy = scores.detach() + torch.rand_like(scores).logit()
    drawn = noisy.topk(kept, sorted=False)
    mask = torch.zeros_like(noisy).scatter_(0, drawn.indices, 1)
    return _straight_through(mask, torch.sigmoid(scores - drawn.values.min()))


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return a tensor with the values of ``hard``, bit for bit, and the gradient of ``soft``."""
    return hard + (soft - soft.detach())


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


class ScoredNetwork(nn.Module):
    """Frozen copy of a network with one trainable score per weight; each forward pass masks the weights by the scores.

    In train mode ``draw`` makes the mask; in eval mode the mask keeps the weights with the highest ``rank``.

    Parameters
    ----------
    scores : sequence of Tensor
        Initial scores, of the shapes of the space's weights.
    kept : sequence of int
        Number of kept weights of every layer, or a single number for all layers ranked together.
    draw : callable
        (scores (n,), number of ones) -> mask (n,) with gradients for the scores.
    rank : callable
        Scores -> saliency of the same shape, higher = keep.
    power : float
        Exponent of the rescaling: a layer's weights are multiplied by (all / kept) ** power; 0: no rescaling.

    Raises
    ------
    InputError
        If the network is not of this space.
    """

    def __init__(
        self,
        network: nn.Module,
        space: NetworkSpace,
        scores: Sequence[Tensor],
        kept: Sequence[int],
        draw: Callable[[Tensor, int], Tensor],
        rank: Callable[[Tensor], Tensor],
        power: float,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.scores = nn.ParameterList(
            torch.empty_like(weight).copy_(start)  # with the weight's strides and device, for fast products
            for weight, start in zip(frozen_weights(self.network, space), scores, strict=True)
        )
        self._names = space.layer_weights()
        self._kept = list(kept)
        self._draw, self._rank, self._power = draw, rank, power
        # Buffers, so that a checkpoint of another density or rescaling has another state and is refused.
        self.register_buffer("kept", torch.tensor(self._kept))
        self.register_buffer("power", torch.tensor(float(power)))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the network's outputs, computed with the weights that the current scores keep and 0 for all others."""
        weights = {}
        for name, mask in zip(self._names, self.masks(), strict=True):
            weight: Tensor = self.network.get_parameter(name)
            if self._power:
                weight = weight * _factor(mask.detach(), self._power)
            weights[name] = weight * mask
        return functional_call(self.network, weights, inputs, named)

    def masks(self) -> list[Tensor]:
        """Return the 0/1 masks made from the current scores, one per layer, in the shape of the layer's weight."""
        scores = list(self.scores)
        if len(self._kept) == len(scores):
            return [self._mask(s.flatten(), kept).view_as(s) for s, kept in zip(scores, self._kept, strict=True)]
        together = self._mask(torch.cat([s.flatten() for s in scores]), self._kept[0])
        runs = together.split([s.numel() for s in scores])
        return [run.view_as(s) for run, s in zip(runs, scores, strict=True)]

    def _mask(self, scores: Tensor, kept: int) -> Tensor:
        if not kept:  # a layer of density 0 has no scores to learn
            return torch.zeros_like(scores)
        return self._draw(scores, kept) if self.training else top(self._rank(scores), kept)

    def saliency(self) -> Tensor:
        """Return the saliency of every weight (higher = keep), computed from its score: (n_units,), on the CPU."""
        return torch.cat([self._rank(s.detach()).flatten().cpu() for s in self.scores])


def frozen_weights(network: nn.Module, space: NetworkSpace) -> list[nn.Parameter]:
    """Return the weight parameters of a network that masks of ``space`` apply to, one per layer, in layer order.

    Raises
    ------
    InputError
        If a weight is missing or has another shape.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights = []
    for layer, name in zip(space.layers, space.layer_weights(), strict=True):
        weight = parameters.get(name)
        if weight is None or weight.shape != layer.shape:
            has = "nothing" if weight is None else f"shape {tuple(weight.shape)}"
            raise InputError(
                f"model: {type(network).__name__} has {has} for {name} {layer.shape} of this {space.describe()}"
            )
        weights.append(weight)
    return weights


def _factor(mask: Tensor, power: float) -> Tensor:
    return (mask.numel() / mask.sum().clamp(min=1)) ** power


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
