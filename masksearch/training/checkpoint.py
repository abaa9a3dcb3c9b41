"""Checkpoints of trainings: one file from which a later call continues, to the same result bit for bit."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
import torch
from torch import Tensor
from torch.optim import Optimizer

from masksearch.training.masking import MaskSchedule
from masksearch.training.optimisation import load_optimizer
from masksearch.training.optimizer_step import OptimizerStep, StepState
from masksearch.training.record import FORMER_NAMES, Best, EpochRow, Training, copy_weights
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, remove_litter, save_tree
from masksearch.utils.integrity import check_object, check_tensors, refusing
from masksearch.utils.locks import locked
from masksearch.utils.nested import tensors_of
from masksearch.utils.ranks import ranks

_FORMAT = "masksearch.training"
_REMEDY = "remove this file and train again, from the beginning"
_NEEDED = {"identity": dict, "model": dict, "optimizer": dict, "epochs": list, "snapshots": dict, "stopped": bool}
_FORMER_IDENTITY: dict[str, object] = asdict(TrainSettings()) | {
    "task": {"task": "classification"},
    "data": None,
    "teacher": None,
    "devices": 1,
}
"""What older checkpoints are of, where they lack an entry."""

NO_EXAMPLES = "none"
"""What stands for the digest of validation examples in a training without them."""

_EXAMPLES = {"content": "data", "val": "validation data"}
"""Entries of a training's identity that are digests of examples: which examples."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def locks_checkpoint(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator for training functions, so that no two processes train with the same ``checkpoint=`` file at once.

    The file is ``<checkpoint>.lock``. A second process that trains with the same checkpoint gets an ``InputError``.
    """

    @wraps(function)
    def holding(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        if options.get("checkpoint") is None or not ranks().first:
            return function(*arguments, **options)
        path = Path(str(options["checkpoint"]))
        with locked(_lock_file(path), f"checkpoint {path}", "wait for it, or name another file"):
            remove_litter(path.parent, path.name)
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


def examples_digest(split: Any) -> str | None:
    """Return a hash of a data split's inputs and targets; None if the split does not give access to them.

    Splits with a method ``digest`` compute their own: streamed ones of their length, first examples and identity.
    """
    if hasattr(split, "digest"):
        own: str | None = split.digest()
        return own
    if not hasattr(split, "inputs"):
        return None
    parts = {"inputs": tensors_of(split.inputs), "targets": tensors_of(split.targets)}
    return digest({f"{side} {place}": one for side, some in parts.items() for place, one in enumerate(some)})


def completed_epochs(path: Path) -> int:
    """Return how many epochs the training saved in a checkpoint file has completed; 0 if there is no file."""
    return len(_tree(path)["epochs"]) if path.exists() else 0


def _tree(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, with its names and types checked."""
    tree = load_tree(path, _REMEDY)
    if not isinstance(tree, dict) or tree.get("format") != _FORMAT:
        raise InputError(f"checkpoint: {path} is not a checkpoint of a training; name another file")
    check_object(tree, path, _NEEDED, _REMEDY)
    return tree


@dataclass(frozen=True)
class Checkpoint:
    """File that holds the state of a training, from which a later call continues.

    Random numbers derive from the seed, so that no generator is saved.
    """

    path: Path
    identity: dict[str, object]  # everything that decides the result
    training: Training
    optimizer: Optimizer
    remask: MaskSchedule | None

    def save(self, step: OptimizerStep) -> None:
        """Write the state of the training to the checkpoint file; of several processes, only rank 0 writes."""
        if not ranks().first:
            return
        training, best, state = self.training, self.training.best, step.state()
        tree = {
            "format": _FORMAT,
            "identity": self.identity,
            "model": copy_weights(training.model),
            "optimizer": self.optimizer.state_dict(),
            "step": {"average": state.average, "average steps": state.average_steps, "scaler": state.scaler},
            "remask": None if self.remask is None else self.remask.state_dict(),
            "epochs": [asdict(row) for row in training.epochs],
            "snapshots": {str(moment): weights for moment, weights in training.snapshots.items()},
            "best": best and {"row": asdict(best.row), "weights": best.weights},
            "stopped": training.stopped,
        }
        save_tree(self.path, tree)

    def load(self) -> StepState | None:
        """Restore a training in place from its checkpoint file; return its averaged weights and float16 loss scale.

        Without a file, nothing is restored, and None is returned. The first checkpoints had no such state: then None is
        returned, too.

        Raises
        ------
        InputError
            If the file is no checkpoint, is damaged, or is of another training; the message names the first difference.
        """
        if not ranks().from_first(self.path.exists):
            return None
        tree = ranks().from_first(lambda: _tree(self.path))
        self._check_identity(_FORMER_IDENTITY | tree["identity"])
        training = self.training
        with refusing(self.path, _REMEDY):
            wanted = {name: tensor.detach() for name, tensor in training.model.state_dict().items()}
            snapshots = {TrainingMoment.parse(moment): weights for moment, weights in tree["snapshots"].items()}
            best = tree["best"] and Best(_row(tree["best"]["row"]), tree["best"]["weights"])
            for weights in (tree["model"], *snapshots.values(), *([best.weights] if best else [])):
                check_tensors(weights, wanted, self.path, _REMEDY)
            training.model.load_state_dict(tree["model"])
            load_optimizer(self.optimizer, tree["optimizer"])
            if self.remask is not None:
                self.remask.load_state_dict(tree["remask"])
            training.epochs = [_row(row) for row in tree["epochs"]]
            first = self.identity.get("begin", 0)
            if any(row.epoch - number != first for number, row in enumerate(training.epochs, start=1)):
                raise InputError(f"{self.path} has other numbers of epochs than 1, 2, 3, ...; {_REMEDY}")
            training.snapshots = snapshots
            training.best = best or None
            training.stopped = tree["stopped"]
            step = tree.get("step")
            return step and StepState(step["average"], step["average steps"], step["scaler"])

    def restore_step(self, step: OptimizerStep, state: StepState) -> None:
        """Restore the averaged weights and float16 loss scale of ``step`` from the state that :meth:`load` returned."""
        with refusing(self.path, _REMEDY):
            step.restore(state)

    def _check_identity(self, saved: Mapping[str, object]) -> None:
        for name, value in self.identity.items():
            if name in _EXAMPLES and None in (saved.get(name), value):
                continue  # of an earlier version, or of data whose content can't be read
            if name in _EXAMPLES and saved.get(name) != value:
                raise InputError(
                    f"checkpoint: {self.path} belongs to a training with other {_EXAMPLES[name]}; restore the data, "
                    "or name another file"
                )
            if saved.get(name) != value:
                raise InputError(
                    f"checkpoint: {self.path} belongs to a training with {name} {saved.get(name)}, and this training "
                    f"has {value}; give the same settings, or name another file"
                )


def _row(values: Mapping[str, object]) -> EpochRow:
    return msgspec.convert({FORMER_NAMES.get(name, name): value for name, value in values.items()}, EpochRow)
