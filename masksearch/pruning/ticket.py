"""Tickets: a mask and the weights it is meant for, as a network that is ready to be trained."""

from dataclasses import dataclass

from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.physical import prune, restore_state
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.training.record import Weights, copy_weights

__all__ = ["Ticket", "draw_ticket"]


@dataclass(frozen=True)
class Ticket:
    """A mask and the weights it is meant for, as a network ready to be trained."""

    network: nn.Module
    masks: dict[str, Tensor]  # what training has to keep at zero; empty for a pruned network
    pruned: bool  # physically

    def weights(self, space: NetworkSpace, mask: Mask) -> Weights:
        """The network's weights as they are now, as those of the full network: zero where it is pruned."""
        state = copy_weights(self.network)
        return restore_state(space, mask, state) if self.pruned and isinstance(space, FilterSpace) else state


def draw_ticket(model: nn.Module, space: NetworkSpace, mask: Mask, weights: Weights, physically: bool = True) -> Ticket:
    """The network under ``mask`` with ``weights``: filters are removed, weights are zeroed.

    A filter mask that empties a layer has no network that is smaller and whole; there, and where filters are not to go
    ``physically``, they are zeroed, too. ``model`` gets the weights, masked.
    """
    model.load_state_dict(weights)
    if physically and isinstance(space, FilterSpace) and not mask.empty_layers():
        ticket = Ticket(prune(model, space, mask), {}, pruned=True)
        space.apply(model, mask)
        return ticket
    space.apply(model, mask)
    return Ticket(model, space.parameter_masks(mask), pruned=False)
