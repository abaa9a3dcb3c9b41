"""Evolution: a population of masks that mutate by swaps and cross over by exchanging units in which they differ."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

import numpy as np

from masksearch.core.density_allocation import Scope
from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.moves.any_swap import per_layer
from masksearch.searchers.moves.in_groups import swapped_in_groups
from masksearch.searchers.moves.layerwise import spread
from masksearch.searchers.moves.within_cost import BudgetPartition, needs_budget_moves
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError, check_numbers
from masksearch.utils.registry import choose
from masksearch.utils.seeds import numpy_generator, torch_generator

_TRIES = 100  # draws of a child; if none of them is allowed, its parent is proposed again
_POWER = 1.5  # power law of the mutations' radius: probability of r is about r ** -_POWER


@dataclass(frozen=True, eq=False)
class _Member:
    """A mask of the population."""

    mask: Mask
    value: float
    kept: np.ndarray  # units kept per layer, int64 (n_layers,)

    @property
    def bits(self) -> np.ndarray:
        return self.mask.bits.numpy()

    def kept_after(self, move: Move) -> np.ndarray:
        return self.kept - per_layer(self.mask.space, move.dropped) + per_layer(self.mask.space, move.regrown)


@dataclass
class EvolutionState:
    """State from which :class:`Evolution` resumes: its population of masks and its random generator.

    The generator of the first masks is saved apart.
    """

    rng: np.random.Generator  # draws parents and children
    proposed_first: int = 0  # number of masks that were proposed to fill the first population
    members: list[_Member] = field(default_factory=list)  # the population


@dataclass
class Evolution(Searcher):
    """Evolution of masks: a child of two masks takes the place of the worse parent unless the child scores lower.

    The evolution is steady-state: one child at a time. Replacing a parent, not the worst member, keeps the population
    diverse (crowding, Mahfoud 1995), which crossover needs. The better parent is the base of the move, so that
    proposing a child costs O(radius), and the score of the lesser parent is the threshold. There are two kinds of
    children:

    - *crossed*: the better parent, with about half of what the other has different: every unit with probability 1/2
      (Syswerda 1989), or whole layers with probability 1/2. As many units come in as go out.
    - *mutated*: the better parent after a swap, either anywhere or of units of the same layers. The radius follows a
      power law, radius ** -1.5, so that there is no step size to choose (Doerr et al. 2017).

    With a density per layer, every child keeps it: as many units come into each layer as go out of it.

    The first population has the problem's start mask, the top units of every saliency, and swaps of these; without
    start and saliencies, it has random masks.
    """

    population: int = 50  # number of masks
    crossover: float = 0.5  # share of the children that combine two parents; the others are mutated
    by_layer: float = 0.2  # share of the combined children that exchange whole layers
    within: float = 0.5  # share of the mutations that leave the layers' densities unchanged
    radius_most: float = 0.1  # size of the largest mutation, as a share of the largest possible swap
    scope: Scope = "global"  # how random first masks spread their density over layers: "global", "layerwise", "erk"

    def __post_init__(self) -> None:
        check_numbers(self, population=100_000)
        if self.population < 2:
            raise InputError(f"evolution: a population of {self.population}; at least 2 are needed")
        for name in ("crossover", "by_layer", "within"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"evolution: {name} {getattr(self, name)}; a share in [0, 1] is needed")
        if not 0 < self.radius_most <= 1:
            raise InputError(f"evolution: radius_most {self.radius_most}; a share in (0, 1] is needed")
        choose("scope of evolution", self.scope, list(get_args(Scope)))

    def reset(self) -> None:  # noqa: D102
        self.generator = torch_generator(self.problem.seed, "evolution", "start")
        self.state = EvolutionState(numpy_generator(self.problem.seed, "evolution"))
        self._given = self._given_masks()
        # For every proposal that waits for its score: its place in the population (None: a new one), its kept units.
        self._waiting: dict[Proposal, tuple[int | None, np.ndarray]] = {}

    @property
    def supports_late_scores(self) -> bool:  # noqa: D102
        return True

    @property
    def _within(self) -> float:
        return self.within if self.problem.amount.per_layer is None else 1.0

    def _given_masks(self) -> list[Mask]:
        problem = self.problem
        masks = [problem.top_units(saliency, self.scope) for saliency in problem.saliencies.values()]
        return masks if problem.start is None else [problem.start, *masks]

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        missing = self.population - len(self.state.members)
        return [self._first_mask() for _ in range(min(n, missing))] if missing else [self._child() for _ in range(n)]

    def _first_mask(self) -> Proposal:
        problem, number = self.problem, self.state.proposed_first
        self.state.proposed_first += 1
        if number < len(self._given):
            proposal = Proposal.of(self._given[number])
        elif self._given:
            mask = self._given[number % len(self._given)]
            base = _Member(mask, math.nan, mask.kept_counts)
            proposal = Proposal.moving(base.mask, self._allowed(base, self._mutated))
        else:
            amount = problem.amount.lenient().across(self.scope)
            proposal = Proposal.of(problem.space.random(amount, generator=self.generator))
        self._waiting[proposal] = None, proposal.mask.kept_counts
        return proposal

    def _child(self) -> Proposal:
        place, other_place = self.state.rng.choice(self.population, 2, replace=False)
        if self.state.members[other_place].value > self.state.members[place].value:
            place, other_place = other_place, place
        base, other = self.state.members[place], self.state.members[other_place]
        move = Move.nowhere()
        if self.state.rng.random() < self.crossover:
            move = self._allowed(base, lambda base: self._crossed(base, other))
        if not len(move):
            move = self._allowed(base, self._mutated)
        proposal = Proposal.moving(base.mask, move, other.value)
        self._waiting[proposal] = int(other_place), base.kept_after(move)
        return proposal

    def _allowed(self, base: _Member, draw: Callable[[_Member], Move]) -> Move:
        """A drawn move to a mask that the problem allows; the empty move if 100 draws find none."""
        for _ in range(_TRIES):
            move = draw(base)
            if self.problem.allows(base.kept_after(move)):
                return move
        return Move.nowhere()

    def _crossed(self, base: _Member, other: _Member) -> Move:
        """A swap of part of the units in which the parents differ; the empty move if the part is none or all."""
        mine, theirs = np.flatnonzero(base.bits & ~other.bits), np.flatnonzero(other.bits & ~base.bits)
        if group := self.problem.space.swap_group:
            exchanged = self.state.rng.random(len(base.bits) // group) < 0.5
            return Move(mine[exchanged[mine // group]], theirs[exchanged[theirs // group]])
        if self.state.rng.random() < self.by_layer:
            space = base.mask.space
            taken = self.state.rng.random(len(space.layers)) < 0.5
            out, back = mine[taken[space.layer_of(mine)]], theirs[taken[space.layer_of(theirs)]]
        else:
            out, back = (units[self.state.rng.random(len(units)) < 0.5] for units in (mine, theirs))
        if needs_budget_moves(self.problem):
            bits = base.bits.copy()
            bits[out], bits[back] = False, True
            return BudgetPartition(base.mask, self.problem).settled(bits, self.state.rng)
        radius = min(len(out), len(back))
        if 2 * radius in (0, len(mine) + len(theirs)):
            return Move.nowhere()
        out, back = self.state.rng.permutation(out), self.state.rng.permutation(back)
        if self.problem.amount.per_layer is not None:
            return _balanced(base.mask.space, out, back)
        return Move(out[:radius], back[:radius])

    def _mutated(self, base: _Member) -> Move:
        """A swap, in time O(radius / share of the rarer units), unless nearly all units are kept or pruned."""
        space = base.mask.space
        kept, pruned = base.mask.n_kept, space.n_units - base.mask.n_kept
        if not min(kept, pruned):
            return Move.nowhere()
        if space.swap_group:
            return swapped_in_groups(base.bits, space.swap_group, self._radius(min(kept, pruned)), self.state.rng)
        if needs_budget_moves(self.problem):
            radius = self._radius(min(kept, pruned))
            return BudgetPartition(base.mask, self.problem).draw(radius, self.state.rng)
        if self.state.rng.random() < self._within:
            move = self._swapped_within(base)
            if len(move) or self._within == 1:
                return move
        radius = self._radius(min(kept, pruned))
        return Move(self._some(base.bits, True, kept, radius), self._some(base.bits, False, pruned, radius))

    def _swapped_within(self, base: _Member) -> Move:
        """A swap within layers; the empty move if every layer is full or empty."""
        space = base.mask.space
        pruned = np.diff(space.starts, append=space.n_units) - base.kept
        room = np.minimum(base.kept, pruned)
        if not room.any():
            return Move.nowhere()
        swaps = spread(self._radius(int(room.sum())), room, self.state.rng)
        out, back = [], []
        for place in np.flatnonzero(swaps):
            layer = space.layers[place]
            bits = base.bits[layer.slice]
            out.append(layer.start + self._some(bits, True, int(base.kept[place]), int(swaps[place])))
            back.append(layer.start + self._some(bits, False, int(pruned[place]), int(swaps[place])))
        return Move(np.concatenate(out), np.concatenate(back))

    def _radius(self, largest: int) -> int:
        """A radius r from 1 to the largest mutation, with a probability of about r ** -_POWER."""
        most = max(1, round(self.radius_most * largest))
        tail = (most + 1) ** (1 - _POWER)
        return min(most, int((1 - self.state.rng.random() * (1 - tail)) ** (1 / (1 - _POWER))))

    def _some(self, bits: np.ndarray, kept: bool, available: int, n: int) -> np.ndarray:
        """``n`` random units that are kept, or pruned: by rejection, or from a list if too many are rejected."""
        draws = 2 * n * len(bits) // available + 16
        if draws < len(bits):
            units = self.state.rng.integers(len(bits), size=draws)
            units = units[bits[units] == kept]
            units = units[np.sort(np.unique(units, return_index=True)[1])]  # distinct, in the order they were drawn
            if len(units) >= n:
                return units[:n]
        return self.state.rng.choice(np.flatnonzero(bits == kept), n, replace=False)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        members = self.state.members
        for proposal, score in zip(proposals, scores, strict=True):
            asked = proposal in self._waiting  # else it was asked before a resume
            place, kept = self._waiting.pop(proposal) if asked else (None, proposal.mask.kept_counts)
            if not score.exact or math.isnan(score.value):
                continue
            member = _Member(proposal.mask, score.value, kept)
            if place is None and len(members) < self.population:
                members.append(member)
                continue
            if place is None:  # a first mask that came in late
                place = min(range(len(members)), key=lambda number: members[number].value)
            if score.value >= members[place].value and not self._has(proposal.mask):
                members[place] = member

    def _has(self, mask: Mask) -> bool:
        return any(member.mask.hash == mask.hash for member in self.state.members)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"median": median(member.value for member in self.state.members)} if self.state.members else {}


def _balanced(space: Layout, out: np.ndarray, back: np.ndarray) -> Move:
    """The move of the first units of ``out`` and ``back``, with equal numbers of both in every layer."""
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    layers_out, layers_back = space.layer_of(out), space.layer_of(back)
    for layer in range(len(space.layers)):
        here_out, here_back = out[layers_out == layer], back[layers_back == layer]
        radius = min(len(here_out), len(here_back))
        kept[0].append(here_out[:radius])
        kept[1].append(here_back[:radius])
    return Move(np.concatenate(kept[0]), np.concatenate(kept[1]))
