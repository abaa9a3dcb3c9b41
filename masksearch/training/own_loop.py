"""Training loops that users write, and that are called in place of masksearch's own loop."""

import inspect
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from masksearch.training.evaluation import evaluate
from masksearch.training.input_check import mode_kept
from masksearch.training.own_loop_mask import KeptMask
from masksearch.training.record import EpochRow, Training, copy_weights
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import seeded


class TrainFunction(Protocol):
    """Protocol of your own training loop, for ``train_fn=``: a function that trains a network in place.

    ``KeptMask(model, masks).attach(optimizer)`` keeps pruned weights at zero during the loop. The caller zeroes them
    again afterwards.
    """

    def __call__(
        self, model: nn.Module, data: Any, *, masks: Mapping[str, Tensor], epochs: int, seed: int, device: torch.device
    ) -> None:
        """Train a network.

        Parameters
        ----------
        model : nn.Module
            The network, with its pruned weights at zero.
        data : Data
            Splits of examples: ``data.train``, ``data.val``.
        masks : mapping
            Parameter name -> bool tensor of its shape, True = kept; empty for a dense network.
        epochs : int
            Passes over the training examples.
        seed : int
            Seed of all random numbers, below 2^32; torch's global generators have this seed already.
        device : torch.device
            Device of the training.
        """


def check_train_function(function: Callable[..., Any]) -> None:
    """Raise an :class:`InputError` for a function without the parameters of :class:`TrainFunction`."""
    try:
        inspect.signature(function).bind(None, None, masks={}, epochs=1, seed=0, device=torch.device("cpu"))
    except ValueError:
        return  # a built-in function shows no parameters
    except TypeError as error:
        raise InputError(
            f"train_fn: {error}; a function f(model, data, *, masks, epochs, seed, device) is needed, which trains the "
            "model in place"
        ) from None


def call_train_function(
    function: TrainFunction,
    model: nn.Module,
    data: Any,
    *,
    masks: Mapping[str, Tensor],
    epochs: int,
    seed: int,
    device: torch.device,
) -> None:
    """Train a network in place with your own loop; then zero its pruned weights, and restore modes and random state."""
    seed %= 2**32
    model.to(device)
    with mode_kept(model), seeded(seed, device):
        function(model, data, masks=masks, epochs=epochs, seed=seed, device=device)
        model.to(device)
    KeptMask(model, masks)


def train_by_function(
    function: TrainFunction,
    model: nn.Module,
    data: Any,
    *,
    masks: Mapping[str, Tensor],
    epochs: int,
    seed: int,
    device: torch.device,
) -> Training:
    """Train a network in place with your own loop; return a :class:`Training` with one row: the final results.

    The losses and the metrics of the row are those of the trained network in evaluation mode, on all training and
    validation examples; its learning rate is 0, since the loop chooses its own. 0 epochs leave the network unchanged,
    without a row.
    """
    training = Training(model.to(device), metric_name=data.task.metric_name)
    if not epochs:
        return training
    begun = monotonic()
    call_train_function(function, model, data, masks=masks, epochs=epochs, seed=seed, device=device)
    train, val = (evaluate(model, split, device=device) for split in (data.train, data.val))
    row = EpochRow(
        epoch=epochs,
        train_loss=train.loss,
        train_metric=train.metric,
        val_loss=val.loss,
        val_metric=val.metric,
        lr=0.0,
        seconds=monotonic() - begun,
        higher_is_better=data.task.higher_is_better,
    )
    training.add(row, lambda: copy_weights(model))
    return training
