"""How a ticket is retrained: initial weights, part of the learning rate schedule, masks that change meanwhile."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.experiment.steps.dense import DenseNetwork
from masksearch.models import build_model
from masksearch.schedules.in_training import Gradual, Kind, Regrowing
from masksearch.spaces import NetworkSpace
from masksearch.training import TrainSettings, steps_per_epoch
from masksearch.training.duration import Duration
from masksearch.training.record import Weights
from masksearch.utils.seeds import derive

__all__ = ["TrainingPlan", "course", "mask_schedule", "rewound_weights"]


@dataclass(frozen=True)
class TrainingPlan:
    """A training's settings, and the part of their schedule that it runs through."""

    settings: TrainSettings
    begin: int  # epochs of the schedule that are over
    until: int  # epoch after which it ends; later ones than the schedule's keep its last learning rate

    @property
    def epochs(self) -> int:
        """Epochs that are trained."""
        return self.until - self.begin


def course(cell: Cell, found_at: str, epochs: int | None, dense: DenseNetwork, train_examples: int) -> TrainingPlan:
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
    train_examples : int
        Training images, for moments that are given in steps.
    """
    settings = replace(cell.settings.train, bn_l1=0.0)
    total = settings.epochs
    moment = _goes_on_from(cell, found_at)
    begin = 0
    if cell.retrain_lr is not None:
        settings = replace(settings, lr=cell.retrain_lr)
    elif moment is not None:
        per_epoch = steps_per_epoch(train_examples, settings.batch_size)
        begin = min(total, moment.steps(per_epoch, total) // per_epoch)
    if not begin:
        epochs = total if epochs is None else epochs
        return TrainingPlan(replace(settings, epochs=epochs), 0, epochs)
    left = epochs if epochs is not None else total - begin or total
    if settings.lr_schedule == "plateau":  # what it fell to is in the rows of the dense training
        rows = dense.metrics["epochs"]
        settings = replace(settings, lr_schedule="constant", lr=rows[begin - 1]["lr"] if rows else settings.lr)
    return TrainingPlan(settings, begin, begin + left)


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


def mask_schedule(
    cell: Cell,
    network: nn.Module,
    space: NetworkSpace,
    mask: Mask,
    data: Data,
    initial: Weights,
    device: torch.device,
    begin: int,
    until: int,
) -> Gradual | Regrowing:
    """The masks of a training of ``network`` between two steps, from ``mask`` on."""
    schedules = cell.settings.schedules
    if cell.row.changes == "ramp":
        return Gradual(
            network,
            space,
            lambda density, alive: criterion_mask(cell, network, space, data, initial, device, density, alive),
            cell.density,
            until,
            begin=begin,
            interval=schedules.update_every,
        )
    return Regrowing(
        network,
        space,
        mask,
        cast(Kind, cell.row.changes),
        steps=until,
        begin=begin,
        share=schedules.drop_share,
        interval=schedules.update_every,
        seed=derive(cell.seed, "regrowing"),
    )
