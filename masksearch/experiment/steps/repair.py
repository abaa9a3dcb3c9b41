"""Least-squares repair of masked networks in a sweep: calibration examples, and repaired weights."""

from typing import Any

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.experiment.context import CellContext
from masksearch.pruning.gram_matrices import calibration_inputs
from masksearch.pruning.reconstruction import Reconstruction, reconstruct
from masksearch.training.record import Weights
from masksearch.utils.seeds import torch_generator

__all__ = ["calibration", "reconstructed_weights", "reconstruction_of"]


def calibration(context: CellContext) -> list[Any]:
    """Return batches of training inputs for least-squares repair; they are equal for all methods of a seed."""
    generator = torch_generator(context.cell.seed, "calibration")
    return calibration_inputs(context.data.train, context.settings.scoring.calibration_examples, generator)


def reconstruction_of(context: CellContext, model: nn.Module) -> Reconstruction:
    """Return the least-squares repair of ``model``, which works for any mask; the cell's last one is reused."""
    kept = context.reconstructions
    weights = model.state_dict()
    if not kept or not _equal(kept[0].dense.state_dict(), weights):
        kept[:] = [Reconstruction(model, context.space, calibration(context))]
    return kept[0]


def reconstructed_weights(context: CellContext, mask: Mask, weights: Weights) -> Weights:
    """Return the weights of a masked network after least-squares repair, unpruned in shape and on the CPU."""
    model = context.build()
    model.load_state_dict(weights)
    model.to(context.device)
    if context.settings.schedules.reconstruct == "sequential":
        repaired = reconstruct(model, context.space, mask, calibration(context), sequential=True)
    else:
        repaired = reconstruction_of(context, model)(mask)
    return {name: tensor.cpu() for name, tensor in repaired.state_dict().items()}


def _equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], tensor.to(one[name].device)) for name, tensor in other.items())
