"""What the searcher, the scorer and the loop of a search exchange: problem, proposals, scores, trials.

A search is this loop; :func:`masksearch.search` adds budgets, repeated masks, checkpoints and the history::

    searcher.start(Problem(space, density, budget, seed))
    while not finished:
        proposals = searcher.ask(n)         # Proposal: a mask that waits for its score
        scores = scorer.score(proposals)    # Score: higher is better
        searcher.tell(proposals, scores)    # the loop appends one Trial per proposal to the history
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from masksearch.core.density_allocation import Amount, Density, Hold, OnEmpty, Scope
from masksearch.core.energy_protocol import Energy
from masksearch.core.mask import Mask, Move
from masksearch.core.search_budget import Budget
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.seeds import check_seed

FOREIGN_TRIALS = "foreign_trials"
"""Name of the metric that counts the trials of other searches from which a searcher has learned."""

LARGER_BUDGETS = "larger_budgets"
"""Key in a problem's identity of the list of its budgets after the first; absent if there is one budget only."""

Cost = Hold | Callable[[Mask], float]
"""What a search minimises beside the score: "units", "params", "macs", or f(mask) -> mask's / full mask's cost."""

Refine = Callable[[Tensor, Callable[[Tensor], Mask]], Mask]
"""Function f(saliency, rank) -> mask that improves on rank(saliency), the mask of the units of highest saliency."""

_DRAWS = 100  # of a random mask, until a draw empties no layer


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A mask to score, stored as another mask (its base) and the move that turns the base into this mask."""

    base: Mask
    move: Move
    mask: Mask  # base.moved(move); its bits are computed when they are read
    threshold: float | None = None  # lower scores need not be exact: a bound below it suffices; None: always exact
    share: float = 1.0  # share of the score's examples that suffices, in (0, 1]; a scorer may use all of them
    probe: bool = False  # whether the mask may break the density, because it is scored only to learn from it

    @classmethod
    def moving(cls, base: Mask, move: Move, threshold: float | None = None) -> "Proposal":
        """Return a proposal (a mask to score) for the mask that ``move`` makes of the mask ``base``."""
        return cls(base, move, base.moved(move), threshold)

    @classmethod
    def of(cls, mask: Mask) -> "Proposal":
        """Return a proposal (a mask to score) for a mask that is given as a whole, without a base mask and a move."""
        return cls(mask, Move.nowhere(), mask)

    @property
    def counts(self) -> bool:
        """Whether the mask may become the search's best: not if it is scored on few examples, or only to learn from it.

        A probe is a mask that is scored only to learn from its score.
        """
        return self.share == 1 and not self.probe

    @property
    def dropped(self) -> np.ndarray:
        """Return the indices of the units that the base mask keeps and the proposed mask prunes: int64 (r,)."""
        return self.move.dropped

    @property
    def regrown(self) -> np.ndarray:
        """Return the indices of the units that the base mask prunes and the proposed mask keeps: int64 (r,)."""
        return self.move.regrown


def proposals_of(masks: Sequence[Mask | Proposal], space: MaskSpace) -> list[Proposal]:
    """Wrap each mask in a Proposal (a mask and how to score it); items that are proposals already stay as they are.

    Raises
    ------
    InputError
        If a mask belongs to another space than ``space``.
    """
    proposals = [Proposal.of(mask) if isinstance(mask, Mask) else mask for mask in masks]
    for proposal in proposals:
        check_type("mask", proposal, Proposal, "a mask, or a proposal of a searcher")
        space.check_mask(proposal.mask)
    return proposals


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one mask (higher is better), with the time and the number of examples that scoring took."""

    value: float  # NaN: the mask can't be scored; it is never the best and never accepted
    exact: bool = True  # False: an upper bound below the proposal's threshold, at which scoring stopped
    seconds: float = 0.0  # wall-clock time of the scoring; in the history, of proposing the mask too
    images: int = 0  # images that were evaluated
    cost: float | None = None  # of the mask / of the full mask; None: the search has no cost
    counts: bool = True  # False: of a share of the examples, or of a probe; never the best, never a repeat's score


