"""A cell's criterion at the weights that a network has now."""

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.space import Density, Scope
from masksearch.criteria import CRITERIA, Connectivity, balanced_batch, select
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights
from masksearch.utils.seeds import torch_generator

__all__ = ["criterion_batches", "criterion_mask", "criterion_saliency", "rank_units"]


def criterion_mask(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    initial: Weights,
    device: torch.device,
    density: Density,
    alive: Mask | None = None,
    criterion: str | None = None,
    scope: Scope | None = None,
) -> Mask:
    """The mask of a criterion, the cell's own if none is named, at some density, within what is alive."""
    scoring, name = cell.settings.scoring, criterion or cell.method
    # One stream per seed, not per method: random masks and ties are paired over sparsities and with other sweeps.
    generator = torch_generator(cell.seed, "criterion", name)
    return select(
        name,
        model,
        space,
        criterion_batches(cell, data, name),
        density,
        scope=scope or scoring.scope,
        generator=generator,
        initial={name: tensor.to(device) for name, tensor in initial.items()},
        on_empty=scoring.on_empty,
        hold=cell.settings.hold,
        alive=alive,
        connectivity=Connectivity(model, space, data.test.images[:1]) if scoring.connected else None,
    )


def criterion_saliency(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    initial: Weights,
    device: torch.device,
    criterion: str,
    alive: Mask | None = None,
) -> Tensor:
    """The saliency (n_units,) of one round of a criterion, on the CPU."""
    row = CRITERIA[criterion]
    extras = {"generator": torch_generator(cell.seed, "criterion", criterion)} if row.draws else {}
    at_start = {name: tensor.to(device) for name, tensor in initial.items()}
    return row.saliency(model, space, criterion_batches(cell, data, criterion), initial=at_start, alive=alive, **extras)


def criterion_batches(cell: Cell, data: Data, criterion: str) -> list[tuple[Tensor, Tensor]]:
    """What a criterion sees of the training images: the same balanced batch for all of a seed."""
    if not CRITERIA[criterion].needs_batches:
        return []
    images = torch_generator(cell.seed, "criterion", "images")
    return [balanced_batch(data.train, cell.settings.scoring.examples_per_class, images)]


def rank_units(
    cell: Cell, model: nn.Module, space: NetworkSpace, data: Data, initial: Weights, device: torch.device
) -> Mask | None:
    """The mask at the cell's density; None where ties alone would decide it.

    All units of every layer are worth the same then, as BatchNorm scales are before the first step.
    """
    row = CRITERIA[cell.method]
    if not row.needs_batches and not row.draws:
        at_start = {name: tensor.to(device) for name, tensor in initial.items()}
        saliency = row.saliency(model, space, [], initial=at_start, alive=None)
        if all(saliency[layer.slice].min() == saliency[layer.slice].max() for layer in space.layers):
            return None
    return criterion_mask(cell, model, space, data, initial, device, cell.densities(space)[-1])
