"""Evolution of layers' densities by level switches, with early selection on shares of the examples (EvoPress)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.core.width_levels import Levels
from masksearch.searchers.level_searcher import LevelSearcher
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator

_SWITCHES = 3  # most switches of a child: the smaller of two draws from 1 to this number


@dataclass
class SwitchState:
    """State from which :class:`LevelSwitches` resumes: the parent mask, and the child masks of this generation.

    A mask is an int64 array (n_layers + 1,): the layers' levels, and the number of the random order of the units, which
    is used if the problem has no saliency.
    """

    rng: np.random.Generator
    parent: np.ndarray
    start_is_due: bool  # whether the given start mask is still to be proposed
    value: float = math.nan  # score of the parent on all examples; NaN: not scored
    generation: int = 0
    step: int = 0  # of the selection
    waiting: list[np.ndarray] = field(default_factory=list)  # children that this step has to score
    scored: list[tuple[float, np.ndarray]] = field(default_factory=list)  # children with scores of this step


@dataclass
class LevelSwitches(LevelSearcher):
    """Evolve layers' densities: children raise some and lower others, the best survive (Sieberling et al. 2025).

    The search of EvoPress. Every generation has some children. All are scored on a small share of the examples, the
    best of them on more, and the last on all. The last replaces the parent unless its score is lower. Scores of
    shares are never the best of a search, and each counts as one scoring of the budget.

    A child lowers as many random layers as its raised layers need, and is raised where a level then fits. In a union
    space, a block is a layer of two levels, and the first parent is the mask of the ranking of all units. Under a
    budget of MACs or parameters, its first child is the ranking's mask with the scope "knapsack".
    """

    takes_blocks = True

    children: tuple[int, ...] = (16, 4, 1)
    """Numbers of children that are scored in the successive selection steps of a generation."""
    shares: tuple[float, ...] = (0.0625, 0.25, 1.0)
    """Shares of the examples on which the successive selection steps score their children; the last one is 1.0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = list(zip(self.children, self.shares, strict=False))
        falling = all(a >= b for a, b in zip(self.children, self.children[1:], strict=False))
        if len(self.children) != len(self.shares) or not steps or not falling or min(self.children) < 1:
            raise InputError(
                f"children: {self.children} for shares {self.shares}; give one number per share, in falling order"
            )
        if self.shares[-1] != 1 or not all(0 < share <= 1 for share in self.shares):
            raise InputError(f"shares: {self.shares}; shares in (0, 1] are needed, and the last one must be 1.0")

    def reset(self) -> None:  # noqa: D102
        super().reset()
        rng = numpy_generator(self.problem.seed, "level_switches")
        self.state = SwitchState(rng, np.append(self._ranked(0).start(), 0), self.problem.start is not None)
        if self.problem.space.nested and self.problem.hold != "units":
            # Heads and neurons cost very different numbers of MACs: either start can be much better than the other.
            self.state.step = len(self.children) - 1
            self.state.waiting = [np.append(self._ranked(0).start("knapsack"), 0)]
        self._asked: list[np.ndarray | None] = []  # what the proposals are; None: the start mask

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        state = self.state
        if state.start_is_due and self.problem.start is not None:
            state.start_is_due, self._asked = False, [None]
            return [Proposal.of(self.problem.start)]
        if math.isnan(state.value):
            self._asked = [state.parent]
            return [Proposal.of(self._mask(state.parent))]
        if not state.waiting and not state.scored:
            first = 1 + state.generation * self.children[0]
            levels = self._ranked(0).levels
            state.waiting = [np.append(self._child(levels), first + i) for i in range(self.children[0])]
        chosen, state.waiting = state.waiting[:n], state.waiting[n:]
        self._asked = list(chosen)
        return [replace(Proposal.of(self._mask(child)), share=self.shares[state.step]) for child in chosen]

    def _mask(self, child: np.ndarray) -> Mask:
        return self._ranked(int(child[-1])).mask(child[:-1])

    def _child(self, levels: Levels) -> np.ndarray:
        """The parent's levels after 1 to 3 random layers went up, and others down until they fit."""
        rng, child = self.state.rng, self.state.parent[:-1].copy()
        for _ in range(rng.integers(1, _SWITCHES + 1, 2).min()):
            up = rng.permutation(np.flatnonzero(child < levels.top))[:1]
            child[up] += 1
            for down in rng.permutation(np.flatnonzero(child)):
                while down not in up and child[down] and not levels.fits(child):
                    child[down] -= 1
        if not levels.fits(child):
            return self.state.parent[:-1]
        for layer in rng.permutation(len(child)):
            higher = child.copy()
            higher[layer] += 1
            if higher[layer] <= levels.top[layer] and levels.fits(higher):
                child = higher
        return child

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for child, score in zip(self._asked, scores, strict=True):
            value = -math.inf if math.isnan(score.value) or not score.exact else score.value
            if child is None:
                continue
            if math.isnan(state.value):
                state.value = value
            else:
                state.scored.append((value, child))
        if not state.scored or state.waiting:
            return
        state.scored.sort(key=lambda item: -item[0])
        if state.step + 1 < len(self.children):
            state.step += 1
            state.waiting = [child for _, child in state.scored[: self.children[state.step]]]
        else:
            value, child = state.scored[0]
            if value >= state.value:
                state.parent, state.value = child, value
            state.step, state.generation = 0, state.generation + 1
        state.scored = []

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"current": self.state.value, "generation": self.state.generation}
