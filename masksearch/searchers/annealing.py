"""Simulated annealing: swaps of a shrinking radius, a temperature measured from the scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from masksearch.errors import InputError
from masksearch.layered_partition import LayeredPartition, RankedLayers
from masksearch.mask import Mask
from masksearch.partition import Partition
from masksearch.searchers.base import Searcher
from masksearch.searchers.chain import Chain, Ground
from masksearch.searchers.thesis_annealing import ThesisAnnealing
from masksearch.seeds import numpy_generator, torch_generator
from masksearch.space import OnEmpty, Scope
from masksearch.table import choose
from masksearch.trial import Problem, Proposal, Score

__all__ = ["Annealing"]

_MEMORY_OF_SPREAD = 10  # probes over which the spread of worsening moves is averaged
_MEMORY_OF_ACCEPTANCE = 100  # moves over which the acceptance rate is averaged, and an adapted radius is moved
_SCALARS = (
    *("_spread", "_probes", "_told", "_seconds", "_acceptance", "_adapted"),
    *("_best", "_best_at", "_since", "_from", "_met"),
)
_STRETCH = 100  # scorings in a row of one chain, where proposals come one by one: scorers are fast on one base mask
_MEETINGS = 20  # of chains, in a search


@dataclass
class Annealing(Searcher):
    """Simulated annealing over masks of one density (Kirkpatrick et al. 1983; Hamming-limited swaps).

    A move swaps ``radius`` kept units against as many pruned ones: anywhere in the network, or, a share ``within`` of
    the moves, unit against unit of the same layer. With a density per layer, all moves stay within layers. A move is
    accepted if its score reaches ``current + temperature x ln(u)``, u uniform in (0, 1): Metropolis' rule, written as a
    threshold that is known before scoring. Radius and acceptance fall geometrically with the share of the budget that
    is used up; or the radius grows and shrinks so that a share ``acceptance`` of all moves is accepted.

    The temperature comes from the scores. Now and then a move is a probe: its exact score is asked for. If worsening
    probes lose s on average, and losses are about exponentially distributed, a temperature of s p / (1 - p) accepts a
    share p of them. So the temperature follows the objective's scale, and the radius, without being told.

    ``densities`` searches nothing but the layers' densities: units of a layer rank by the problem's first saliency, or
    in a random order, and a move prunes the last units that one layer keeps for the next ones of another, few or many;
    there is no radius to choose.

    Several ``chains`` walk in turn, or side by side where proposals come in batches. Twenty times in a search the one
    of lowest score goes on from the mask of the highest (Ram et al. 1996). With ``reheat_after``, a search that hasn't
    found a better mask for so long goes halfway back in its schedules (Osman 1993), which then fall faster.
    """

    radius_start: float = 0.01  # share of the largest possible swap, at the beginning
    radius_end: float = 0.0001  # and at the end; never less than one unit
    accept_start: float = 0.1  # share of worsening moves accepted at the beginning
    accept_end: float = 0.01  # and at the end
    temperature_start: float | None = None  # score units; with temperature_end in place of the measured temperature
    temperature_end: float | None = None  # score units
    acceptance: float | None = None  # share of all moves accepted that the radius is adapted to, in place of radius_end
    within: float = 0.0  # share of moves that keep the layers' densities; all do where the problem has one per layer
    densities: bool = False  # search the layers' densities alone, units ranked by the first saliency, or at random
    chains: int = 1  # walks that share the budget
    reheat_after: float | None = None  # share of the budget without a better mask that makes it reheat; None: never
    probe_first: int = 20  # moves at the start that are all probes
    probe_every: int = 20  # after that, one move in so many
    tabu: int = 0  # masks remembered and not proposed again; costs tabu x n_units bytes
    scope: Scope = "global"  # of the mask it starts from, where no warm start is given

    def __post_init__(self) -> None:
        for name in ("radius_start", "radius_end", "accept_start", "accept_end"):
            value = getattr(self, name)
            if not 0 < value <= 1 or (name.startswith("accept") and value == 1):
                raise InputError(f"annealing: {name} {value}; a share in (0, 1) is needed")
        given = [value for value in (self.temperature_start, self.temperature_end) if value is not None]
        if len(given) == 1 or any(value <= 0 for value in given):
            raise InputError(f"annealing: temperatures {given}; both must be given and positive, or neither")
        choose("scope of annealing", self.scope, list(get_args(Scope)))
        for name in ("acceptance", "reheat_after"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"annealing: {name} {value}; a share in (0, 1) is needed")
        if not 0 <= self.within <= 1:
            raise InputError(f"annealing: within {self.within}; a share in [0, 1] is needed")
        if self.densities and (self.within or self.acceptance is not None):
            raise InputError("annealing: within or acceptance; moves of densities go between layers and have no radius")
        if self.chains < 1:
            raise InputError(f"annealing: {self.chains} chains; at least 1 is needed")
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
        self.problem = problem
        self._rng = numpy_generator(problem.seed, "annealing")
        self._generator = torch_generator(problem.seed, "annealing", "start")
        self._chains = [self._chain() for _ in range(self.chains)]
        self._asked: list[int] = []  # of every proposal that waits for its score, the chain
        self._spread = math.nan  # mean loss of worsening probes, score units
        self._probes = 0  # worsening probes seen
        self._told, self._seconds = 0, 0.0
        self._acceptance = 1.0
        self._adapted = self.radius_start  # the radius that follows the acceptance, a share as radius_start is
        self._best, self._best_at = -math.inf, 0.0  # best score, and the progress at which it was found
        self._met = 0  # meetings of the chains that are over
        self._since, self._from = 0.0, 0.0  # progress at the last reheating, and where schedules went on from then

    def _chain(self) -> Chain:
        if self.densities:
            return Chain(self._densities(), self.tabu)
        current = self.problem.start or self.problem.random(self._generator, self.scope)
        within = 1.0 if isinstance(self.problem.density, Mapping) else self.within
        return Chain(LayeredPartition(current, within) if within else Partition(current), self.tabu)

    def _densities(self) -> Ground:
        problem, saliencies = self.problem, list(self.problem.saliencies.values())
        if isinstance(problem.density, Mapping):
            raise InputError("annealing: densities per layer are given, so there are none to search; give one density")
        drawn = not saliencies
        saliency = torch.rand(problem.space.n_units, generator=self._generator) if drawn else saliencies[0]
        on_empty: OnEmpty = "keep_one" if problem.on_empty == "raise" else problem.on_empty
        current = problem.start or problem.space.top_k(
            saliency, problem.density, self.scope, self._generator, on_empty, problem.hold
        )
        return RankedLayers(current, saliency, self._generator)

    @property
    def incumbent(self) -> Mask:
        """The first chain's mask."""
        return self._chains[0].current

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        unscored = [i for i, chain in enumerate(self._chains) if math.isnan(chain.value)]
        if unscored:
            self._asked = unscored[:n]
            return [Proposal.of(self._chains[i].current) for i in self._asked]
        turn = self._told // _STRETCH
        self._asked = sorted((turn + i) % self.chains for i in range(n))
        return [self._propose(self._chains[chain], self._told + i) for i, chain in enumerate(self._asked)]

    def _propose(self, chain: Chain, number: int) -> Proposal:
        move = chain.draw(self.radius, self.problem, self._rng)
        return Proposal.moving(chain.current, move, None if self._is_probe(number) else self._bar(chain))

    def _bar(self, chain: Chain) -> float:
        """The score that the next move must reach: Metropolis' rule, u drawn from (0, 1]."""
        return chain.value + self.temperature * math.log(1 - self._rng.random())

    def _is_probe(self, number: int) -> bool:
        measured = self.temperature_start is None
        return measured and (number <= self.probe_first or number % self.probe_every == 0)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        before = [(chain.current, chain.value) for chain in self._chains]
        for proposal, score, place in zip(proposals, scores, self._asked, strict=True):
            chain, (base, value) = self._chains[place], before[place]
            self._told += 1
            self._seconds += score.seconds
            if score.exact and score.value > self._best:  # False for NaN
                self._best, self._best_at = score.value, self.progress
            if math.isnan(chain.value):
                # A start that can't be scored is left for the first mask that can.
                chain.value = -math.inf if math.isnan(score.value) else score.value
                continue
            # Proposals that were asked for together share a base: once one is taken, the others start from a past mask.
            moved_on = chain.current is not base
            chain.remember(proposal, moved_on)
            if proposal.threshold is None and score.exact:
                self._measure(value - score.value)
            bar = self._bar(chain) if proposal.threshold is None else proposal.threshold
            taken = not moved_on and score.exact and score.value >= bar  # False for NaN
            self._acceptance += (taken - self._acceptance) / _MEMORY_OF_ACCEPTANCE
            if not moved_on and self.acceptance is not None:
                self._adapt(taken, self.acceptance)
            if taken:
                chain.take(proposal, score.value)
        self._meet()
        self._reheat()

    def _measure(self, loss: float) -> None:
        if 0 < loss < math.inf:  # False for NaN
            self._probes += 1
            weight = 1 / min(self._probes, _MEMORY_OF_SPREAD)
            self._spread = loss if self._probes == 1 else self._spread + weight * (loss - self._spread)

    def _adapt(self, taken: bool, wanted: float) -> None:
        """A larger radius after a move that was taken, a smaller one after others: they balance at the rate wanted."""
        factor = math.exp((taken - wanted) / (_MEMORY_OF_ACCEPTANCE * wanted))
        least = 1 / max(1, self._chains[0].ground.max_radius)
        self._adapted = min(1.0, max(least, self._adapted * factor))

    def _meet(self) -> None:
        """Where the chains' time has come, the last of them goes on from the first."""
        meetings = int(_MEETINGS * self.progress)
        if meetings > self._met:
            self._met = meetings
            ranking = sorted(self._chains, key=lambda chain: -math.inf if math.isnan(chain.value) else chain.value)
            if ranking[0].value < ranking[-1].value:
                ranking[0].go_on_from(ranking[-1])

    def _reheat(self) -> None:
        waited = self.progress - max(self._best_at, self._since)
        if self.reheat_after is not None and waited >= self.reheat_after:
            self._since, self._from = self.progress, self.cooled / 2

    @property
    def progress(self) -> float:
        """Share of the budget used up, in [0, 1]."""
        return min(1.0, self.problem.budget.spent(self._told, self._seconds))

    @property
    def cooled(self) -> float:
        """Where in their schedules radius and acceptance are, in [0, 1]: the progress, unless it was reheated."""
        if self._since >= 1:
            return 1.0
        return self._from + (1 - self._from) * (self.progress - self._since) / (1 - self._since)

    @property
    def radius(self) -> int:
        """Units dropped and units regrown by the next move; with ``densities``, at most."""
        if self.densities:
            return max(1, self._chains[0].ground.max_radius)
        share = self.radius_start * (self.radius_end / self.radius_start) ** self.cooled
        return max(1, round((share if self.acceptance is None else self._adapted) * self._chains[0].ground.max_radius))

    @property
    def temperature(self) -> float:
        """In score units; 0 before the first worsening probe."""
        if self.temperature_start is not None and self.temperature_end is not None:
            return self.temperature_start * (self.temperature_end / self.temperature_start) ** self.cooled
        if not self._probes:
            return 0.0
        accept = self.accept_start * (self.accept_end / self.accept_start) ** self.cooled
        return self._spread * accept / (1 - accept)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "current": self._chains[0].value,
            "temperature": self.temperature,
            "radius": self.radius,
            "acceptance_rate": self._acceptance,
        }

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "rng": self._rng.bit_generator.state,
            "chains": [chain.state_dict() for chain in self._chains],
            "scalars": {name: getattr(self, name) for name in _SCALARS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._rng.bit_generator.state = state["rng"]
        for chain, saved in zip(self._chains, state["chains"], strict=True):
            chain.load_state_dict(saved)
        for name in _SCALARS:
            setattr(self, name, state["scalars"][name])
