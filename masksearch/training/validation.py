"""Validation of a network after every epoch of its training."""

from contextlib import nullcontext

import torch
from torch import nn

from masksearch.training.averaging import Averaging
from masksearch.training.batch_feed import Feed
from masksearch.training.data_parallel import DataParallel
from masksearch.training.evaluation import Evaluation, evaluate_feed
from masksearch.training.input_check import InputCheck
from masksearch.training.training_splits import Examples, as_examples


class Validation:
    """Evaluator of a network on validation examples; several ranks share them if the metric is the accuracy.

    Parameters
    ----------
    model : nn.Module
        The network in training, already on its device.
    split : Examples
        Validation examples, checked by :func:`check_inputs`, which returned ``checked``.
    parallel : DataParallel
        The network on all ranks.
    averaging : Averaging, optional
        Averaged weights, which are evaluated in the place of the network's own.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Examples,
        checked: InputCheck,
        parallel: DataParallel,
        averaging: Averaging | None,
        device: torch.device,
    ) -> None:
        self._model, self._checked, self._parallel, self._averaging = model, checked, parallel, averaging
        part = parallel.part_of(split)
        self._feed = Feed(part, device, checked.channels_last, check=checked.check_targets)
        self._shared_n = None if part is split else len(as_examples(split))

    def __call__(self) -> Evaluation:
        """Return metric and loss on all validation examples."""
        with self._averaging.in_place() if self._averaging else nullcontext():
            found = evaluate_feed(self._model, self._feed, self._checked)
        return found if self._shared_n is None else self._parallel.joined(found, self._shared_n)
