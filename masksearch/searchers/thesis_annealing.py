"""Annealing exactly as published in the thesis "Heuristic Approach Towards Early Pruning of Neural Networks" (2020)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.move import Move
from masksearch.partition import Partition
from masksearch.searchers.base import Searcher
from masksearch.searchers.tabu import TabuMemory
from masksearch.seeds import numpy_generator, torch_generator
from masksearch.trial import Problem, Proposal, Score

__all__ = ["ThesisAnnealing"]

_FIRST_LEVEL_MEAN = 5.0  # percent
_SCALARS = (
    *("_radius", "_peak", "_temperature", "_iterations", "_level", "_iteration"),
    *("_mean", "_sum", "_count", "_value", "_accepted"),
)


@dataclass
class ThesisAnnealing(Searcher):
    """The published moves, radius, temperature, acceptance and memory. Made for accuracy scores in [0, 1].

    A move is accepted if its accuracy passes a running mean `a`, else with probability exp(-(a - accuracy) / T); `a` is
    the mean of the previous level's `a` and the accuracies accepted so far in this level. It is not the current mask's
    own score: with one scoring a level it stays at 5 % for 139 levels, so that everything is accepted. The radius is a
    sawtooth: x .99 a level, and back up to .75 of where it last peaked once it has halved. Ends by itself.

    Use :meth:`mlp` (42,706 scorings in 1,450 levels) or :meth:`cnn` (about 8,200 in 1,000).
    """

    levels: int  # temperature levels
    temperature_start: float  # accuracy units (1 = 100 %)
    cooling: float  # temperature x this, every level
    iterations_start: float  # scorings in the first level
    iterations_max: float  # and at most; x 1.005 every level
    memory: int  # masks remembered
    tries: int  # draws until an unknown mask is found; the last is scored regardless
    known: Literal["within_radius", "equal"]  # what counts as remembered: fewer than radius bits differ, or none
    carry: Literal["before", "after"]  # the level's mean passes on as it stood before or after its last scoring

    @classmethod
    def mlp(cls) -> "ThesisAnnealing":
        """The thesis' annealing for its MLP: 1,450 levels, 42,706 scorings."""
        return cls(1450, 0.006, 0.999, 1, 50, memory=50, tries=50, known="within_radius", carry="before")

    @classmethod
    def cnn(cls) -> "ThesisAnnealing":
        """The thesis' annealing for its CNN's filters: 1,000 levels, about 8,200 scorings."""
        return cls(1000, 0.005, 0.995, 2, 10, memory=60, tries=30, known="equal", carry="after")

    def start(self, problem: Problem) -> None:  # noqa: D102
        if isinstance(problem.density, Mapping):
            raise InputError(
                "thesis annealing: swaps units across layers, so a density per layer isn't held; give one density"
            )
        self.problem = problem
        self._rng = numpy_generator(problem.seed, "thesis_annealing")
        generator = torch_generator(problem.seed, "thesis_annealing", "start")
        self._current = problem.start or problem.random(generator)
        self._partition = Partition(self._current)
        self._memory = TabuMemory(self.memory, self._current)
        self._radius = self._peak = self._current.n_kept
        self._temperature = self.temperature_start
        self._iterations = self.iterations_start
        self._level, self._iteration = 0, 0
        self._mean = _FIRST_LEVEL_MEAN  # `a`, percent
        self._sum, self._count = self._mean, 1  # what `a` is the mean of
        self._value = math.nan  # of the current mask; the walk doesn't score where it starts
        self._accepted = 0

    @property
    def incumbent(self) -> Mask:  # noqa: D102
        return self._current

    def ask(self, n: int = 1) -> list[Proposal]:
        """One proposal: the published walk knows no batches."""
        if self._level == self.levels:
            return []
        reach = self._radius if self.known == "within_radius" else 1
        for _ in range(self.tries):
            move = self._partition.draw(self._radius, self._rng)
            if not self.problem.allows(self._partition.kept_after(move)):
                move = Move.nowhere()
            elif (self._memory.distances(move) >= reach).all():
                break
        # exp(-delta / T) > u, with delta = (a - accuracy) / 100, solved for the accuracy.
        threshold = self._mean / 100 + self._temperature * math.log(1 - self._rng.random())
        return [Proposal.moving(self._current, move, threshold)]

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        for proposal, score in zip(proposals, scores, strict=True):
            before = self._mean
            assert proposal.threshold is not None
            self._memory.remember(proposal.mask, len(proposal.move))
            if score.exact and score.value >= proposal.threshold:
                self._partition.make(proposal.move)
                self._memory.follow(proposal.move)
                self._current, self._value = proposal.mask, score.value
                self._accepted += 1
                self._sum, self._count = self._sum + 100 * score.value, self._count + 1
                self._mean = self._sum / self._count
            self._iteration += 1
            if self._iteration >= int(self._iterations):
                self._end_level(before if self.carry == "before" else self._mean)

    def _end_level(self, mean: float) -> None:
        self._mean = self._sum = mean
        self._count, self._iteration = 1, 0
        self._level += 1
        self._temperature *= self.cooling
        self._iterations = min(self._iterations * 1.005, self.iterations_max)
        self._radius = max(1, int(0.99 * self._radius))
        if self._radius < 0.5 * self._peak:
            self._peak = self._radius = max(1, int(0.75 * self._peak))

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "current": self._value,
            "mean_accepted": self._mean / 100,
            "temperature": self._temperature,
            "radius": min(self._radius, self._partition.max_radius),
            "level": self._level,
            "accepted": self._accepted,
        }

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "rng": self._rng.bit_generator.state,
            "partition": self._partition.state_dict(),
            "memory": self._memory.state_dict(),
            "scalars": {name: getattr(self, name) for name in _SCALARS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._rng.bit_generator.state = state["rng"]
        self._partition.load_state_dict(state["partition"])
        self._current = self._partition.mask()
        self._memory.load_state_dict(state["memory"])
        for name in _SCALARS:
            setattr(self, name, state["scalars"][name])
