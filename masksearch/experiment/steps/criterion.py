"""Criteria of a sweep's cell: saliencies and masks for the weights of a network."""

import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount
from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA, Connectivity, balanced_batch, saliency, select
from masksearch.criteria.batches_and_loss import Batches, input_batches
from masksearch.data import Split
from masksearch.experiment.context import CellContext
from masksearch.pruning.energy_after_repair import RepairEnergy, repair_energy
from masksearch.tasks import CLASSIFICATION
from masksearch.utils.seeds import torch_generator

__all__ = ["cell_energy", "criterion_batches", "criterion_mask", "criterion_saliency", "rank_units"]

_CLASSES = 10  # that stand for the classes in tasks without classes
_UNLABELLED = 1000  # examples of criteria that read inputs alone


def criterion_mask(
    context: CellContext,
    model: nn.Module,
    amount: Amount,
    alive: Mask | None = None,
    criterion: str | None = None,
) -> Mask:
    """Return the mask that a criterion (by default, the method of this run) makes from the weights of ``model``.

    ``model`` is on the context's device. ``alive`` holds the units that may be kept; None stands for all units.
    """
    cell, connects = context.cell, context.settings.scoring.connected
    name = criterion or cell.method
    return select(
        name,
        model,
        context.space,
        criterion_batches(context, name),
        amount,
        # One stream per seed, not per method: random masks and ties are paired over sparsities and with other sweeps.
        generator=torch_generator(cell.seed, "criterion", name),
        initial=context.initial_weights(),
        alive=alive,
        connectivity=Connectivity(model, context.space, context.example) if connects else None,
    )


def criterion_saliency(context: CellContext, model: nn.Module, criterion: str, alive: Mask | None = None) -> Tensor:
    """Return a criterion's saliencies of all units, as a tensor of shape (n_units,), for the weights of ``model``."""
    return saliency(
        criterion,
        model,
        context.space,
        criterion_batches(context, criterion),
        generator=torch_generator(context.cell.seed, "criterion", criterion),
        initial=context.initial_weights(),
        alive=alive,
    )


def criterion_batches(context: CellContext, criterion: str) -> Batches:
    """Return the training examples, drawn by the seed, that a criterion needs; an empty list if it needs none.

    In classification with examples in memory there are equally many of every class. In other tasks there are 10 times
    as many as the setting ``examples_per_class``: the first ones of a random order, or of a loader. Criteria that read
    inputs alone get 1,000 examples.
    """
    row = CRITERIA[criterion]
    if not row.needs_batches:
        return []
    generator = torch_generator(context.cell.seed, "criterion", "images")
    split, per_class = context.data.train, context.settings.scoring.examples_per_class
    if split.task.classifies and split.resident and not row.unlabelled:
        inputs, targets = balanced_batch(split, per_class, generator)
        return [(inputs, targets)] if split.task is CLASSIFICATION else Split(inputs, targets, split.task)
    n = min(len(split), _UNLABELLED if row.unlabelled else per_class * (context.data.classes or _CLASSES))
    if split.own_order:
        inputs, targets = split.sample(n)
        return Split(inputs, targets, split.task)
    order = torch.randperm(len(split), generator=generator)[:n]
    [(inputs, targets)] = split.batches(order, [n])
    return Split(inputs, targets, split.task)


def cell_energy(context: CellContext, model: nn.Module) -> RepairEnergy:
    """Return an estimator of energy: how much a mask changes the outputs of ``model`` after least-squares repair."""
    return repair_energy(model, context.space, input_batches(criterion_batches(context, "energy"), "energy"))


def rank_units(context: CellContext, model: nn.Module) -> Mask | None:
    """Return the mask that this run's criterion chooses; None if all units of each layer have equal saliency.

    BatchNorm scales are equal before the first step, for example; then ties alone would decide the mask.
    """
    row = CRITERIA[context.cell.method]
    if not row.needs_batches and not row.draws:
        values = criterion_saliency(context, model, context.cell.method)
        if all(values[layer.slice].min() == values[layer.slice].max() for layer in context.space.layers):
            return None
    return criterion_mask(context, model, context.cell.amounts(context.space)[-1])
