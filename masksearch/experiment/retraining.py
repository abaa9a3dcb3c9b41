"""How a round's ticket is trained: which weights it starts from, and where in the learning rate's schedule."""

from dataclasses import dataclass, replace

from masksearch.data import Data
from masksearch.duration import Duration
from masksearch.experiment.cells import Cell
from masksearch.experiment.dense import DenseNetwork
from masksearch.experiment.schedule_settings import parse_rewind
from masksearch.models import build_model
from masksearch.seeds import derive
from masksearch.training import TrainSettings, steps_per_epoch
from masksearch.training.record import Weights

__all__ = ["Course", "course", "rewound_weights"]


@dataclass(frozen=True)
class Course:
    """A training's settings, and the part of their schedule that it runs through."""

    settings: TrainSettings
    begin: int  # epochs of the schedule that are over
    until: int  # epoch after which it ends; later ones than the schedule's keep its last learning rate

    @property
    def epochs(self) -> int:
        """Epochs that are trained."""
        return self.until - self.begin


def course(cell: Cell, found_at: str, epochs: int | None, dense: DenseNetwork, train_images: int) -> Course:
    """The training of a ticket.

    Rewound to an epoch, or going on (``none``), a training goes through what its schedule has left, and if nothing is
    left through as many epochs as the dense training at the last learning rate: fine-tuning. Every other rewinding, and
    every own learning rate, begins the schedule anew.

    Parameters
    ----------
    found_at : str
        Moment of the dense training at which the mask was found; its end for masks of later rounds.
    epochs : int, optional
        Epochs that are asked for.
    train_images : int
        Training images, for moments that are given in steps.
    """
    settings = replace(cell.settings.train, bn_l1=0.0)
    total = settings.epochs
    moment = _goes_on_from(cell, found_at)
    begin = 0
    if cell.retrain_lr is not None:
        settings = replace(settings, lr=cell.retrain_lr)
    elif moment is not None:
        per_epoch = steps_per_epoch(train_images, settings.batch_size)
        begin = min(total, moment.steps(per_epoch, total) // per_epoch)
    if not begin:
        epochs = total if epochs is None else epochs
        return Course(replace(settings, epochs=epochs), 0, epochs)
    left = epochs if epochs is not None else total - begin or total
    if settings.lr_schedule == "plateau":  # what it fell to is in the rows of the dense training
        rows = dense.metrics["epochs"]
        settings = replace(settings, lr_schedule="constant", lr=rows[begin - 1]["lr"] if rows else settings.lr)
    return Course(settings, begin, begin + left)


def _goes_on_from(cell: Cell, found_at: str) -> Duration | None:
    """The moment of the dense training whose place in the schedule the training takes up; None: from the start."""
    rewind = parse_rewind(cell.rewind_to)
    if cell.control == "reinit" or rewind in ("lr", "random"):
        return None
    if rewind == "none":
        return replace(Duration.parse(found_at), best=False)
    assert isinstance(rewind, Duration)
    return None if rewind.best else rewind


def rewound_weights(cell: Cell, found_at: Weights, data: Data, dense: DenseNetwork) -> Weights:
    """The weights that a training starts from, equal for all methods of a seed unless they go on from their own."""
    rewind = parse_rewind(cell.rewind_to)
    if cell.control == "reinit" or rewind == "random":
        name = (
            "reinitialised weights" if cell.control == "reinit" else "fresh weights"
        )  # those of its control are others
        return build_model(cell.settings.sweep.model, data, seed=derive(cell.seed, name)).state_dict()
    if rewind in ("none", "lr"):
        return found_at
    return dense.weights[str(rewind)]
