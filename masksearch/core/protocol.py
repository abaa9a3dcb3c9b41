"""What passes between searcher, scorer and loop: problems, proposals, scores, trials, budgets; what a scorer is."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.core.space import Density, Hold, MaskSpace, OnEmpty, Scope
from masksearch.utils.errors import InputError

__all__ = [
    "FOREIGN_TRIALS",
    "Budget",
    "Cost",
    "HasScore",
    "Problem",
    "Proposal",
    "Refine",
    "Score",
    "ScorerWrapper",
    "Scoring",
    "Trial",
    "as_scoring",
    "proposals_of",
]

FOREIGN_TRIALS = "foreign_trials"
"""The metric that counts the trials of other searches that a searcher has learned from."""

_DRAWS = 100  # of a random mask until none of its layers is empty

Cost = Hold | Callable[[Mask], float]
"""What a mask costs as a share of what the full mask does: by name, as the space counts it, or by a function."""

Refine = Callable[[Tensor, Callable[[Tensor], Mask]], Mask]
"""(saliency (n_units,), what makes the mask of the top units of a saliency) -> mask."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many scorings, so many seconds of proposing and scoring, or whichever first."""

    scorings: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.scorings is None and self.seconds is None:
            raise InputError("budget: neither scorings nor seconds; at least one is needed, or the search has no end")
        if self.scorings is not None and (not isinstance(self.scorings, int) or self.scorings < 1):
            raise InputError(f"budget: {self.scorings!r} scorings; a whole number, at least 1, is needed")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"budget: {self.seconds} seconds; more than 0 is needed")

    @classmethod
    def of(cls, budget: "int | Budget") -> "Budget":
        """``1000`` is short for ``Budget(scorings=1000)``."""
        return budget if isinstance(budget, Budget) else cls(scorings=budget)

    def left(self, scorings: int, seconds: float) -> int | None:
        """Scorings left; None: no limit but the seconds; 0: the budget is spent."""
        if self.spent(scorings, seconds) >= 1:
            return 0
        return None if self.scorings is None else self.scorings - scorings

    def spent(self, scorings: int, seconds: float) -> float:
        """Share of the budget that is used up; 1 or more: the search is over."""
        shares = []
        if self.scorings is not None:
            shares.append(scorings / self.scorings)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return max(shares)


