"""Simulated annealing: swaps with a decreasing radius, and a temperature that is measured from the scores."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from masksearch.core.density_allocation import Scope
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Problem, Proposal, Score
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searchers.moves.in_groups import GroupPartition
from masksearch.searchers.moves.layerwise import LayeredPartition, RankedLayers
from masksearch.searchers.moves.within_cost import BudgetPartition, needs_budget_moves
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError, check_numbers
from masksearch.utils.registry import choose
from masksearch.utils.seeds import numpy_generator, torch_generator

_SPREAD_WINDOW = 10  # probes over which the mean loss of worsening moves is averaged
_ACCEPTANCE_WINDOW = 100  # moves over which the acceptance rate is averaged
_TURN = 100  # consecutive scorings of one chain, if proposals come one by one: scorers are fast on one base mask
_EXCHANGES = 20  # number of exchanges between chains in a search
_TRIES = 100  # draws of a move until the problem allows its mask

Neighbourhood = Partition | LayeredPartition | GroupPartition | BudgetPartition | RankedLayers
"""Current mask of an annealing chain, stored so that drawing a swap takes time in proportion to its size."""


@dataclass
class Chain:
    """One walk of simulated annealing from mask to mask: its current mask, and the score of that mask."""

    neighbourhood: Neighbourhood  # draws and applies swaps of the current mask
    current: Mask
    value: float = math.nan  # score of the current mask; NaN until it has been scored

    def draw(self, radius: int, problem: Problem, rng: np.random.Generator) -> Move:
        """Draw a swap of kept for pruned units that leads to an allowed mask; after 100 failures, the empty swap."""
        for attempt in range(_TRIES):
            move = self.neighbourhood.draw(radius if attempt < _TRIES // 2 else 1, rng)
            if len(move) and problem.allows(self.neighbourhood.kept_after(move)):
                return move
        return Move.nowhere()

    def accept(self, proposal: Proposal, value: float) -> None:
        """Make a proposed mask the current mask of this annealing walk; ``value`` is the score of the mask."""
        self.neighbourhood.make(proposal.move)
        self.current, self.value = proposal.mask, value

    def copy_from(self, other: "Chain") -> None:
        """Continue this annealing walk from the current mask and score of another walk."""
        self.neighbourhood.load_state_dict(other.neighbourhood.state_dict())
        self.current, self.value = other.current, other.value


@dataclass
class AnnealingState:
    """State from which simulated annealing resumes: random generator, walks (chains), and measured score losses."""

    rng: np.random.Generator  # draws moves and thresholds
    chains: list[Chain]
    spread: float = math.nan  # mean decrease of the score by worsening probes, in units of the score
    probes: int = 0  # number of worsening probes (moves with an exact score) so far
    scorings: int = 0
    seconds: float = 0.0
    acceptance_rate: float = 1.0  # share of the last moves that were accepted
    exchanges: int = 0  # number of exchanges between chains that are due so far in the budget


@dataclass
class Annealing(Searcher):
    """Simulated annealing: swap kept for pruned units, accept worse masks less and less (Kirkpatrick et al. 1983).

    A move swaps ``radius`` kept units for as many pruned units: anywhere in the network, or, for a share ``within`` of
    the moves, between units of the same layer. With a density per layer, all moves stay within layers. A move is
    accepted if its score reaches ``current + temperature x ln(u)``, u uniform in (0, 1]: Metropolis' rule, written as a
    threshold that is known before scoring. Radius and acceptance decrease geometrically with the share of the budget
    that has been used. In a space with ``multiple_of`` or of blocks and filters, half of the moves swap units within
    layers, the others move steps of units between layers, or remove and restore blocks, within the budget.

    The temperature is measured from the scores. Some moves are probes, which get an exact score. If worsening probes
    lose s on average, and losses are about exponentially distributed, a temperature of s p / (1 - p) accepts a share p
    of them. So the temperature follows the scale of the objective and the radius.

    ``densities`` searches the layers' densities only: the units of each layer are ranked by the problem's first
    saliency, or in a random order, and a move prunes the last kept units of one layer and regrows as many of the next
    units of another layer. The number of units is drawn, so that no radius has to be chosen. If the density is held in
    parameters or MACs, the other layer regrows as many units as fit.

    Several ``chains`` take turns, or advance in parallel where proposals come in batches. Twenty times in a search the
    chain with the lowest score continues from the mask with the highest score (Ram et al. 1996).
    """

    radius_start: float = 0.01
    """Number of units that a move swaps at the start, as a share of the most that could be swapped."""
    radius_end: float = 0.0001
    """Number of units that a move swaps at the end, as a share of the most that could be swapped; at least one unit."""
    accept_start: float = 0.1
    """Share of the score-lowering moves that are accepted at the start."""
    accept_end: float = 0.01
    """Share of the score-lowering moves that are accepted at the end."""
    within: float = 0.0
    """Share of the moves that swap units within a layer, not across layers; 1 if every layer has a given density."""
    densities: bool = False
    """Search only the layers' densities; within a layer, units are kept in the order of a saliency or at random."""
    chains: int = 1
    """Number of annealing walks (chains), which share the budget."""
    probe_first: int = 20
    """Number of moves at the start whose scoring never stops early, to measure the temperature."""
    probe_every: int = 20
    """After the start, the scoring of one in this number of moves never stops early, to measure the temperature."""
    scope: Scope = "global"
    """How layers share the density of a random start mask: "global", "layerwise" (equal), "erk" (larger: sparser)."""

    def __post_init__(self) -> None:
        check_numbers(self, chains=10_000)
        for name in ("radius_start", "radius_end", "accept_start", "accept_end"):
            value = getattr(self, name)
            if not 0 < value <= 1 or (name.startswith("accept") and value == 1):
                raise InputError(f"annealing: {name} {value}; a share in (0, 1) is needed")
        choose("scope of annealing", self.scope, list(get_args(Scope)))
        if not 0 <= self.within <= 1:
            raise InputError(f"annealing: within {self.within}; a share in [0, 1] is needed")
        if self.densities and self.within:
            raise InputError(
                f"annealing: within {self.within} with densities, whose moves go between layers; give one of the two"
            )
        if self.chains < 1:
            raise InputError(f"annealing: {self.chains} chains; at least 1 is needed")
        if self.probe_first < 1 or self.probe_every < 1:
            raise InputError(
                f"annealing: probe_first {self.probe_first}, probe_every {self.probe_every}; both must be at least 1"
            )

    # Start. Every chain begins at the problem's start mask, or at a random mask of its own.

    def reset(self) -> None:  # noqa: D102
        self.generator = torch_generator(self.problem.seed, "annealing", "start")
        rng = numpy_generator(self.problem.seed, "annealing")
        self.state = AnnealingState(rng, [self._new_chain() for _ in range(self.chains)])
        # For every proposal that waits for its score: its chain, and the score of its base mask.
        self._waiting: dict[Proposal, tuple[Chain, float]] = {}

    @property
    def supports_late_scores(self) -> bool:  # noqa: D102
        return True

    def _new_chain(self) -> Chain:
        neighbourhood = self._ranked_layers() if self.densities else self._swaps()
        return Chain(neighbourhood, neighbourhood.mask())

    def _swaps(self) -> Neighbourhood:
        mask = self.problem.start or self.problem.random_mask(self.generator, self.scope)
        if self.problem.space.swap_group:
            return GroupPartition(mask)
        if needs_budget_moves(self.problem):
            return BudgetPartition(mask, self.problem)
        within = self.within if self.problem.amount.per_layer is None else 1.0
        return LayeredPartition(mask, within) if within else Partition(mask)

    def _ranked_layers(self) -> RankedLayers:
        problem, saliencies = self.problem, list(self.problem.saliencies.values())
        if problem.amount.per_layer is not None:
            raise InputError("annealing: densities per layer are given, so there are none to search; give one density")
        if problem.space.fixed_density is not None:
            raise InputError(
                f"annealing: densities, but all masks of this {problem.space.describe()} have equal densities; leave "
                "densities out"
            )
        if needs_budget_moves(problem):
            kind = "units in blocks" if problem.space.nested else "multiple_of"
            raise InputError(
                f"annealing: densities in a space with {kind}, where layers can't exchange single units; leave "
                "densities out"
            )
        saliency = saliencies[0] if saliencies else torch.rand(problem.space.n_units, generator=self.generator)
        mask = problem.start or problem.top_units(saliency, self.scope, self.generator)
        fits = None if problem.hold == "units" else lambda kept: problem.space.fits(kept, problem.amount)
        return RankedLayers(mask, saliency, self.generator, fits)

    # Propose. Start masks are scored first. Then the chains take turns; a batch has proposals of consecutive chains.

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        chains = self._next_chains(n)
        number = self.state.scorings + len(self._waiting)
        proposals = [
            Proposal.of(chain.current) if math.isnan(chain.value) else self._propose(chain, number + i)
            for i, chain in enumerate(chains)
        ]
        self._waiting |= {proposal: (chain, chain.value) for proposal, chain in zip(proposals, chains, strict=True)}
        return proposals

    def _next_chains(self, n: int) -> list[Chain]:
        """The chains of the next proposals: unscored ones first, then those with the fewest proposals that wait."""
        chains, turn = self.state.chains, self.state.scorings // _TURN
        waiting = Counter(id(chain) for chain, _ in self._waiting.values())
        if unscored := [chain for chain in chains if math.isnan(chain.value) and not waiting[id(chain)]]:
            return unscored[:n]
        if not waiting:
            return [chains[place] for place in sorted((turn + i) % self.chains for i in range(n))]
        turns = [chains[(turn + i) % self.chains] for i in range(self.chains)]
        scored = [chain for chain in turns if not math.isnan(chain.value)]
        chosen = []
        for _ in range(n if scored else 0):
            chosen.append(min(scored, key=lambda chain: waiting[id(chain)]))
            waiting[id(chosen[-1])] += 1
        return chosen

    def _propose(self, chain: Chain, number: int) -> Proposal:
        move = chain.draw(self.radius, self.problem, self.state.rng)
        is_probe = number <= self.probe_first or number % self.probe_every == 0
        return Proposal.moving(chain.current, move, None if is_probe else self._threshold(chain))

    def _threshold(self, chain: Chain) -> float:
        """The score that the next move must reach: Metropolis' rule, u drawn from (0, 1]."""
        return chain.value + self.temperature * math.log(1 - self.state.rng.random())

    # Accept. Proposals of one base mask: after one of them was accepted, the others are not considered.
    # A probe has no threshold: its loss updates the spread first, then a threshold is drawn.

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for proposal, score in zip(proposals, scores, strict=True):
            state.scorings += 1
            state.seconds += score.seconds
            asked = self._waiting.pop(proposal, None) or self._start_of_before(proposal)
            if asked is None:
                continue
            chain, base_value = asked
            if math.isnan(chain.value):
                # A start mask with the score NaN gets the lowest value: the first mask with a score replaces it.
                chain.value = -math.inf if math.isnan(score.value) else score.value
                continue
            if proposal.threshold is None and score.exact:
                self._measure(base_value - score.value)
            threshold = self._threshold(chain) if proposal.threshold is None else proposal.threshold
            # The comparison is False for NaN.
            accepted = chain.current is proposal.base and score.exact and score.value >= threshold
            state.acceptance_rate += (accepted - state.acceptance_rate) / _ACCEPTANCE_WINDOW
            if accepted:
                chain.accept(proposal, score.value)
        self._exchange()

    def _start_of_before(self, proposal: Proposal) -> tuple[Chain, float] | None:
        """The chain whose start was asked before a resume; None for another mask of then, since its base is unknown."""
        starts = [chain for chain in self.state.chains if math.isnan(chain.value)]
        return next(((chain, math.nan) for chain in starts if chain.current.hash == proposal.mask.hash), None)

    def _measure(self, loss: float) -> None:
        """Update the mean loss of worsening probes: a plain mean at first, then an exponential one."""
        state = self.state
        if 0 < loss < math.inf:  # False for NaN
            state.probes += 1
            weight = 1 / min(state.probes, _SPREAD_WINDOW)
            state.spread = loss if state.probes == 1 else state.spread + weight * (loss - state.spread)

    # Exchange. At 20 evenly spaced moments of the budget, the worst chain continues from the best chain's mask.

    def _exchange(self) -> None:
        due = int(_EXCHANGES * self.progress)
        if due != self.state.exchanges:  # lower where a larger budget continues the search
            self.state.exchanges = due
            ranking = sorted(self.state.chains, key=lambda chain: -math.inf if math.isnan(chain.value) else chain.value)
            if ranking[0].value < ranking[-1].value:
                ranking[0].copy_from(ranking[-1])

    # Schedules. Radius and acceptance follow the share of the budget that was used.

    @property
    def progress(self) -> float:
        """Return the share of the search's budget that is used up, in [0, 1]."""
        return min(1.0, self.problem.budget.spent(self.state.scorings, self.state.seconds))

    @property
    def radius(self) -> int:
        """Return how many kept units the next move swaps; in a search of densities only, the largest possible swap."""
        largest = self.state.chains[0].neighbourhood.max_radius
        if self.densities:
            return max(1, largest)
        share = self.radius_start * (self.radius_end / self.radius_start) ** self.progress
        return max(1, round(share * largest))

    @property
    def temperature(self) -> float:
        """Return the annealing temperature, in units of the score; 0 until an exactly scored move lowers the score.

        A move that lowers the score by more is accepted less often.
        """
        if not self.state.probes:
            return 0.0
        accept = self.accept_start * (self.accept_end / self.accept_start) ** self.progress
        return self.state.spread * accept / (1 - accept)

    @property
    def incumbent(self) -> Mask:
        """Return the current mask of the first of the annealing walks."""
        return self.state.chains[0].current

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "current": self.state.chains[0].value,
            "temperature": self.temperature,
            "radius": self.radius,
            "acceptance_rate": self.state.acceptance_rate,
        }
