"""Rounds of pruning and training: find a mask, prune the network, train it, repeat."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import nn

from masksearch.core.density_allocation import Amount, Density
from masksearch.core.mask import Mask
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Training, Weights
from masksearch.utils.errors import InputError


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
    found: F  # what the search for the mask returned: the mask, or an object with a ``mask``
    mask: Mask  # mask of the trained network: that of ``found``, unless masks change within the training
    ticket: Ticket  # the pruned network, trained
    found_at: Weights  # weights at which the mask was found
    rewound: Weights  # weights from which the training started, unmasked
    trained: Weights  # weights after the training, with the full network's sizes
    training: Training | None  # epochs of the training; None: a round without training


@dataclass(frozen=True)
class RoundStart(Generic[D]):
    """Start of a round of pruning and training: the network, and the density that the round's mask must reach."""

    number: int  # number of the round; the first is 1
    density: D
    model: nn.Module  # the full network with ``weights``; pruned units are zero
    weights: Weights  # trained weights of the last round, at which the mask is to be found
    alive: Mask | None  # mask of the last round; None in the first round


class PruningRounds(Generic[D]):
    """Rounds of pruning and training of a network; a for loop over them gives the :class:`RoundStart` of each round.

    The caller finds the mask, trains the ticket, and ends each round by :meth:`finish` before the next one begins.
    A round begins with the trained weights of the round before; after a round without training, or with a diverged
    one, with the same weights as that round. Units that a round prunes stay pruned.

    Parameters
    ----------
    build : callable
        Builds the full network; its weights are replaced.
    densities : sequence of float, mapping or Amount
        Densities or amounts after each round, never rising, as of :func:`masksearch.schedules.round_densities`.
    weights : state dict
        Weights at which the first mask is found.
    physically : bool
        Whether to remove filters before the training; must be False if masks change during it.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        space: NetworkSpace,
        densities: Sequence[D],
        weights: Weights,
        physically: bool = True,
    ) -> None:
        self._build, self._space, self._densities, self._physically = build, space, densities, physically
        self._weights = weights
        self._alive: Mask | None = None

    def __iter__(self) -> Iterator[RoundStart[D]]:
        for number, density in enumerate(self._densities, start=1):
            model = self._build()
            model.load_state_dict(self._weights)
            if self._alive is not None:
                self._space.apply(model, self._alive)
            yield RoundStart(number, density, model, self._weights, self._alive)

    def ticket(self, start: RoundStart[D], mask: Mask, rewound: Weights) -> Ticket:
        """Return the round's network, pruned by the round's mask and with the weights that training starts from.

        Raises
        ------
        InputError
            If the mask keeps a unit that an earlier round has pruned.
        """
        if start.alive is not None and (revived := int((mask.bits & ~start.alive.bits).sum())):
            raise InputError(
                f"round {start.number}: its mask keeps {revived} units that an earlier round pruned; it must not"
            )
        return draw_ticket(self._build(), self._space, mask, rewound, self._physically)

    def finish(
        self, start: RoundStart[D], found: F, rewound: Weights, ticket: Ticket, mask: Mask, training: Training | None
    ) -> Round[F]:
        """End a round and return its result; the round's mask and trained weights are the start of the next round.

        Parameters
        ----------
        mask : Mask
            Final mask, which is another one than that of ``found`` if masks change during the training.
        training : Training, optional
            Epochs of the training; None: a round without training.
        """
        trained = ticket.weights(self._space, mask)
        if training is not None and not training.diverged:
            self._weights = trained
        self._alive = mask
        return Round(start.number, found, mask, ticket, start.weights, rewound, trained, training)


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
    """Prune and train a network in rounds; yield the result of each round (mask, weights) when the round is finished.

    Parameters and errors are those of :class:`PruningRounds`, and three functions.

    Parameters
    ----------
    find : callable
        (number of the round, network, density, mask of the last round or None) -> mask, or an object with a ``mask``.
    rewind : callable
        (number of the round, weights that its mask was found at) -> weights that its training starts from.
    train : callable
        (number of the round, ticket, its mask) -> training, mask. Trains the ticket in place, or not at all (None). The
        returned mask is the final one, if masks change during the training.
    """
    rounds = PruningRounds(build, space, densities, weights, physically)
    for start in rounds:
        found = find(start.number, start.model, start.density, start.alive)
        mask = found if isinstance(found, Mask) else found.mask
        rewound = rewind(start.number, start.weights)
        ticket = rounds.ticket(start, mask, rewound)
        training, mask = train(start.number, ticket, mask)
        yield rounds.finish(start, found, rewound, ticket, mask, training)
