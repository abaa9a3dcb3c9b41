"""Schedules that change the mask within the training, with a cell's criterion and settings."""

from typing import cast

import torch
from torch import nn

from masksearch.data import Data
from masksearch.dynamic import Gradual, Kind, Regrowing
from masksearch.experiment.cells import Cell
from masksearch.experiment.rank import criterion_mask
from masksearch.mask import Mask
from masksearch.seeds import derive
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights

__all__ = ["changing_mask"]


def changing_mask(
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
