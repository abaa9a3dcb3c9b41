"""What passes between searcher, scorer and loop: problems, proposals, scores, trials, budgets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.move import Move
from masksearch.rungs import Judge
from masksearch.space import Density, Hold, MaskSpace, OnEmpty, Scope

__all__ = ["STAGE", "TAKEN_IN", "Budget", "Cost", "Problem", "Proposal", "Refine", "Score", "Trial"]

STAGE = "subset_stage"
"""The metric that says, in searches of several stages, which one a trial is of."""

TAKEN_IN = "taken_in"
"""The metric that counts the trials of other searches that a searcher has learned from."""

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

    def part(self, parts: int, scorings: int, seconds: float) -> tuple[int, int | None]:
        """Which of so many equal parts of the budget comes next, from 0, and the scorings that are left in it.

        Where both scorings and seconds are limited, the part is that of the one which is nearer to its end.
        """
        shares = [0 if self.scorings is None else scorings * parts // self.scorings]
        if self.seconds is not None:
            shares.append(int(seconds * parts / self.seconds))
        part = min(max(shares), parts - 1)
        return part, None if self.scorings is None else -(-self.scorings * (part + 1) // parts) - scorings

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
    budget: Budget
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

    def random(self, generator: torch.Generator, scope: Scope = "global") -> Mask:
        """A random mask that the problem allows."""
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
    stop: Judge | None = None  # may end the scoring at a rung; scorers that have no scores on the way don't ask

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


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says of a mask. Higher is better."""

    value: float  # NaN: the mask can't be scored, or not exact: its judge stopped it; never best and never accepted
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
    is_best: bool  # the best exact score of its stage up to here
    is_repeat: bool  # the mask had been scored in its stage before; the old score stands
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the searcher and the loop report, by name
    mask: Mask | None = None  # kept for the best few and those of the front only

    @property
    def stage(self) -> int:
        """Which of the search's stages it is of, from 0: scores of different ones can't be compared."""
        return int(self.metrics.get(STAGE, 0))
