"""Protocols of scorers, which score the proposals of a searcher."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError


class HasScore(Protocol):
    """Protocol of the simplest scorer that :func:`masksearch.search` accepts: an object with a ``score`` method."""

    @abstractmethod
    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """Return one score per proposal (a mask to score), in the same order; higher is better."""


@runtime_checkable
class Scoring(HasScore, Protocol):
    """Protocol of a scorer with a method :meth:`refresh`, which searches call at intervals to empty its cache.

    Subclasses without such a state need only ``score``. The loop writes checkpoints right after a refresh. A resumed
    search therefore finds the scorer in the same state as a search that was never interrupted.

    A scorer may have a method ``data_digest() -> str``. A search in a folder then refuses to continue if the digest has
    changed since the search began.
    """

    @property
    def refresh_every(self) -> int | None:
        """Return after how many scored masks a search calls :meth:`refresh`; None: there is no state to discard."""
        return None

    def refresh(self) -> None:
        """Discard everything that the scorer has stored while it scored earlier masks."""
        return


@runtime_checkable
class ParallelScoring(Scoring, Protocol):
    """Protocol of a mask scorer with several workers, which score different masks at the same time."""

    workers: int
    order: str  # "fixed": scores in the order of proposals; "as_finished": in the order in which scorings end

    @abstractmethod
    def start(self, space: MaskSpace) -> None:
        """Start the workers, unless they run already, and wait until all are ready to score masks of ``space``."""

    @abstractmethod
    def send(self, proposal: Proposal) -> None:
        """Queue a proposal (a mask to score) for the first worker that is free."""

    @abstractmethod
    def receive(self) -> tuple[Proposal, Score]:
        """Wait until a worker has scored a mask; return the mask's proposal and its score."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; if a mask is scored later, new workers start."""


class _Stateless(Scoring):
    """A scorer that has only ``score``, with the defaults of :class:`Scoring`."""

    def __init__(self, scorer: HasScore) -> None:
        self._scorer = scorer

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        return self._scorer.score(proposals)

    def data_digest(self) -> str | None:
        return data_digest(self._scorer)


def data_digest(scorer: HasScore) -> str | None:
    """Return the digest of the examples on which a scorer scores masks, from its method ``data_digest()``.

    None for a scorer without this method, and for one that needs no examples.
    """
    own = getattr(scorer, "data_digest", None)
    digest: str | None = own() if callable(own) else None
    return digest


def as_scoring(scorer: HasScore) -> Scoring:
    """Return the scorer unchanged if it has all methods that searches call; otherwise wrap it to add them.

    Raises
    ------
    InputError
        If the scorer has no ``score``, or only one of ``refresh`` and ``refresh_every``.
    """
    if isinstance(scorer, Scoring):
        return scorer
    name = type(scorer).__name__
    if not hasattr(scorer, "score"):
        raise InputError(f"scorer: a {name} has no score(proposals); give an object that has one")
    given = [method for method in ("refresh", "refresh_every") if hasattr(scorer, method)]
    if given:
        raise InputError(
            f"scorer: a {name} has {given[0]} alone; a scorer has both refresh and refresh_every, or neither"
        )
    return _Stateless(scorer)
