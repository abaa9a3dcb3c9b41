"""One-shot pruning in a sweep's cell: block after block at the densities of a found mask, and orders of channels."""

from dataclasses import replace

from torch import nn

from masksearch.core.mask import Mask
from masksearch.criteria import CRITERIA
from masksearch.experiment.context import CellContext
from masksearch.experiment.steps.retraining import calibration_of
from masksearch.pruning.nm_permutation import permute_channels
from masksearch.pruning.one_shot import one_shot
from masksearch.spaces import NMSpace
from masksearch.training.record import Weights
from masksearch.utils.seeds import derive

__all__ = ["pruned_by_block", "with_channel_order"]


def pruned_by_block(context: CellContext, model: nn.Module, found: Mask) -> tuple[Mask, Weights]:
    """Prune ``model`` block by block, each layer as much as the mask ``found`` does; return the new mask and weights.

    The cell's criterion says how weights are chosen; the densities of all other methods are for SparseGPT.

    Parameters
    ----------
    model : nn.Module
        With the weights that the mask was found at; it does not change.
    found : Mask
        Its number of kept units in each layer is that of the new mask.
    """
    space, method = context.space, context.cell.method
    result = one_shot(
        model,
        calibration_of(context),
        None if isinstance(space, NMSpace) else found.densities(),
        method=CRITERIA[method].by_block if method in CRITERIA else "sparsegpt",
        pattern=(space.n, space.m) if isinstance(space, NMSpace) else None,
        progress=False,
    )
    space.check_mask(result.mask)
    weights = {name: tensor.cpu() for name, tensor in result.model.state_dict().items()}
    return Mask(space, result.mask.bits), weights


def with_channel_order(context: CellContext, moment: str) -> CellContext:
    """Return the run's context with the dense network's channels reordered for N:M masks; the outputs stay the same.

    The weights of ``moment`` are reordered, and also replace the best ones by validation.
    """
    space = context.space
    assert isinstance(space, NMSpace), "settings with channel_swaps have N:M masks"
    model = context.build()
    model.load_state_dict(context.dense.weights[moment])
    permuted = permute_channels(
        model.to(context.device),
        calibration_of(context),
        space.n,
        space.m,
        swaps=context.settings.scoring.channel_swaps,
        seed=derive(context.cell.seed, "order of channels"),
    )
    weights = {name: tensor.cpu() for name, tensor in permuted.model.state_dict().items()}
    ordered = {**context.dense.weights, moment: weights, "best": weights}
    return replace(context, dense=replace(context.dense, weights=ordered))
