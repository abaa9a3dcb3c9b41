"""Callbacks that keep a mask in trainers of other libraries: Lightning, and Transformers' Trainer."""

from importlib import import_module
from typing import Any

from masksearch.training.own_loop_mask import KeptMask
from masksearch.utils.errors import InputError


def lightning_callback(keep: KeptMask) -> Any:
    """Return a callback for ``lightning.Trainer(callbacks=[...])`` that zeroes pruned weights after every step.

    Parameters
    ----------
    keep : KeptMask
        ``ms.keep_mask(module.model, space, mask)``.

    Raises
    ------
    InputError
        If Lightning is not installed.
    """
    base = _first_module("lightning.pytorch", "pytorch_lightning", needed="lightning").Callback

    class KeepMask(base):  # type: ignore[misc, valid-type]
        """Callback that zeroes the pruned weights at the start of a training and after every optimiser step."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            """Zero the network's pruned weights before the first training step."""
            keep()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            """Zero the network's pruned weights after an optimiser step."""
            keep()

    return KeepMask()


def transformers_callback(keep: KeptMask) -> Any:
    """Return a callback for ``transformers.Trainer(callbacks=[...])`` that zeroes pruned weights after every step.

    Parameters
    ----------
    keep : KeptMask
        ``ms.keep_mask(model, space, mask)``.

    Raises
    ------
    InputError
        If Transformers is not installed.
    """
    base = _first_module("transformers", needed="transformers").TrainerCallback

    class KeepMask(base):  # type: ignore[misc, valid-type]
        """Callback that zeroes the pruned weights at the start of a training and after every optimiser step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Zero the network's pruned weights before the first training step."""
            keep()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Zero the network's pruned weights after an optimiser step."""
            keep()

    return KeepMask()


def _first_module(*names: str, needed: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise InputError(f"callback: {needed} is not installed; install it with: pip install {needed}")
