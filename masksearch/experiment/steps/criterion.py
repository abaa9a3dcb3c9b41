"""A cell's criteria: saliencies and masks at the weights that a network has."""

from torch import Tensor, nn

from masksearch.core.amount import Amount
from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA, Connectivity, balanced_batch, select
from masksearch.experiment.context import CellContext
from masksearch.utils.seeds import torch_generator

__all__ = ["criterion_batches", "criterion_mask", "criterion_saliency", "rank_units"]


def criterion_mask(
    context: CellContext,
    model: nn.Module,
    amount: Amount,
    alive: Mask | None = None,
    criterion: str | None = None,
) -> Mask:
    """Return the mask of the criterion (by default, the cell's method) for the weights of ``model``.

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
    """Return a criterion's saliency of all units, (n_units,), for the weights of ``model``."""
    row = CRITERIA[criterion]
    extras = {"generator": torch_generator(context.cell.seed, "criterion", criterion)} if row.draws else {}
    batches = criterion_batches(context, criterion)
    return row.saliency(model, context.space, batches, initial=context.initial_weights(), alive=alive, **extras)


def criterion_batches(context: CellContext, criterion: str) -> list[tuple[Tensor, Tensor]]:
    """Return the batches that a criterion uses: none, or one class-balanced batch of training examples by seed."""
    if not CRITERIA[criterion].needs_batches:
        return []
    generator = torch_generator(context.cell.seed, "criterion", "images")
    return [balanced_batch(context.data.train, context.settings.scoring.examples_per_class, generator)]


def rank_units(context: CellContext, model: nn.Module) -> Mask | None:
    """Return the mask of the cell's criterion; None if all units of every layer have equal saliencies.

    BatchNorm scales are equal before the first step, for example; then ties alone would decide the mask.
    """
    row = CRITERIA[context.cell.method]
    if not row.needs_batches and not row.draws:
        saliency = criterion_saliency(context, model, context.cell.method)
        if all(saliency[layer.slice].min() == saliency[layer.slice].max() for layer in context.space.layers):
            return None
    return criterion_mask(context, model, context.cell.amounts(context.space)[-1])
