"""Scorers, and several that follow each other in one search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from masksearch.errors import InputError
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.trial import Budget, Proposal, Score

__all__ = ["Scoring", "Stages", "check_stages"]


class Scoring(Protocol):
    """What the loop needs of a scorer."""

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, in order.

        A scorer that carries something over from one scoring to the next has, besides, ``refresh()``, which drops it,
        and ``refresh_every``, the scorings after which that is due. Checkpoints are taken just then, so that a search
        that is taken up again finds its scorer as one that never stopped.
        """


_Images = TypeVar("_Images")


@dataclass(frozen=True)
class Stages(Generic[_Images]):
    """Scorers on one set of images after another, each for an equal share of a search's budget.

    Scores of different images can't be compared. So each stage but the first begins by scoring again the masks whose
    scores the searcher goes by, and the best one so far; these scorings are trials like others.

    Parameters
    ----------
    make : callable
        ``make(images) -> scorer``; called when a stage begins, so that no scorer knows of another's images.
    images : sequence
        What each stage scores on, as of :func:`masksearch.data.search_subsets`.

    Raises
    ------
    InputError
        If there is no stage.
    """

    make: Callable[[_Images], Scoring]
    images: Sequence[_Images]

    def __post_init__(self) -> None:
        if not callable(self.make) or not isinstance(self.images, Sequence):
            raise InputError(
                f"stages: a {type(self.make).__name__} and a {type(self.images).__name__}; a function that makes "
                "scorers and a sequence of what it makes them of are needed"
            )
        if not self.images:
            raise InputError("stages: there are none; a search has at least 1")

    def __len__(self) -> int:
        return len(self.images)

    def scorer(self, stage: int) -> Scoring:
        """A new scorer of this stage, from 0."""
        return self.make(self.images[stage])


def check_stages(searcher: Searcher, stages: int, budget: Budget) -> None:
    """Check that a searcher can go through so many stages, and that its budget is enough for them.

    Raises
    ------
    InputError
        If it can't take other scores for the masks it holds on to, or a stage ended before they are all scored again.
    """
    if stages == 1:
        return
    if searcher.holds is None:
        able = [name for name, make in SEARCHERS.items() if make().holds is not None]
        raise InputError(
            f"stages: {stages}, each with other images, and this {type(searcher).__name__} goes by scores that can't "
            f"be taken anew; {', '.join(able)} can do it"
        )
    least = searcher.holds + 2  # those that it holds, the best one, and a new one
    if budget.scorings is not None and budget.scorings // stages < least:
        raise InputError(
            f"stages: {stages} of {budget.scorings} scorings; this {type(searcher).__name__} needs {least} in each, to "
            f"score again what it holds, so {least * stages} in all"
        )
