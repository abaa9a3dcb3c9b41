"""Simulated annealing on an energy, an estimate of a mask's damage, with coefficients fitted to a few scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import nnls

from masksearch.core.energy_protocol import Energy, removal_order
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.energy_walk import Walk
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator, torch_generator

_FIRST = 8  # moves of each walk of a round before the first mask is scored
_MEASURED = 256  # random swaps from which the temperatures are measured
_TURN = 256  # moves of one walk between two exchanges of temperatures, at most
_ROUNDS = 4  # rounds of a search without a limit of scorings
_SHAKEN = 8  # random moves between two further masks, where the walks have passed too few new ones
_DRAWS = 4  # further masks that are drawn for every one that is missing
_LEAST_SCORES = 4  # scores from which coefficients are fitted


@dataclass
class Passed:
    """A mask that an annealing walk has visited, with the terms whose weighted sum estimates its damage."""

    mask: Mask
    terms: np.ndarray

    @classmethod
    def by(cls, walk: Walk) -> "Passed":
        """Return the current mask of a walk, together with the terms of its estimated damage (energy)."""
        return cls(walk.mask(), walk.state.terms())


@dataclass
class EnergyAnnealingState:
    """State from which :class:`EnergyAnnealing` resumes: random generator, coefficients, best and scored masks."""

    rng: np.random.Generator  # draws moves and acceptances
    leader: Mask  # mask of the highest score, where the walks of a round begin
    best: Passed  # mask of the lowest energy with the coefficients of its round
    coefficients: np.ndarray  # of the energy's terms, float64 (n_terms,)
    waiting: list[Passed]  # masks that wait for their scores
    seen: list[int]  # hashes of all proposed masks
    terms: list[np.ndarray]  # of every scored mask, float64 (n_terms,)
    scores: list[float]
    temperature: float = 0.0  # of the coldest walk
    acceptance_rate: float = 0.0  # share of the last round's moves that were accepted
    correlation: float = 0.0  # of scores and minus the energies that the fitted coefficients give


@dataclass
class EnergyAnnealing(Searcher):
    """Simulated annealing on an estimate (energy) of the damage by pruning, which a few scored masks calibrate.

    The problem has an ``energy``, a sum of terms that is updated in microseconds per move; for filters it is
    :func:`masksearch.repair_energy`. Several walks, each at its own temperature, swap units of one layer, which keeps
    all widths, or exchange units between layers and fill what the budget allows. Walks at neighbouring temperatures
    change places by Metropolis' rule (parallel tempering, Geyer 1991). The temperatures follow from the mean increase
    of the energy by random swaps: the hottest walk accepts the share ``accept_hot`` of increases of this size, the
    coldest ``accept_cold``.

    After each round of annealing, ``states`` masks are scored: that of the lowest energy, and others that the walks
    have passed on their way. Then the coefficients of the terms are fitted to all scores by non-negative least squares,
    and the walks of the next round begin at the mask of the highest score. The budget is the number of scorings;
    ``moves`` are divided over the rounds. A search without a start mask begins at that of greedy removal on the energy.
    """

    needs_energy: ClassVar[bool] = True

    moves: int = 100_000
    """Number of small changes of a mask (moves) that all walks make together in the whole search."""
    replicas: int = 4
    """Number of annealing walks from mask to mask, each at its own temperature."""
    exchanges: float = 0.1
    """Share of the moves that exchange units between layers; there are none if every layer has a given density."""
    states: int = 30
    """Number of masks that are scored after each round of annealing, to calibrate the estimate of the damage."""
    accept_hot: float = 0.2
    """Probability that the hottest walk accepts a move that increases the estimated damage by an average amount."""
    accept_cold: float = 0.001
    """Probability that the coldest walk accepts a move that increases the estimated damage by an average amount."""

    def __post_init__(self) -> None:
        for name in ("moves", "replicas", "states"):
            if getattr(self, name) < 1:
                raise InputError(f"energy_annealing: {name} {getattr(self, name)}; at least 1 is needed")
        if not 0 <= self.exchanges <= 1:
            raise InputError(f"energy_annealing: exchanges {self.exchanges}; a share in [0, 1] is needed")
        if not 0 < self.accept_cold <= self.accept_hot < 1:
            raise InputError(
                f"energy_annealing: accept_cold {self.accept_cold}, accept_hot {self.accept_hot}; shares in (0, 1) "
                "with accept_cold <= accept_hot are needed"
            )

    def reset(self) -> None:  # noqa: D102
        problem, space = self.problem, self.problem.space
        if space.swap_group:
            raise InputError(
                f"energy_annealing: it can't change masks of this {space.describe()}; give another searcher"
            )
        energy = self._energy
        self.generator = torch_generator(problem.seed, "energy_annealing", "start")
        start = problem.start
        if start is None:
            saliency = torch.empty(space.n_units, dtype=torch.float64)
            saliency[removal_order(energy, space, space.full())] = torch.arange(space.n_units, dtype=torch.float64)
            start = problem.top_units(saliency, generator=self.generator)
        passed = Passed(start, energy.start(start).terms())
        rng, coefficients = numpy_generator(problem.seed, "energy_annealing"), np.ones(len(energy.names))
        self.state = EnergyAnnealingState(rng, start, passed, coefficients, [], [], [], [])

    @property
    def _energy(self) -> Energy:
        if self.problem.energy is None:
            raise InputError(
                "energy: none is given, and energy_annealing needs an energy of masks; give "
                "energy=ms.repair_energy(model, space, inputs) to ms.search"
            )
        return self.problem.energy

    # Propose: a round of annealing, and then its masks, up to n per call.

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        if not self.state.waiting:
            self._anneal()
        return [Proposal.of(passed.mask) for passed in self.state.waiting[:n]]

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for passed, score in zip(state.waiting, scores, strict=False):
            if score.exact and math.isfinite(score.value):
                if score.value > max(state.scores, default=-math.inf):
                    state.leader = passed.mask
                state.terms.append(passed.terms)
                state.scores.append(score.value)
        del state.waiting[: len(proposals)]
        if not state.waiting:
            self._fit()

    # A round: the walks take turns from the mask of the highest score. Masks that they pass wait for scores.

    def _anneal(self) -> None:
        state, scorings = self.state, self.problem.budget.scorings
        n_states = self.states if scorings is None else min(self.states, scorings)
        n_rounds = _ROUNDS if scorings is None else math.ceil(scorings / n_states)
        walks = [self._walk(state.leader) for _ in range(self.replicas)]
        passed: list[Passed] = []
        starts = [] if state.seen else [state.best]
        if walks[0].is_stuck:
            state.waiting = [state.best]
            return
        ladder = self._ladder(walks[0])
        lowest, best = float(state.coefficients @ state.best.terms), state.best.mask
        # Moves of one walk until each mask: masks near the start of the round are as many as those near its end.
        moves, done = max(1, self.moves // (n_rounds * len(walks))), 0
        every = np.geomspace(moves, min(_FIRST, moves), n_states)[::-1]
        for number, due in enumerate(every.round().astype(int).tolist()):
            while done < due:
                turn = min(_TURN, due - done)
                for walk, temperature in zip(walks, ladder, strict=True):
                    self._turn(walk, temperature, turn)
                    if walk.state.value < lowest:
                        lowest, best = walk.state.value, walk.mask()
                self._exchange_temperatures(walks, ladder)
                done += turn
            passed.append(Passed.by(walks[number % len(walks)]))
        state.temperature = ladder[0]
        state.acceptance_rate = sum(walk.accepted for walk in walks) / (done * len(walks))
        polished = self._walk(best)
        if self.exchanges:
            polished.fill()
        polished.descend()
        state.best = Passed.by(polished)
        state.waiting = self._new([*starts, state.best, *passed], walks[-1], n_states)

    def _walk(self, mask: Mask) -> Walk:
        return Walk(self.problem, self._energy.start(mask, self.state.coefficients), self.state.rng)

    def _turn(self, walk: Walk, temperature: float, moves: int) -> None:
        """Try some moves of one walk, with their share of exchanges."""
        exchanges = self.state.rng.binomial(moves, self.exchanges) if walk.can_exchange else 0
        left = moves - exchanges
        while left > 0 and walk.can_swap:
            left -= walk.swap(temperature, left)
        for _ in range(exchanges):
            walk.exchange(temperature)

    def _ladder(self, walk: Walk) -> list[float]:
        """Return the temperatures of the walks, coldest first, from the mean increase of the energy by swaps."""
        rises = walk.rises(_MEASURED)
        spread = float(rises.mean()) if len(rises) else 0.0
        shares = np.geomspace(self.accept_cold, self.accept_hot, self.replicas)
        return [float(spread * share / (1 - share)) for share in shares]

    def _exchange_temperatures(self, walks: list[Walk], ladder: Sequence[float]) -> None:
        """Exchange neighbouring walks in the list by Metropolis' rule, hottest first."""
        for hot in range(len(walks) - 1, 0, -1):
            if ladder[hot - 1] > 0:
                gain = walks[hot - 1].state.value - walks[hot].state.value
                chance = gain * (1 / ladder[hot - 1] - 1 / ladder[hot])
                if math.log(1 - self.state.rng.random()) <= chance:
                    walks[hot - 1], walks[hot] = walks[hot], walks[hot - 1]

    def _new(self, passed: Sequence[Passed], walk: Walk, n: int) -> list[Passed]:
        """Return up to n masks that have not been proposed; random moves of ``walk`` make missing ones."""
        state, seen = self.state, set(self.state.seen)
        new = {one.mask.hash: one for one in passed if one.mask.hash not in seen}
        for _ in range(_DRAWS * n):
            if len(new) >= n:
                break
            self._turn(walk, math.inf, _SHAKEN)
            one = Passed.by(walk)
            if one.mask.hash not in seen:
                new[one.mask.hash] = one
        chosen = list(new.values())[:n]
        state.seen += [one.mask.hash for one in chosen]
        return chosen or [state.best]

    # The fit: scores = constant - sum of coefficient x term. Coefficients are at least 0, and near their mean: their
    # deviation from it counts as much as one of the same multiple of the scores' residual deviation.

    def _fit(self) -> None:
        state = self.state
        if len(state.scores) < _LEAST_SCORES:
            return
        terms, losses = np.array(state.terms), -np.array(state.scores)
        terms, losses = terms - terms.mean(0), losses - losses.mean()
        total = terms.sum(1)
        slope = float(total @ losses) / max(float(total @ total), 1e-300)
        if slope <= 0:  # scores that the energy does not explain say nothing about coefficients
            state.coefficients, state.correlation = np.ones(terms.shape[1]), _correlation(total, losses)
            return
        deviation = float(np.sqrt(((losses - slope * total) ** 2).mean())) + 1e-12 * float(np.abs(losses).max())
        rows = np.concatenate([terms * slope / deviation, np.eye(terms.shape[1])])
        state.coefficients, _ = nnls(rows, np.concatenate([losses / deviation, np.ones(terms.shape[1])]))
        state.correlation = _correlation(terms @ state.coefficients, losses)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        state = self.state
        return {
            "energy": float(state.coefficients @ state.best.terms),
            "temperature": state.temperature,
            "acceptance_rate": state.acceptance_rate,
            "correlation": state.correlation,
        }


def _correlation(energies: np.ndarray, losses: np.ndarray) -> float:
    norm = float(np.linalg.norm(energies) * np.linalg.norm(losses))
    return float(energies @ losses) / norm if norm else 0.0
