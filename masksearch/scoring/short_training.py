"""Short training: a mask is worth what its ticket has learned after a few steps."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from masksearch.data import Split
from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.rungs import WHOLE, Judge, reached, stops
from masksearch.seeds import torch_generator
from masksearch.spaces import NetworkSpace
from masksearch.ticket import draw_ticket
from masksearch.training import TrainSettings, evaluate, steps_per_epoch, train
from masksearch.training.record import copy_weights
from masksearch.trial import Proposal, Score

__all__ = ["ShortTraining"]


class ShortTraining:
    """Scores a mask by minus the validation loss, in nats, that its ticket has after a few steps of training.

    Every ticket starts from the same weights and sees the same images in the same order, so that scores differ by the
    mask alone. Filters are removed before the training: it costs what the smaller network costs. A training that
    diverges scores NaN.

    A proposal's judge is asked at the rungs of the steps, about the loss on as large a part of the validation images.
    What isn't stopped scores what it would have scored without a judge.

    Parameters
    ----------
    model : nn.Module
        With the weights that tickets start from; left as it is.
    space : NetworkSpace
        What masks are masks of.
    train_split, val_split : Split
        What tickets learn, and what they are scored on.
    settings : TrainSettings
        Of the training that follows the search; its epochs play no part.
    steps : int
        Optimiser steps per scoring. They go once through so many batches, drawn once from ``train_split``; where it
        has fewer, through all of it, in whole epochs.
    begin : int
        Epochs of the learning rate's schedule that are over.
    seed : int
        Of the draw of images, their order and augmentation.
    augment : bool
        What the data set says of augmentation.
    device : str or torch.device, optional
        By default where the model is.

    Raises
    ------
    InputError
        If there is no step to train.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        train_split: Split,
        val_split: Split,
        settings: TrainSettings,
        *,
        steps: int = 250,
        begin: int = 0,
        seed: int = 0,
        augment: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        if steps < 1:
            raise InputError(f"steps: {steps}; a short training has at least 1")
        self.space = space
        self._device = torch.device(device or next(model.parameters()).device)
        self._model = copy.deepcopy(model).to(self._device)
        self._weights = copy_weights(self._model)
        images = steps * settings.batch_size
        self._epochs = math.ceil(images / len(train_split))
        chosen = torch.randperm(len(train_split), generator=torch_generator(seed, "short training"))
        chosen = chosen[: round(images / self._epochs)]
        self._train = Split(train_split.images[chosen].to(self._device), train_split.labels[chosen].to(self._device))
        self._val = Split(val_split.images.to(self._device), val_split.labels.to(self._device))
        self._settings = replace(settings, bn_l1=0.0)
        self._begin, self._seed, self._augment = begin, seed, augment

    def __call__(self, mask: Mask) -> Score:
        """The score of one mask."""
        return self._score(Proposal.of(mask))

    def _score(self, proposal: Proposal) -> Score:
        start = time.perf_counter()
        ticket = draw_ticket(copy.deepcopy(self._model), self.space, proposal.mask, self._weights)
        steps = self._epochs * steps_per_epoch(len(self._train), self._settings.batch_size)
        watch = _Watch(ticket.network, self._val, steps, proposal.stop)
        try:
            training = train(
                ticket.network,
                self._train,
                self._settings,
                masks=ticket.masks,
                begin=self._begin,
                until=self._begin + self._epochs,
                seed=self._seed,
                device=self._device,
                augment=self._augment,
                on_step=watch,
            )
        except _Stopped:
            images = min(watch.done * self._settings.batch_size, self._epochs * len(self._train)) + watch.evaluated
            return Score(math.nan, exact=False, seconds=time.perf_counter() - start, images=images)
        value = math.nan if training.diverged else watch.score(self._val)
        images = self._epochs * len(self._train) + watch.evaluated
        return Score(value, exact=True, seconds=time.perf_counter() - start, images=images)

    refresh_every = 1

    def refresh(self) -> None:
        """Nothing is carried over from one scoring to the next."""

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, in order; exact where its judge doesn't stop it."""
        return [self._score(proposal) for proposal in proposals]


class _Stopped(Exception):  # noqa: N818 - no error
    """A judge has ended the training."""


@dataclass
class _Watch:
    """Asks the judge when a training reaches a rung, and counts."""

    network: nn.Module
    val: Split
    steps: int
    judge: Judge | None
    done: int = 0  # steps
    evaluated: int = 0  # images

    def __call__(self) -> None:
        rung = reached(self.done, self.done + 1, self.steps)
        self.done += 1
        if rung is None:
            return
        part = self.val[: max(1, len(self.val) * rung // WHOLE)]
        if stops(self.judge, rung, partial(self.score, part)):
            raise _Stopped

    def score(self, split: Split) -> float:
        """Minus the loss on ``split``, in nats."""
        self.evaluated += len(split)
        return -evaluate(self.network, split, device=split.images.device).loss