@dataclass(frozen=True)
class Problem:
    """What a searcher is asked to solve. It sees sizes, layers and scores, and knows nothing about networks."""

    space: MaskSpace
    density: Density
    budget: Budget  # an int becomes Budget(scorings=int)
    seed: int
    start: Mask | None = None  # a warm start, at the problem's density
    saliencies: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # by name, (n_units,) each: knowledge a searcher may use
    on_empty: OnEmpty = "raise"
    hold: Hold = "units"  # what the density is a share of
    refine: "Refine | None" = None  # how searchers that rank units make masks, if not by taking the top ones
    cost: "Cost | None" = None  # what is made small beside the score made large; the density is then the largest

    def __post_init__(self) -> None:
        given = {name: saliency.detach().cpu() for name, saliency in self.saliencies.items()}
        object.__setattr__(self, "saliencies", given)
        object.__setattr__(self, "budget", Budget.of(self.budget))
        for name, saliency in given.items():
            if saliency.shape != (self.space.n_units,) or saliency.isnan().any():
                raise InputError(
                    f"saliency {name!r}: shape {tuple(saliency.shape)}, {int(saliency.isnan().sum())} NaN; one number "
                    f"per unit is needed, ({self.space.n_units},)"
                )

    def top_k(self, saliency: Tensor) -> Mask:
        """The mask of a saliency (n_units,) that the problem allows; where it would raise, a layer keeps one unit."""
        on_empty: OnEmpty = "keep_one" if self.on_empty == "raise" else self.on_empty

        def rank(values: Tensor) -> Mask:
            return self.space.top_k(values, self.density, on_empty=on_empty, hold=self.hold)

        return rank(saliency) if self.refine is None else self.refine(saliency, rank)

    def random_mask(self, generator: torch.Generator, scope: Scope = "global") -> Mask:
        """A random mask that the problem allows, drawn uniformly among those of the density.

        Raises
        ------
        InputError
            If no layer may be empty (``on_empty`` is ``raise``) and each of 100 draws empties one.
        """
        for _ in range(_DRAWS if self.on_empty == "raise" else 0):
            mask = self.space.random(self.density, scope, generator, "allow", self.hold)
            if not mask.empty_layers():
                return mask
        return self.space.random(self.density, scope, generator, self.on_empty, self.hold)

    def allows(self, kept: np.ndarray) -> bool:
        """Whether a mask may keep ``kept`` units of the layers, int64 (n_layers,): none empty, and none too costly."""
        return (self.on_empty == "allow" or bool(kept.all())) and self.space.fits(kept, self.density, self.hold)

    def priced(self, mask: Mask, score: "Score") -> "Score":
        """The score of a mask with its cost, where the problem has one and the score doesn't."""
        if self.cost is None or score.cost is not None:
            return score
        return replace(score, cost=self.space.share(mask, self.cost) if isinstance(self.cost, str) else self.cost(mask))


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A mask that waits for its score: a base mask and the move from it."""

    base: Mask
    move: Move
    mask: Mask  # base.moved(move); bits are worked out when read
    threshold: float | None = None  # a score below it is as good as any other below it; None: the exact score is wanted

    @classmethod
    def moving(cls, base: Mask, move: Move, threshold: float | None = None) -> "Proposal":
        """The proposal to make ``move`` from ``base``."""
        return cls(base, move, base.moved(move), threshold)

    @classmethod
    def of(cls, mask: Mask) -> "Proposal":
        """The proposal of a mask that comes from nowhere."""
        return cls(mask, Move.nowhere(), mask)

    @property
    def dropped(self) -> np.ndarray:
        """Units that go from kept to pruned, int64 (r,)."""
        return self.move.dropped

    @property
    def regrown(self) -> np.ndarray:
        """Units that go from pruned to kept, int64 (r,)."""
        return self.move.regrown


def proposals_of(masks: "Sequence[Mask | Proposal]", space: Layout) -> list[Proposal]:
    """Masks and proposals, all as proposals.

    Raises
    ------
    InputError
        If one is a mask of another space than ``space``.
    """
    proposals = [Proposal.of(mask) if isinstance(mask, Mask) else mask for mask in masks]
    for proposal in proposals:
        own = proposal.mask.space
        if own is not space and own.fingerprint != space.fingerprint:
            raise InputError(f"mask of a {own.describe()}; it doesn't fit this {space.describe()}")
    return proposals


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says of a mask. Higher is better."""

    value: float  # NaN: the mask can't be scored; never best and never accepted
    exact: bool = True  # False: an upper bound, below the proposal's threshold; scoring stopped there
    seconds: float = 0.0  # wall clock: of the scoring; once told to a searcher, of proposing the mask, too
    images: int = 0  # images that were looked at
    cost: float | None = None  # of the mask, as a share of the full one's; None: the search has no costs


@dataclass(frozen=True)
class Trial:
    """One scored mask of a history."""

    number: int  # from 0
    score: Score
    mask_hash: int  # equal for equal masks
    is_best: bool  # the best exact score up to here
    is_repeat: bool  # the mask had been scored before; the old score stands
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the searcher and the loop report, by name
    mask: Mask | None = None  # kept for the best few and those of the front only


class HasScore(Protocol):
    """A scorer that carries nothing from one scoring to the next: all that :func:`~masksearch.search` needs."""

    @abstractmethod
    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, in order; higher is better."""


@runtime_checkable
class Scoring(HasScore, Protocol):
    """What the loop needs of a scorer. Subclasses that carry nothing from one scoring to the next need only ``score``.

    The loop takes checkpoints right after a refresh, so that a search that goes on from a checkpoint finds the scorer
    in the same state as a search that was never interrupted.
    """

    @property
    def refresh_every(self) -> int | None:
        """Scorings after which :meth:`refresh` is due; None: never, since the scorer carries nothing over."""
        return None

    def refresh(self) -> None:
        """Drop everything that the scorer carries from one scoring to the next."""
        return


_S = TypeVar("_S", bound=Scoring)


class ScorerWrapper(Scoring, Generic[_S]):
    """Base class of scorers that change what another scorer gets or returns. The wrapped scorer is refreshed.

    Parameters
    ----------
    scorer : Scoring
        The wrapped scorer.
    """

    def __init__(self, scorer: _S) -> None:
        self._scorer = scorer

    @property
    def refresh_every(self) -> int | None:
        """``refresh_every`` of the wrapped scorer."""
        return self._scorer.refresh_every

    def refresh(self) -> None:
        """Refresh the wrapped scorer."""
        self._scorer.refresh()

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, in order."""
        return self._scorer.score(proposals)


class _Unrefreshed(Scoring):
    """A scorer that has ``score`` alone, with the defaults of :class:`Scoring`."""

    def __init__(self, scorer: HasScore) -> None:
        self._scorer = scorer

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        return self._scorer.score(proposals)


def as_scoring(scorer: HasScore) -> Scoring:
    """The scorer itself if it has all of :class:`Scoring`, else the scorer with the defaults of :class:`Scoring`.

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
    return _Unrefreshed(scorer)
