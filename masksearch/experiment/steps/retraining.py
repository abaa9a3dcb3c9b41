"""How a masked network is retrained: first weights, their repair, learning rate schedule, changes of the mask."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.experiment.cell import Cell
from masksearch.experiment.context import CellContext
from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.experiment.steps.criterion import criterion_mask
from masksearch.models import build_model
from masksearch.pruning.gram_matrices import calibration_inputs
from masksearch.pruning.one_shot import LayerLevels
from masksearch.pruning.reconstruction import Reconstruction, reconstruct
from masksearch.schedules.dynamic_sparse_training import Kind, Regrowing
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.spaces import NMSpace, WeightSpace
from masksearch.training import TrainSettings, optimizer_steps
from masksearch.training.record import Weights
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.seeds import derive, torch_generator

__all__ = [
    "TrainingPlan",
    "calibration_of",
    "mask_schedule",
    "reconstructed_weights",
    "repair_of",
    "rewound_weights",
    "same_weights",
    "training_plan",
]


@dataclass(frozen=True)
class TrainingPlan:
    """Training of a masked network: its settings, and the first and last epoch in the learning rate schedule."""

    settings: TrainSettings
    begin: int  # epochs of the schedule that are over
    until: int  # epoch after which it ends; later ones than the schedule's keep its last learning rate

    @property
    def epochs(self) -> int:
        """Number of epochs of a masked network's training."""
        return self.until - self.begin


def training_plan(context: CellContext, found_at: str, epochs: int | None) -> TrainingPlan:
    """Return the settings for training a masked network, and the first and last epoch in the learning rate schedule.

    Rewound to an epoch, or continued (``none``), a training runs through what its schedule has left; if nothing is
    left, through as many epochs as the dense training, at the last learning rate: fine-tuning. Every other rewinding,
    and every learning rate of its own, begins the schedule anew.

    Parameters
    ----------
    found_at : str
        Moment of the dense training at which the mask was found; its end for masks of later rounds.
    epochs : int, optional
        Epochs of the training, if the settings give them.
    """
    cell = context.cell
    settings, warmup = replace(cell.train, bn_l1=0.0), cell.settings.schedules.retrain_warmup
    if warmup is not None:
        settings = replace(settings, warmup=warmup)
    total = settings.epochs
    moment = _goes_on_from(cell, found_at)
    begin = 0
    if cell.retrain_lr is not None:
        settings = replace(settings, lr=cell.retrain_lr)
    elif moment is not None:
        per_epoch = optimizer_steps(context.data.train, settings)
        begin = min(total, moment.steps(per_epoch, total) // per_epoch)
    if not begin:
        epochs = total if epochs is None else epochs
        return TrainingPlan(replace(settings, epochs=epochs), 0, epochs)
    left = epochs if epochs is not None else total - begin or total
    if settings.lr_schedule == "plateau":  # the rows of the dense training have the rate it fell to
        rows = context.dense_result().epochs
        settings = replace(
            settings, lr_schedule="constant", lr=rows[min(begin, len(rows)) - 1].lr if rows else settings.lr
        )
    return TrainingPlan(settings, begin, begin + left)


def _goes_on_from(cell: Cell, found_at: str) -> TrainingMoment | None:
    """Return the moment of the dense training at which retraining continues the schedule; None: it begins anew."""
    rewind = parse_rewind(cell.rewind_to)
    if cell.control == "reinit" or rewind in ("lr", "random"):
        return None
    if rewind == "none":
        return replace(TrainingMoment.parse(found_at), best=False)
    assert isinstance(rewind, TrainingMoment)
    return None if rewind.best else rewind


def rewound_weights(context: CellContext, found_at: Weights) -> Weights:
    """Return the weights that retraining starts from: those the mask was found with, those rewound to, or random ones.

    ``found_at`` are the weights where the mask was found. Earlier and random weights are equal for all methods of a
    seed.
    """
    cell, rewind = context.cell, parse_rewind(context.cell.rewind_to)
    if cell.control == "reinit" or rewind == "random":
        # The control of a ticket with fresh weights has other fresh weights.
        name = "reinitialised weights" if cell.control == "reinit" else "fresh weights"
        model = build_model(cell.settings.sweep.model, context.data, seed=derive(cell.seed, name))
        return model.state_dict()
    if rewind in ("none", "lr"):
        return found_at
    return context.dense.weights[str(rewind)]


def calibration_of(context: CellContext) -> list[Any]:
    """Return batches of training inputs for repair and calibration; they are equal for all methods of a seed."""
    generator = torch_generator(context.cell.seed, "calibration")
    return calibration_inputs(context.data.train, context.settings.scoring.calibration_examples, generator)


def repair_of(context: CellContext, model: nn.Module) -> Reconstruction | LayerLevels:
    """Return an object f(mask) -> repaired copy of ``model``, whose kept weights are refitted by least squares.

    With the setting ``reconstruct = "blockwise"`` and weights as units, SparseGPT prunes each layer anew instead, to
    the layer's density in the mask.
    """
    kept, space = context.repairs, context.space
    weights = model.state_dict()
    if not kept or not same_weights(kept[0].dense.state_dict(), weights):
        by_block = context.settings.schedules.reconstruct == "blockwise"
        if by_block and isinstance(space, WeightSpace) and not isinstance(space, NMSpace):
            kept[:] = [LayerLevels(model, space, calibration_of(context))]
        else:
            kept[:] = [Reconstruction(model, space, calibration_of(context))]
    return kept[0]


def reconstructed_weights(context: CellContext, mask: Mask, weights: Weights) -> Weights:
    """Return a masked network's weights after least-squares repair, on the CPU and in the unpruned shapes."""
    model = context.build()
    model.load_state_dict(weights)
    model.to(context.device)
    if context.settings.schedules.reconstruct == "sequential":
        repaired = reconstruct(model, context.space, mask, calibration_of(context), sequential=True)
    else:
        repaired = repair_of(context, model)(mask)
    return {name: tensor.cpu() for name, tensor in repaired.state_dict().items()}


def same_weights(one: Weights, other: Weights) -> bool:
    """Return whether two state dicts have equal values, possibly on different devices."""
    if one is other or one.keys() != other.keys():
        return one is other
    return all(torch.equal(one[name], tensor.to(one[name].device)) for name, tensor in other.items())


def mask_schedule(context: CellContext, network: nn.Module, mask: Mask, begin: int, until: int) -> Gradual | Regrowing:
    """Return the object that changes the mask every few training steps: gradual pruning, or SET or RigL.

    Gradual pruning lowers the density; SET and RigL prune and regrow at a constant density.
    """
    cell, schedules = context.cell, context.settings.schedules
    if cell.row.changes == "ramp":
        amount = cell.amounts(context.space)[-1]
        return Gradual(
            network,
            context.space,
            lambda density, alive: criterion_mask(context, network, amount.at(density), alive),
            cell.density,
            until,
            begin=begin,
            interval=schedules.update_every,
        )
    return Regrowing(
        network,
        context.space,
        mask,
        cast(Kind, cell.row.changes),
        steps=until,
        begin=begin,
        share=schedules.drop_share,
        interval=schedules.update_every,
        seed=derive(cell.seed, "regrowing"),
    )
