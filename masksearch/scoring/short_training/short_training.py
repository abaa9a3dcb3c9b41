"""Short training: the score of a mask is minus the loss of the pruned network after a few steps of training."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score, proposals_of
from masksearch.data import Split
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.scoring.example_batches import HeldSplit
from masksearch.scoring.objectives import LearnedLoss
from masksearch.scoring.rank_shares import equal_scores
from masksearch.scoring.short_training.batched_training import BatchedNetworks, sum_of_losses, supports_batched_training
from masksearch.scoring.short_training.effective_mlp import effective_network
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.tasks import CLASSIFICATION
from masksearch.training import Training, TrainSettings, evaluate, optimizer_steps, train
from masksearch.training.checkpoint import examples_digest
from masksearch.training.input_check import check_inputs
from masksearch.training.record import copy_weights
from masksearch.utils.errors import check_whole
from masksearch.utils.nested import as_device, to_device
from masksearch.utils.registry import choose
from masksearch.utils.seeds import torch_generator

_NETWORKS_AT_ONCE = {"cpu": 1, "cuda": 16}  # trained as one; on the CPU this isn't faster (docs/results/speed.md)


class ShortTraining:
    """Scorer of pruning masks that trains the pruned network for a few steps; the score is minus the loss reached.

    The loss is that on validation examples (``by="val"``), or the mean loss of the last epoch's batches, each measured
    when its step is made (``by="train"``): the training speed of Ru et al. 2021 (arXiv:2006.04492; TSE-E with E = 1).
    While the learning rate is still high, the training loss is the better measure, since the validation loss changes
    much from step to step.

    Every ticket, the pruned network of one mask, starts from the same weights and gets the same examples in the same
    order, so that only the masks make scores differ. Filters are removed before the training, so that a training costs
    what the smaller network costs. In a classification by chains of linear layers without dropout, dead inputs and
    units are removed as well (``dead_units``). A training that diverges scores NaN.

    On a GPU, weight masks of a classification that are proposed at once are trained as one network, if the network
    neither draws random numbers nor has buffers (BatchNorm's statistics). Such scores differ by rounding from the
    scores of single masks. Other tasks and streamed examples train mask by mask.

    Parameters
    ----------
    model : nn.Module
        The network, with the weights that tickets start from; it stays unchanged.
    space : NetworkSpace
        The space of the masks.
    train_split, val_split : Split or streamed split
        Examples for training and for the validation loss, with their task.
    by : {"val", "train"}
        The loss that scores: on ``val_split`` after the training, or on ``train_split`` during the last epoch.
    settings : TrainSettings
        Settings of the training that follows the search; ``epochs`` is ignored.
    steps : int
        Optimiser steps per scoring. The examples of that many batches are drawn once from ``train_split``; of a loader,
        they are the first ones. If it has fewer examples, the steps take several epochs of equal size, which may add a
        few steps. If the steps are whole epochs of ``train_split``, they are the first epochs of a training with the
        same seed.
    begin : int
        Epochs of the learning rate's schedule that are over.
    seed : int
        Seed of the draw of examples, their order and augmentation.
    augment : bool
        Whether the data set is augmented, for ``settings.augment`` = ``"auto"``.
    device : str or torch.device, optional
        Device of the trainings; by default that of the model.
    side_by_side : int, optional
        Preferred maximum of weight masks that are trained side by side: by default 16 on a GPU and 1 on a CPU. The
        attribute of this name is 1 where the network or ``by`` allows no more.

    Raises
    ------
    InputError
        If there is no step to train.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        train_split: Any,
        val_split: Any,
        settings: TrainSettings,
        *,
        by: LearnedLoss = "val",
        steps: int = 250,
        begin: int = 0,
        seed: int = 0,
        augment: bool = False,
        device: str | torch.device | None = None,
        side_by_side: int | None = None,
    ) -> None:
        check_whole("steps", steps, 1)
        choose("by", by, ["val", "train"])
        self.space, self._by = space, by
        self._device = as_device(next(model.parameters()).device if device is None else device)
        self._model = copy.deepcopy(model).to(self._device)
        self._weights = copy_weights(self._model)
        if getattr(train_split, "own_order", False):  # its batches are the loader's; so are those of its first examples
            settings = replace(settings, batch_size=math.ceil(len(train_split) / train_split.n_batches))
        self._epochs = math.ceil(steps / optimizer_steps(train_split, settings))
        images = round(steps * min(settings.batch_size * settings.accumulate, len(train_split)) / self._epochs)
        if images < len(train_split):
            drawn = torch.randperm(len(train_split), generator=torch_generator(seed, "short training"))[:images]
            train_split = _drawn(train_split, drawn)
        self._train, self._val = _held(train_split, self._device), _held(val_split, self._device)
        self._fast = _has_fast_trainings(train_split) and _has_fast_trainings(val_split)
        # A short training has no validation loss and no teacher, and ends before a plateau can be detected.
        lr_schedule = "constant" if settings.lr_schedule == "plateau" else settings.lr_schedule
        self._settings = replace(settings, bn_l1=0.0, lr_schedule=lr_schedule, stop_after=None, distill=0.0)
        self._begin, self._seed, self._augment = begin, seed, augment
        for name, split in (("train", self._train), ("val", self._val)):
            check_inputs(self._model, split, self._device, None, name)
        self.side_by_side = side_by_side or _NETWORKS_AT_ONCE.get(self._device.type, 1)
        # A batched training reports only the sum of the losses.
        alone = isinstance(space, FilterSpace) or by == "train" or not self._fast
        if self.side_by_side > 1 and (alone or not supports_batched_training(self._model, self._train.inputs[:2])):
            self.side_by_side = 1

    def __call__(self, mask: Mask) -> Score:
        """Return the score of one mask."""
        return self.score([mask])[0]

    def _score(self, proposal: Proposal) -> Score:
        start = time.perf_counter()
        ticket = self._ticket(proposal)
        network, masks, learned, scored = ticket.network, ticket.masks, self._train, self._val
        may_shrink = self._fast and not ticket.pruned and not self._augments
        part = effective_network(network, masks) if may_shrink else None
        if part is not None:
            network, masks, learned, scored = part.network, part.masks, part.seen(learned), part.seen(scored)
        training = self._learn(network, learned, self._settings, masks=masks)
        images = self._epochs * len(self._train)
        if training.diverged:
            value = math.nan
        elif self._by == "train":
            value = -training.epochs[-1].train_loss
        else:
            value = -evaluate(network, scored, device=self._device).loss
            images += len(scored)
        return Score(value, exact=True, seconds=time.perf_counter() - start, images=images)

    def _score_batched(self, proposals: Sequence[Proposal]) -> list[Score]:
        start = time.perf_counter()
        tickets = [self._ticket(proposal) for proposal in proposals]
        networks = [ticket.network for ticket in tickets]
        stacked = BatchedNetworks(networks)
        training = self._learn(
            stacked,
            self._train,
            replace(self._settings, label_smoothing=0.0),
            masks=stacked.masks([ticket.masks for ticket in tickets]),
            loss=partial(sum_of_losses, label_smoothing=self._settings.label_smoothing),
        )
        if training.diverged:  # the loss of one network ended the training of all networks
            seconds = (time.perf_counter() - start) / len(proposals)
            scores = [self._score(proposal) for proposal in proposals]
            return [replace(score, seconds=score.seconds + seconds) for score in scores]
        stacked.copy_to(networks)
        values = [-evaluate(network, self._val, device=self._device).loss for network in networks]
        seconds = (time.perf_counter() - start) / len(proposals)
        images = self._epochs * len(self._train) + len(self._val)
        return [Score(value, exact=True, seconds=seconds, images=images) for value in values]

    @property
    def _augments(self) -> bool:
        return self._settings.augment == "crop_flip" or (self._settings.augment == "auto" and self._augment)

    def _ticket(self, proposal: Proposal) -> Ticket:
        return draw_ticket(copy.deepcopy(self._model), self.space, proposal.mask, self._weights)

    def _learn(self, network: nn.Module, split: Any, settings: TrainSettings, **rest: Any) -> Training:
        return train(
            network,
            split,
            settings,
            begin=self._begin,
            until=self._begin + self._epochs,
            seed=self._seed,
            device=self._device,
            augment=self._augment,
            **rest,
        )

    def data_digest(self) -> str:
        """Return a hash of the training examples and, if scores are validation losses, of the validation examples."""
        splits = [self._train] if self._by == "train" else [self._train, self._val]
        return " ".join(str(examples_digest(split)) for split in splits)

    refresh_every = 1

    def refresh(self) -> None:
        """Do nothing: scores of short trainings don't depend on earlier masks."""

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """Return one exact score per mask or proposal (a mask that a searcher suggests), in order.

        Raises
        ------
        InputError
            If a mask belongs to another space.
        """
        proposals = proposals_of(masks, self.space)
        size = self.side_by_side
        scores: list[Score] = []
        for group in (proposals[start : start + size] for start in range(0, len(proposals), size)):
            scores += [self._score(group[0])] if len(group) == 1 else self._score_batched(group)
        return equal_scores(proposals, scores)  # the trainings share their batches over all ranks


def _held(split: Any, device: torch.device) -> Any:
    """Return the split with its tensors on a device; a streamed split is returned as it is."""
    if not split.resident:
        return split
    return HeldSplit(to_device(split.inputs, device), to_device(split.targets, device), split.task)


def _drawn(split: Any, drawn: Tensor) -> Any:
    """Return the examples with the indices ``drawn``; of a loader as many, from its start, in memory."""
    if getattr(split, "own_order", False):
        inputs, targets = split.sample(len(drawn))
        return Split(inputs, targets, split.task)
    return split[drawn]


def _has_fast_trainings(split: Any) -> bool:
    """Whether examples suit trainings that assume cross-entropy, and inputs of one float tensor in memory."""
    if split.task is not CLASSIFICATION or not split.resident:
        return False
    return isinstance(split.inputs, Tensor) and split.inputs.is_floating_point()
