"""What scorers have in common that ask another scorer: it alone carries something from one scoring to the next."""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from masksearch.trial import Proposal, Score

__all__ = ["AroundScorer", "Asked"]


class Asked(Protocol):
    """A scorer that others ask."""

    @property
    def refresh_every(self) -> int: ...  # noqa: D102
    def refresh(self) -> None: ...  # noqa: D102
    def score(self, proposals: Sequence[Proposal]) -> list[Score]: ...  # noqa: D102


_S = TypeVar("_S", bound=Asked)


class AroundScorer(Generic[_S]):
    """Hands on to the scorer that it asks what is asked of both."""

    def __init__(self, scorer: _S) -> None:
        self._scorer = scorer

    @property
    def refresh_every(self) -> int:
        """As the scorer says."""
        return self._scorer.refresh_every

    def refresh(self) -> None:
        """Drop what the scorer carries over."""
        self._scorer.refresh()
