"""Checkpoints of trainings: one file from which a later call continues, to the same result bit for bit."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from masksearch.training.duration import Duration
from masksearch.training.masking import MaskSchedule
from masksearch.training.optimisation import load_optimizer
from masksearch.training.optimizer_step import OptimizerStep
from masksearch.training.record import FORMER_NAMES, Best, EpochRow, Training, copy_weights
from masksearch.training.train_settings import TrainSettings
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree
from masksearch.utils.locks import locked

__all__ = ["digest", "load_checkpoint", "locks_checkpoint", "remove_checkpoint", "save_checkpoint"]

_FORMAT = "masksearch.training"
_FORMER_IDENTITY: dict[str, object] = asdict(TrainSettings()) | {
    "task": {"task": "classification"},
    "data": None,
    "teacher": None,
}
"""What older checkpoints are of, where they lack an entry."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def locks_checkpoint(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorate a function so that it holds a lock file while it runs, if it is called with ``checkpoint=``.

    The file is ``<checkpoint>.lock``. A second process that trains with the same checkpoint gets an ``InputError``.
    """

    @wraps(function)
    def holding(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        if options.get("checkpoint") is None:
            return function(*arguments, **options)
        path = Path(str(options["checkpoint"]))
        with locked(_lock_file(path), f"checkpoint {path}", "wait for it, or name another file"):
            return function(*arguments, **options)

    return holding


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint file and its lock file, if they exist."""
    for file in (path, _lock_file(path)):
        file.unlink(missing_ok=True)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def digest(tensors: Mapping[str, Tensor] | None) -> str:
    """Return a hash of 16 hex digits over the names, types, shapes and values of tensors."""
    sha = hashlib.sha256()
    for name, tensor in (tensors or {}).items():
        plain = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        sha.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def save_checkpoint(
    path: Path,
    identity: dict[str, object],
    training: Training,
    optimizer: Optimizer,
    remask: MaskSchedule | None,
    step: OptimizerStep,
) -> None:
    """Write the state of a training to a file, from which :func:`load_checkpoint` restores it.

    Random numbers derive from the seed, so that no generator is saved.
    """
    best = training.best
    tree = {
        "format": _FORMAT,
        "identity": identity,
        "model": copy_weights(training.model),
        "optimizer": optimizer.state_dict(),
        "step": step.state_dict(),
        "remask": None if remask is None else remask.state_dict(),
        "epochs": [asdict(row) for row in training.epochs],
        "snapshots": {str(moment): weights for moment, weights in training.snapshots.items()},
        "best": best and {"row": asdict(best.row), "weights": best.weights},
        "stopped": training.stopped,
    }
    save_tree(path, tree)


def load_checkpoint(
    path: Path, identity: dict[str, object], training: Training, optimizer: Optimizer, remask: MaskSchedule | None
) -> dict[str, Any] | None:
    """Restore network, optimiser, masks and record of a training from a file; return its optimiser step's state.

    Raises
    ------
    InputError
        If the file is no checkpoint or is of another training; the message names the first difference.
    """
    tree = load_tree(path)
    if not isinstance(tree, dict) or tree.get("format") != _FORMAT:
        raise InputError(f"checkpoint: {path} is not a checkpoint of a training")
    saved_identity = _FORMER_IDENTITY | tree["identity"]
    for name, value in identity.items():
        if (saved := saved_identity.get(name)) != value:
            raise InputError(
                f"checkpoint: {path} is of a training with {name} {saved}, this one has {value}; "
                "continue with the same settings, or name another file"
            )
    training.model.load_state_dict(tree["model"])
    load_optimizer(optimizer, tree["optimizer"])
    if remask is not None:
        remask.load_state_dict(tree["remask"])
    training.epochs = [_row(row) for row in tree["epochs"]]
    training.snapshots = {Duration.parse(moment): weights for moment, weights in tree["snapshots"].items()}
    if tree["best"]:
        training.best = Best(_row(tree["best"]["row"]), tree["best"]["weights"])
    training.stopped = tree["stopped"]
    step: dict[str, Any] | None = tree.get("step")
    return step


def _row(values: dict[str, Any]) -> EpochRow:
    return EpochRow(**{FORMER_NAMES.get(name, name): value for name, value in values.items()})
