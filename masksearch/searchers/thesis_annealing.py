"""Annealing exactly as published in the thesis "Heuristic Approach Towards Early Pruning of Neural Networks" (2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searchers.moves.in_groups import BitPartition, GroupPartition
from masksearch.searchers.moves.within_cost import BudgetPartition, needs_budget_moves
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator, torch_generator

_FIRST_LEVEL_MEAN = 5.0  # percent


@dataclass
class TabuMemory:
    """The last ``size`` masks that a search has proposed, with their Hamming distances to its current mask.

    Comparing a move with all of them costs O(size x radius), and remembering a mask O(n_units).
    """

    bits: np.ndarray  # the remembered masks, bool (size, n_units)
    distances: np.ndarray  # int64 (size,), Hamming distances between the current mask and each remembered mask
    count: int = 0  # number of masks remembered so far; from ``size`` on, a new mask replaces the oldest

    @classmethod
    def of_size(cls, size: int, n_units: int) -> "TabuMemory":
        """Return a memory of proposed masks that is empty and can hold ``size`` masks of ``n_units`` units."""
        return cls(np.zeros((size, n_units), dtype=bool), np.zeros(size, dtype=np.int64))

    def distances_after(self, move: Move) -> np.ndarray:
        """Return the Hamming distances that the remembered masks would have to the current mask after ``move``."""
        n = min(self.count, len(self.bits))
        # A dropped unit decreases the distance to masks without it by one, and increases the others; a regrown unit
        # does the opposite.
        dropped, regrown = self.bits[:n, move.dropped], self.bits[:n, move.regrown]
        change_of_dropped = 2 * dropped.sum(1, dtype=np.int64) - len(move.dropped)
        change_of_regrown = len(move.regrown) - 2 * regrown.sum(1, dtype=np.int64)
        return self.distances[:n] + change_of_dropped + change_of_regrown

    def remember(self, mask: Mask, distance: int) -> None:
        """Add a proposed mask to the remembered masks; ``distance`` is its Hamming distance to the current mask."""
        place = self.count % len(self.bits)
        self.bits[place] = mask.bits.numpy()
        self.distances[place] = distance
        self.count += 1

    def follow(self, move: Move) -> None:
        """Update the remembered masks' distances to the current mask, which ``move`` has changed."""
        self.distances[: min(self.count, len(self.bits))] = self.distances_after(move)


@dataclass
class ThesisState:
    """State from which :class:`ThesisAnnealing` resumes: current mask, temperature, last masks and counters."""

    rng: np.random.Generator  # draws moves and thresholds
    current: Mask
    partition: Partition | BitPartition  # the current mask as an array of units, from which swaps are drawn
    memory: TabuMemory
    radius: int  # number of kept units that a move swaps for pruned ones
    peak: int  # radius after its last increase
    temperature: float  # in units of accuracy (1 = 100 %)
    iterations: float  # number of scorings that this level has
    level: int = 0
    iteration: int = 0  # scorings made at this level
    mean: float = _FIRST_LEVEL_MEAN  # the running mean `a` of accepted accuracies, percent
    sum: float = _FIRST_LEVEL_MEAN  # sum of the accuracies that `a` is the mean of, percent
    count: int = 1  # number of accuracies in `sum`
    value: float = math.nan  # score of the current mask; NaN for the start mask, which isn't scored
    accepted: int = 0  # number of accepted moves


