"""Simulated annealing: swaps of a shrinking radius, a temperature measured from the scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.move import Move
from masksearch.partition import Partition
from masksearch.searchers.base import Searcher
from masksearch.searchers.tabu import TabuMemory
from masksearch.searchers.thesis_annealing import ThesisAnnealing
from masksearch.seeds import numpy_generator, torch_generator
from masksearch.space import Scope
from masksearch.table import choose
from masksearch.trial import Problem, Proposal, Score

__all__ = ["Annealing"]

_TRIES = 100  # draws of a move before an emptied layer or a known mask is put up with
_MEMORY_OF_SPREAD = 10  # probes over which the spread of worsening moves is averaged
_MEMORY_OF_ACCEPTANCE = 100  # moves over which the acceptance rate is averaged


@dataclass
class Annealing(Searcher):
    """Simulated annealing over masks of one density (Kirkpatrick et al. 1983; Hamming-limited swaps).

    A move swaps ``radius`` kept units against as many pruned ones, anywhere in the network. It is accepted if its score
    reaches ``current + temperature x ln(u)``, u uniform in (0, 1): Metropolis' rule, written as a threshold that is
    known before scoring. Radius and acceptance fall geometrically with the share of the budget that is used up.

    The temperature comes from the scores. Now and then a move is a probe: its exact score is asked for. If worsening
    probes lose s on average, and losses are about exponentially distributed, a temperature of s p / (1 - p) accepts a
    share p of them. So the temperature follows the objective's scale, and the radius, without being told.
    """

    radius_start: float = 0.01  # share of the largest possible swap, at the beginning
    radius_end: float = 0.0001  # and at the end; never less than one unit
    accept_start: float = 0.1  # share of worsening moves accepted at the beginning
    accept_end: float = 0.01  # and at the end
    temperature_start: float | None = None  # score units; with temperature_end in place of the measured temperature
    temperature_end: float | None = None  # score units
    probe_first: int = 20  # moves at the start that are all probes
    probe_every: int = 20  # after that, one move in so many
    tabu: int = 0  # masks remembered and not proposed again; costs tabu x n_units bytes
    scope: Scope = "global"  # of the random mask it starts from, where no warm start is given

    def __post_init__(self) -> None:
        for name in ("radius_start", "radius_end", "accept_start", "accept_end"):
            value = getattr(self, name)
            if not 0 < value <= 1 or (name.startswith("accept") and value == 1):
                raise InputError(f"annealing: {name} {value}; a share in (0, 1) is needed")
        given = [value for value in (self.temperature_start, self.temperature_end) if value is not None]
        if len(given) == 1 or any(value <= 0 for value in given):
            raise InputError(f"annealing: temperatures {given}; both must be given and positive, or neither")
        choose("scope of annealing", self.scope, list(get_args(Scope)))
        if self.probe_first < 1 or self.probe_every < 1 or self.tabu < 0:
            raise InputError("annealing: probe_first and probe_every must be at least 1, tabu at least 0")

    @staticmethod
    def thesis_mlp() -> ThesisAnnealing:
        """The published variant for the MLP: see :class:`ThesisAnnealing`."""
        return ThesisAnnealing.mlp()

    @staticmethod
    def thesis_cnn() -> ThesisAnnealing:
        """The published variant for the CNN: see :class:`ThesisAnnealing`."""
        return ThesisAnnealing.cnn()

    def start(self, problem: Problem) -> None:  # noqa: D102
        if isinstance(problem.density, Mapping):
            raise InputError(
                "annealing: swaps units across layers, so a density per layer isn't held; give one density"
            )
        self.problem = problem
        self._rng = numpy_generator(problem.seed, "annealing")
        generator = torch_generator(problem.seed, "annealing", "start")
        self._current = problem.start or problem.random(generator, self.scope)
        self._partition = Partition(self._current)
        self._tabu = TabuMemory(self.tabu, self._current) if self.tabu else None
        self._value = math.nan  # score of the current mask; NaN until it has been scored
        self._spread = math.nan  # mean loss of worsening probes, score units
        self._probes = 0  # worsening probes seen
        self._told, self._seconds = 0, 0.0
        self._acceptance = 1.0

    @property
    def incumbent(self) -> Mask:  # noqa: D102
        return self._current

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        if math.isnan(self._value):
            return [Proposal.of(self._current)]
        return [self._propose(self._told + i) for i in range(n)]

    def _propose(self, number: int) -> Proposal:
        move = self._draw()
        return Proposal.moving(self._current, move, None if self._is_probe(number) else self._bar())

    def _bar(self) -> float:
        """The score that the next move must reach: Metropolis' rule, u drawn from (0, 1]."""
        return self._value + self.temperature * math.log(1 - self._rng.random())

    def _draw(self) -> Move:
        allowed = Move.nowhere()
        for attempt in range(_TRIES):
            radius = self.radius if attempt < _TRIES // 2 else 1
            move = self._partition.draw(radius, self._rng)
            if not self.problem.allows(self._partition.kept_after(move)):
                continue
            if self._tabu is None or (self._tabu.distances(move) > 0).all():
                return move
            allowed = move
        return allowed

    def _is_probe(self, number: int) -> bool:
        measured = self.temperature_start is None
        return measured and (number <= self.probe_first or number % self.probe_every == 0)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        base, value = self._current, self._value
        for proposal, score in zip(proposals, scores, strict=True):
            self._told += 1
            self._seconds += score.seconds
            if math.isnan(self._value):
                # A start that can't be scored is left for the first mask that can.
                self._value = -math.inf if math.isnan(score.value) else score.value
                continue
            if self._tabu is not None:
                moved_on = self._current is not base
                distance = self._current.hamming(proposal.mask) if moved_on else len(proposal.move)
                self._tabu.remember(proposal.mask, distance)
            if proposal.threshold is None and score.exact:
                self._measure(value - score.value)
            # Proposals that were asked for together share a base: once one is taken, the others start from a past mask.
            bar = self._bar() if proposal.threshold is None else proposal.threshold
            taken = self._current is base and score.exact and score.value >= bar  # False for NaN
            self._acceptance += (taken - self._acceptance) / _MEMORY_OF_ACCEPTANCE
            if taken:
                self._partition.make(proposal.move)
                self._current, self._value = proposal.mask, score.value
                if self._tabu is not None:
                    self._tabu.follow(proposal.move)

    def _measure(self, loss: float) -> None:
        if loss > 0:  # False for NaN
            self._probes += 1
            weight = 1 / min(self._probes, _MEMORY_OF_SPREAD)
            self._spread = loss if self._probes == 1 else self._spread + weight * (loss - self._spread)

    @property
    def progress(self) -> float:
        """Share of the budget used up, in [0, 1]."""
        return min(1.0, self.problem.budget.spent(self._told, self._seconds))

    @property
    def radius(self) -> int:
        """Units dropped and units regrown by the next move."""
        share = self.radius_start * (self.radius_end / self.radius_start) ** self.progress
        return max(1, round(share * self._partition.max_radius))

    @property
    def temperature(self) -> float:
        """In score units; 0 before the first worsening probe."""
        if self.temperature_start is not None and self.temperature_end is not None:
            return self.temperature_start * (self.temperature_end / self.temperature_start) ** self.progress
        if not self._probes:
            return 0.0
        accept = self.accept_start * (self.accept_end / self.accept_start) ** self.progress
        return self._spread * accept / (1 - accept)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "current": self._value,
            "temperature": self.temperature,
            "radius": self.radius,
            "acceptance_rate": self._acceptance,
        }

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "rng": self._rng.bit_generator.state,
            "partition": self._partition.state_dict(),
            "tabu": self._tabu.state_dict() if self._tabu else None,
            "value": self._value,
            "spread": self._spread,
            "probes": self._probes,
            "told": self._told,
            "seconds": self._seconds,
            "acceptance": self._acceptance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._rng.bit_generator.state = state["rng"]
        self._partition = Partition.from_state(self.problem.space, state["partition"])
        self._current = self._partition.mask()
        if self._tabu is not None:
            self._tabu.load_state_dict(state["tabu"])
        self._value, self._spread, self._probes = state["value"], state["spread"], state["probes"]
        self._told, self._seconds, self._acceptance = state["told"], state["seconds"], state["acceptance"]
