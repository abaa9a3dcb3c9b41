"""The ticket of a cell: the network that is retrained, masked or physically pruned."""

from dataclasses import dataclass

from torch import Tensor, nn

from masksearch.data import Data
from masksearch.experiment.cells import Cell
from masksearch.experiment.dense import DenseNetwork
from masksearch.mask import Mask
from masksearch.models import build_model
from masksearch.pruning import prune
from masksearch.seeds import derive
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.training.record import Weights

__all__ = ["Ticket", "draw_ticket", "rewound_weights"]


@dataclass(frozen=True)
class Ticket:
    """A network ready to be retrained, with the weights that retraining starts from."""

    network: nn.Module
    masks: dict[str, Tensor]  # what training has to keep at zero; empty for a pruned network
    pruned: bool  # physically


def rewound_weights(cell: Cell, data: Data, dense: DenseNetwork) -> Weights:
    """The weights that retraining starts from, equal for all methods of a seed."""
    if cell.rewind_to == "random":
        return build_model(cell.settings.sweep.model, data, seed=derive(cell.seed, "fresh weights")).state_dict()
    return dense.weights["end" if cell.rewind_to == "none" else cell.rewind_to]


def draw_ticket(model: nn.Module, space: NetworkSpace, mask: Mask, weights: Weights) -> Ticket:
    """The network under ``mask`` with ``weights``: filters are removed, weights are zeroed.

    A filter mask that empties a layer has no network that is smaller and whole; there the filters are zeroed, too.
    ``model`` gets the weights, masked.
    """
    model.load_state_dict(weights)
    if isinstance(space, FilterSpace) and not mask.empty_layers():
        ticket = Ticket(prune(model, space, mask), {}, pruned=True)
        space.apply(model, mask)
        return ticket
    space.apply(model, mask)
    return Ticket(model, space.parameter_masks(mask), pruned=False)
