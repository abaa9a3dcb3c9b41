"""Tickets: masked or physically pruned networks that are ready to be trained."""

from dataclasses import dataclass

from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.physical import prune, restore_state
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.training.record import Weights, copy_weights

__all__ = ["Ticket", "draw_ticket"]


@dataclass(frozen=True)
class Ticket:
    """A mask and its weights, as a network that is ready to be trained."""

    network: nn.Module
    masks: dict[str, Tensor]  # for the training: parameter name -> kept entries; empty for a physically pruned network
    pruned: bool  # whether physically pruned

    def weights(self, space: NetworkSpace, mask: Mask) -> Weights:
        """The current weights as a state dict of the full network, with zeros at pruned positions."""
        state = copy_weights(self.network)
        return restore_state(space, mask, state) if self.pruned and isinstance(space, FilterSpace) else state


def draw_ticket(model: nn.Module, space: NetworkSpace, mask: Mask, weights: Weights, physically: bool = True) -> Ticket:
    """The network under ``mask`` with ``weights``: filters are removed, weights are zeroed.

    Filters are only zeroed if ``physically`` is False or the mask empties a layer, because a network without a layer
    does not exist. ``model`` gets the masked weights.
    """
    model.load_state_dict(weights)
    if physically and isinstance(space, FilterSpace) and not mask.empty_layers():
        ticket = Ticket(prune(model, space, mask), {}, pruned=True)
        space.apply(model, mask)
        return ticket
    space.apply(model, mask)
    return Ticket(model, space.parameter_masks(mask), pruned=False)
