"""Tickets: masked or physically pruned networks that are ready to be trained (Frankle & Carbin 2019)."""

from dataclasses import dataclass

from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.physical import Removable, prune, restore_state
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights, copy_weights


@dataclass(frozen=True)
class Ticket:
    """Pruned network that is ready to be trained: physically pruned, or masked with zeros."""

    network: nn.Module
    masks: dict[str, Tensor]  # parameter name -> bool, entries to keep in training; empty if physically pruned
    pruned: bool  # True: channels or blocks are physically removed; False: pruned entries are zero

    def weights(self, space: NetworkSpace, mask: Mask) -> Weights:
        """Return the pruned network's state dict in the full network's sizes, with zeros at pruned positions."""
        state = copy_weights(self.network)
        return restore_state(space, mask, state) if self.pruned and isinstance(space, Removable) else state


def draw_ticket(model: nn.Module, space: NetworkSpace, mask: Mask, weights: Weights, physically: bool = True) -> Ticket:
    """Return a pruned network that is ready to be trained: given weights, with a mask applied, as a :class:`Ticket`.

    Masks of filters and blocks remove them physically; masks of weights zero them. Filters and blocks are only zeroed
    if ``physically`` is False, or if the mask keeps nothing of a layer, which can't be removed as a whole.

    Parameters
    ----------
    model : nn.Module
        The full network; it gets the masked weights.
    weights : state dict
        Weights of the full network to start from, for example those at initialisation.
    """
    model.load_state_dict(weights)
    if physically and isinstance(space, Removable) and not mask.empty_layers():
        ticket = Ticket(prune(model, space, mask), {}, pruned=True)
        space.apply(model, mask)
        return ticket
    space.apply(model, mask)
    return Ticket(model, space.parameter_masks(mask), pruned=False)
