"""Rounds of pruning and training: find a mask, draw the ticket, train it, and repeat with what the training left."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import nn

from masksearch.core.amount import Density
from masksearch.core.mask import Mask
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Training, Weights
from masksearch.utils.errors import InputError

__all__ = ["HasMask", "Round", "run_rounds"]


class HasMask(Protocol):
    """A mask with what its search reports; a :class:`Mask` itself has none of that."""

    @property
    def mask(self) -> Mask:
        """The mask that was found."""


F = TypeVar("F", bound=Mask | HasMask)


@dataclass(frozen=True)
class Round(Generic[F]):
    """One round, with the weights of the full network before, at and after its training."""

    number: int  # 1 for the first one
    found: F  # what ``find`` returned
    mask: Mask  # of the trained ticket: that of ``found``, unless masks change within the training
    ticket: Ticket  # trained
    found_at: Weights  # that the mask was found at
    rewound: Weights  # that training started from, not masked yet
    trained: Weights
    training: Training | None  # None: a round without training


def run_rounds(
    build: Callable[[], nn.Module],
    space: NetworkSpace,
    densities: Sequence[Density],
    weights: Weights,
    *,
    find: Callable[[int, nn.Module, Density, Mask | None], F],
    rewind: Callable[[int, Weights], Weights],
    train: Callable[[int, Ticket, Mask], tuple[Training | None, Mask]],
    physically: bool = True,
) -> Iterator[Round[F]]:
    """Prune and train in rounds; every round is given out before the next begins.

    A round finds its mask at the weights that the last one's training has left; where that didn't train, or diverged
    and left none worth the name, at the same weights as it. What a round prunes stays pruned.

    Parameters
    ----------
    build : callable
        Makes the full network; its weights don't matter.
    densities : sequence of float or mapping
        After each of the rounds, never rising: :func:`masksearch.schedules.round_densities`.
    weights : state dict
        What the first mask is found at.
    find : callable
        (number of the round, network, density, mask of the last round or None) -> mask, or an object with a ``mask``.
    rewind : callable
        (number of the round, weights that its mask was found at) -> weights that its training starts from.
    train : callable
        (number of the round, ticket, its mask) -> training, mask. Trains the ticket in place, or not at all (None). The
        mask is the ticket's, unless masks change within the training; then it is the last one.
    physically : bool
        Remove filters before training; not where their masks change within it.

    Raises
    ------
    InputError
        If ``find`` brings back what an earlier round has pruned.
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
