"""Allocation of densities by one allowed loss for all layers, from scores of each layer at each density (FastNAS)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.level_searcher import LevelSearcher, RankedUnits
from masksearch.utils.errors import InputError


@dataclass
class ToleranceState:
    """State from which :class:`OneTolerance` resumes: by how much pruning single layers has lowered the score."""

    start_is_due: bool  # whether the given start mask is still to be proposed
    round: int = 0  # number of finished allocations
    losses: list[float] = field(default_factory=list)  # score of the full mask minus those of the probes, in order
    full: float = math.nan  # score of the full mask


@dataclass
class OneTolerance(LevelSearcher):
    """Prune each layer as far as its loss of score stays below a tolerance, equal for all layers (FastNAS).

    The search of NVIDIA ModelOpt's FastNAS. First the full mask is scored, then masks that prune one layer to one of
    its levels (probes, which break the density and are never the best). A layer's losses are made monotone. The
    smallest tolerance at which the layers' lowest levels fit the budget makes the mask. The search then ends; without
    saliencies it starts again with another random order of the units.

    A budget of n scorings allows (n - 2) / layers levels per layer.
    """

    def reset(self) -> None:  # noqa: D102
        super().reset()
        self.state = ToleranceState(self.problem.start is not None)
        scorings, layers = self.problem.budget.scorings, len(self.problem.space.layers)
        self._levels = self.levels if scorings is None else min(self.levels, (scorings - 2) // layers)
        if self._levels < 1:
            raise InputError(
                f"budget: {scorings} scorings; one tolerance scores {layers} layers at one level each, a mask of all "
                f"units and the result, so at least {layers + 2} are needed"
            )
        self._asked: list[str] = []

    def _probes(self, ranked: RankedUnits) -> list[tuple[int, int]]:
        """(layer, level) of all masks that prune one layer, as many levels per layer as the budget allows."""
        probes = []
        for layer, top in enumerate(ranked.levels.top):
            chosen = np.unique(np.linspace(0, top, self._levels + 1)[:-1].astype(int))
            probes += [(layer, int(level)) for level in chosen if level < top]
        return probes

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        state, proposals = self.state, []
        self._asked = []
        if state.start_is_due and self.problem.start is not None:
            state.start_is_due = False
            proposals, self._asked = [Proposal.of(self.problem.start)], ["start"]
        if state.round and self.problem.saliencies:
            return proposals
        ranked = self._ranked(state.round)
        probes, done = self._probes(ranked), len(state.losses)
        if math.isnan(state.full) and len(proposals) < n:
            proposals.append(replace(Proposal.of(self.problem.space.full()), probe=True))
            self._asked.append("full")
        for layer, level in probes[done : done + n - len(proposals)]:
            kept = ranked.sizes.copy()
            kept[layer] = ranked.levels.kept[layer][level]
            proposals.append(replace(Proposal.of(ranked.exactly(kept)), probe=True))
            self._asked.append("probe")
        if done == len(probes) and not proposals:
            proposals, self._asked = [Proposal.of(self._allocated(ranked, probes))], ["result"]
        return proposals

    def _allocated(self, ranked: RankedUnits, probes: Sequence[tuple[int, int]]) -> Mask:
        """The mask of the smallest tolerance that fits the budget."""
        levels, losses = ranked.levels, []
        measurements = np.array(self.state.losses)
        finite = measurements[np.isfinite(measurements)]
        measurements[~np.isfinite(measurements)] = finite.max(initial=0.0) + 1  # a mask without a score comes last
        for layer, top in enumerate(levels.top):
            own = [i for i, (place, _) in enumerate(probes) if place == layer]
            measured = {probes[i][1]: measurements[i] for i in own}
            curve = np.interp(np.arange(top + 1), [*measured, top], [*measured.values(), 0.0])
            losses.append(np.maximum.accumulate(np.maximum(curve, 0.0)[::-1])[::-1])  # higher levels lose no more

        def lowest(tolerance: float) -> np.ndarray:
            return np.array([int(np.argmax(loss <= tolerance)) for loss in losses])

        tolerances = np.unique(np.concatenate(losses))
        low, high = 0, len(tolerances) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if levels.fits(lowest(tolerances[middle])) else (middle + 1, high)
        return ranked.mask(lowest(tolerances[low]))

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for kind, score in zip(self._asked, scores, strict=True):
            if kind == "full":
                state.full = score.value if math.isfinite(score.value) else 0.0
            elif kind == "probe":
                state.losses.append(state.full - score.value if math.isfinite(score.value) else math.inf)
            elif kind == "result":
                state.round, state.losses = state.round + 1, []