@dataclass(frozen=True)
class Trial:
    """One scored mask in the history of a search: its number, score, and hash."""

    number: int  # from 0
    score: Score
    mask_hash: int  # equal for equal masks
    is_best: bool  # the highest exact score so far
    is_repeat: bool  # the mask was scored before; the trial has the old score
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the searcher and the loop, by name
    mask: Mask | None = None  # only the best few trials and those of the Pareto front keep their masks


@dataclass(frozen=True, init=False)
class Problem:
    """Search problem: the space of masks, the density to keep, the budget and the seed. It holds no network.

    Parameters
    ----------
    space : MaskSpace
        The space to search.
    density : float, {layer name: float} or Amount
        How much every mask keeps. The quotas of the scopes ``layerwise`` and ``erk`` become a density per layer.
    budget : int or Budget
        The end of the search.
    seed : int
        Of everything random.
    start : Mask, optional
        A warm start of the problem's density.
    saliencies : mapping, optional
        Saliencies (n_units,) by name, for searchers that use them.
    on_empty, hold : str, optional
        As :class:`~masksearch.Amount` has them; refused beside an ``Amount``.
    refine : Refine, optional
        How searchers that rank units make masks; by default, a mask has the top units.
    cost : Cost, optional
        Minimised beside the score; the density is then an upper limit.
    energy : Energy, optional
        Rates masks without scoring them, in microseconds per move; for searchers with ``needs_energy``.
    sparsity : float or {layer name: float}, optional
        1 - density, in place of ``density``.
    amount : Amount, optional
        Another name for ``density``, for :func:`dataclasses.replace`.
    earlier_budgets : sequence of Budget
        Smaller budgets that the search has spent before ``budget``, in order. Trials of an earlier budget count for
        ``budget``, and followed schedules of their own.

    Raises
    ------
    InputError
        For an invalid density or budget, and for saliencies of the wrong shape or with NaN.
    """

    space: MaskSpace
    amount: Amount
    budget: Budget
    seed: int
    start: Mask | None
    saliencies: Mapping[str, Tensor]
    refine: Refine | None
    cost: Cost | None
    energy: Energy | None
    earlier_budgets: tuple[Budget, ...]

    def __init__(
        self,
        space: MaskSpace,
        density: Density | Amount | None = None,
        budget: int | Budget | None = None,
        seed: int = 0,
        start: Mask | None = None,
        saliencies: Mapping[str, Tensor] | None = None,
        on_empty: OnEmpty | None = None,
        hold: Hold | None = None,
        refine: Refine | None = None,
        cost: Cost | None = None,
        energy: Energy | None = None,
        *,
        sparsity: Density | None = None,
        amount: Amount | None = None,
        earlier_budgets: Sequence[Budget] = (),
    ) -> None:
        if amount is not None and density is not None:
            raise InputError(f"density: {density!r} beside an amount; give exactly one of the two")
        check_seed(seed)
        known = {name: saliency.detach().cpu() for name, saliency in (saliencies or {}).items()}
        for name, saliency in known.items():
            if saliency.shape != (space.n_units,) or saliency.isnan().any():
                raise InputError(
                    f"saliency {name!r}: shape {tuple(saliency.shape)}, {int(saliency.isnan().sum())} NaN; one number "
                    f"per unit is needed, ({space.n_units},)"
                )
        values = {
            "space": space,
            "amount": Amount.of(amount or density, sparsity=sparsity, on_empty=on_empty, hold=hold).by_layer(space),
            "budget": Budget.of(budget),
            "seed": seed,
            "start": start,
            "saliencies": known,
            "refine": refine,
            "cost": cost,
            "energy": energy,
            "earlier_budgets": tuple(earlier_budgets),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        _check_limits(space, start)

    @property
    def density(self) -> Density:
        """Return the density of every mask of the search: a float, or {layer name: float}."""
        return self.amount.density

    @property
    def hold(self) -> Hold:
        """Return the quantity that the search's density is a share of: "units", "params" or "macs"."""
        return self.amount.hold

    @property
    def on_empty(self) -> OnEmpty:
        """Return what happens if a mask would empty a layer: "raise" an error, "allow" the mask, or "keep_one" unit."""
        return self.amount.on_empty

    def identity(self) -> dict[str, object]:
        """Return a dict for JSON that equal search problems share; of functions, it only says whether they are given.

        Saliencies and energy terms count by their names. The last bits of saliencies may depend on the number of
        threads, so that only their names count. ``budget`` is the first budget, ``larger_budgets`` has the others, if
        any.
        """
        first, *larger = [[budget.scorings, budget.seconds] for budget in (*self.earlier_budgets, self.budget)]
        return {
            "space": self.space.fingerprint,
            "density": self.density,
            "budget": first,
            "seed": self.seed,
            "start": None if self.start is None else self.start.hash,
            "on_empty": self.on_empty,
            "hold": self.hold,
            "refined": self.refine is not None,
            "cost": self.cost if isinstance(self.cost, str) else self.cost is not None,
            **({"limits": asdict(self.space.limits)} if self.space.limits else {}),
            **({"saliencies": list(self.saliencies)} if self.saliencies else {}),
            **({"energy": list(self.energy.names)} if self.energy is not None else {}),
            **({LARGER_BUDGETS: larger} if larger else {}),
        }

    # Masks that the problem allows. Where the problem would raise an error for an empty layer, rankings keep one unit
    # of the layer instead: a searcher can't choose another density.

    def top_units(self, saliency: Tensor, scope: Scope = "global", generator: torch.Generator | None = None) -> Mask:
        """Return the mask that keeps the units of highest saliency at the problem's density.

        ``saliency`` has the shape (n_units,).
        """
        return self.space.top_k(saliency, self.amount.lenient().across(scope), generator=generator)

    def top_k(self, saliency: Tensor) -> Mask:
        """Return the mask of the units of highest saliency; the problem's function ``refine``, if any, improves it.

        ``saliency`` has the shape (n_units,).
        """
        return self.top_units(saliency) if self.refine is None else self.refine(saliency, self.top_units)

    def random_mask(self, generator: torch.Generator, scope: Scope = "global") -> Mask:
        """Draw a mask that the problem allows, uniformly among the masks of its density.

        Raises
        ------
        InputError
            If no layer may be empty (``on_empty`` is ``raise``) and each of 100 draws empties one.
        """
        amount = self.amount.across(scope)
        if self.on_empty == "raise":
            allowed = replace(amount, on_empty="allow")
            for _ in range(_DRAWS):
                mask = self.space.random(allowed, generator=generator)
                if not mask.empty_layers():
                    return mask
        return self.space.random(amount, generator=generator)

    def allows(self, kept: np.ndarray) -> bool:
        """Return whether the problem allows a mask whose layers keep ``kept`` units, an int64 array (n_layers,)."""
        limits = self.space.limits
        if limits is not None and not limits.allow(kept):
            return False
        return (self.on_empty == "allow" or not self.space.empty(kept).any()) and self.space.fits(kept, self.amount)

    def priced(self, mask: Mask, score: Score) -> Score:
        """Return a mask's score with the mask's cost filled in; if the problem has no cost, the score is unchanged."""
        if self.cost is None or score.cost is not None:
            return score
        return replace(score, cost=self.space.share(mask, self.cost) if isinstance(self.cost, str) else self.cost(mask))


def _check_limits(space: MaskSpace, start: Mask | None) -> None:
    """Raise an InputError for a start mask that breaks the limits of its space."""
    if space.limits is None:
        return
    if start is not None and not space.limits.allow(start.kept_counts):
        raise InputError(
            "start: the mask breaks min_units or multiple_of of its space; give a mask made by space.top_k"
        )
