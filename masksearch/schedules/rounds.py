"""Rounds of pruning and training: find a mask, prune the network, train it, repeat."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import nn

from masksearch.core.amount import Amount, Density
from masksearch.core.mask import Mask
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Training, Weights
from masksearch.utils.errors import InputError

__all__ = ["HasMask", "Round", "run_rounds"]


class HasMask(Protocol):
    """Protocol of a result that has a mask, such as the result of a search."""

    @property
    def mask(self) -> Mask:
        """Pruning mask that a search or another method has found."""


F = TypeVar("F", bound=Mask | HasMask)
D = TypeVar("D", bound=Density | Amount)


@dataclass(frozen=True)
class Round(Generic[F]):
    """Result of one round of pruning and training: mask, pruned network, and weights before and after training."""

    number: int  # number of the round; the first is 1
    found: F  # result of ``find``: a mask, or an object with a mask
    mask: Mask  # mask of the trained network: that of ``found``, unless masks change within the training
    ticket: Ticket  # the pruned network, trained
    found_at: Weights  # weights at which the mask was found
    rewound: Weights  # weights from which the training started, unmasked
    trained: Weights  # weights after the training, with the full network's sizes
    training: Training | None  # epochs of the training; None: a round without training


def run_rounds(
    build: Callable[[], nn.Module],
    space: NetworkSpace,
    densities: Sequence[D],
    weights: Weights,
    *,
    find: Callable[[int, nn.Module, D, Mask | None], F],
    rewind: Callable[[int, Weights], Weights],
    train: Callable[[int, Ticket, Mask], tuple[Training | None, Mask]],
    physically: bool = True,
) -> Iterator[Round[F]]:
    """Prune and train a network in rounds; yield each round when it is finished.

    A round finds its mask at the trained weights of the previous round; after a round without training, or with a
    diverged one, at the same weights as that round. Units that a round prunes stay pruned.

    Parameters
    ----------
    build : callable
        Builds the full network; its weights are replaced.
    densities : sequence of float, mapping or Amount
        Densities or amounts after each round, never rising, as of :func:`masksearch.schedules.round_densities`.
    weights : state dict
        Weights at which the first mask is found.
    find : callable
        (number of the round, network, density, mask of the last round or None) -> mask, or an object with a ``mask``.
    rewind : callable
        (number of the round, weights that its mask was found at) -> weights that its training starts from.
    train : callable
        (number of the round, ticket, its mask) -> training, mask. Trains the ticket in place, or not at all (None). The
        returned mask is the final one, if masks change during the training.
    physically : bool
        Whether to remove filters before the training; must be False if masks change during it.

    Raises
    ------
    InputError
        If ``find`` keeps a unit that an earlier round has pruned.
    """
    alive: Mask | None = None
    for number, density in enumerate(densities, start=1):
        model = build()
        model.load_state_dict(weights)
        if alive is not None:
            space.apply(model, alive)
        found = find(number, model, density, alive)
        mask = found if isinstance(found, Mask) else found.mask
        if alive is not None and (mask.bits & ~alive.bits).any():
            raise InputError(
                f"round {number}: its mask keeps {int((mask.bits & ~alive.bits).sum())} units that an earlier one "
                "has pruned; masks must nest"
            )
        rewound = rewind(number, weights)
        ticket = draw_ticket(build(), space, mask, rewound, physically)
        training, mask = train(number, ticket, mask)
        trained = ticket.weights(space, mask)
        yield Round(number, found, mask, ticket, weights, rewound, trained, training)
        if training is not None and not training.diverged:
            weights = trained
        alive = mask