@dataclass
class ThesisAnnealing(Searcher):
    """Simulated annealing as published in the annealing thesis (2020), for accuracy scores in [0, 1].

    Moves, radius, temperature, acceptance and tabu memory are the published ones.

    A move is accepted if its accuracy passes a running mean `a`, else with probability exp(-(a - accuracy) / T); `a` is
    the mean of the previous level's `a` and the accuracies accepted so far in this level. It is not the score of the
    current mask: with one scoring a level, `a` is 5 % for 139 levels, so that all moves are accepted. The radius is
    multiplied by 0.99 at each level; below half of its last peak, it increases to 0.75 of that peak. The search ends
    after the last level.

    Use :meth:`mlp` (42,706 scorings in 1,450 levels) or :meth:`cnn` (about 8,200 in 1,000).
    """

    takes_criterion_start: ClassVar[bool] = False  # the published search starts from a random mask

    levels: int  # number of temperature levels
    temperature_start: float  # temperature of the first level, in units of accuracy (1 = 100 %)
    cooling: float  # factor of the temperature from level to level
    iterations_start: float  # scorings in the first level; the number grows by 0.5 % per level
    iterations_max: float  # largest number of scorings in a level
    memory: int  # number of masks remembered
    tries: int  # draws until a mask is found that isn't remembered; the last one is proposed in any case
    known: Literal["within_radius", "equal"]  # a mask is remembered if fewer than radius bits differ, or if none differ
    carry: Literal["before", "after"]  # the next level begins with the mean before or after this level's last scoring

    @classmethod
    def mlp(cls) -> "ThesisAnnealing":
        """Anneal with the settings of the thesis for its MLP: 1,450 temperatures, 42,706 scored masks."""
        return cls(1450, 0.006, 0.999, 1, 50, memory=50, tries=50, known="within_radius", carry="before")

    @classmethod
    def cnn(cls) -> "ThesisAnnealing":
        """Anneal with the settings of the thesis for its CNN: 1,000 temperatures, about 8,200 scored masks."""
        return cls(1000, 0.005, 0.995, 2, 10, memory=60, tries=30, known="equal", carry="after")

    def reset(self) -> None:  # noqa: D102
        problem = self.problem
        if problem.amount.per_layer is not None:
            raise InputError(
                "thesis annealing: it swaps units across layers, which changes densities per layer; give one density"
            )
        self.generator = torch_generator(problem.seed, "thesis_annealing", "start")
        current = problem.start or problem.random_mask(self.generator)
        self.state = ThesisState(
            rng=numpy_generator(problem.seed, "thesis_annealing"),
            current=current,
            partition=self._partition(current),
            memory=TabuMemory.of_size(self.memory, problem.space.n_units),
            radius=current.n_kept,
            peak=current.n_kept,
            temperature=self.temperature_start,
            iterations=self.iterations_start,
        )

    def _partition(self, mask: Mask) -> Partition | BitPartition:
        if self.problem.space.swap_group:
            return GroupPartition(mask)
        return BudgetPartition(mask, self.problem) if needs_budget_moves(self.problem) else Partition(mask)

    @property
    def incumbent(self) -> Mask:  # noqa: D102
        return self.state.current

    def ask(self, n: int = 1) -> list[Proposal]:
        """Return one proposed mask, even if ``n`` is larger, since the published search scores one mask at a time."""
        state = self.state
        if state.level == self.levels:
            return []
        least = state.radius if self.known == "within_radius" else 1
        for _ in range(self.tries):
            move = state.partition.draw(state.radius, state.rng)
            if not self.problem.allows(state.partition.kept_after(move)):
                move = Move.nowhere()
            elif (state.memory.distances_after(move) >= least).all():
                break
        # exp(-delta / T) > u, with delta = (a - accuracy) / 100, solved for the accuracy.
        threshold = state.mean / 100 + state.temperature * math.log(1 - state.rng.random())
        return [Proposal.moving(state.current, move, threshold)]

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for proposal, score in zip(proposals, scores, strict=True):
            before = state.mean
            assert proposal.threshold is not None
            state.memory.remember(proposal.mask, len(proposal.move))
            if score.exact and score.value >= proposal.threshold:
                state.partition.make(proposal.move)
                state.memory.follow(proposal.move)
                state.current, state.value = proposal.mask, score.value
                state.accepted += 1
                state.sum, state.count = state.sum + 100 * score.value, state.count + 1
                state.mean = state.sum / state.count
            state.iteration += 1
            if state.iteration >= int(state.iterations):
                self._end_level(before if self.carry == "before" else state.mean)

    def _end_level(self, mean: float) -> None:
        state = self.state
        state.mean = state.sum = mean
        state.count, state.iteration = 1, 0
        state.level += 1
        state.temperature *= self.cooling
        state.iterations = min(state.iterations * 1.005, self.iterations_max)
        state.radius = max(1, int(0.99 * state.radius))
        if state.radius < 0.5 * state.peak:
            state.peak = state.radius = max(1, int(0.75 * state.peak))

    def metrics(self) -> dict[str, float]:  # noqa: D102
        state = self.state
        return {
            "current": state.value,
            "mean_accepted": state.mean / 100,
            "temperature": state.temperature,
            "radius": min(state.radius, state.partition.max_radius),
            "level": state.level,
            "accepted": state.accepted,
        }
