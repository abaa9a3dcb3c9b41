"""Regression of scores on the logarithms of layer widths, for searches of a few noisy scores such as trainings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.level_searcher import LevelSearcher, RankedUnits
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import numpy_generator

_SPREAD = 3.0  # largest log-odds of a layer's density against the others', of random candidates
_DRAWN = 0.03  # share of the candidates of the highest variance, of which one is drawn


@dataclass
class RegressionState:
    """State from which :class:`WidthRegression` resumes: the layer widths that are scored, and their scores."""

    rng: np.random.Generator
    start_is_due: bool  # whether the given start mask is still to be proposed
    asked: list[int] = field(default_factory=list)  # candidates that were proposed
    widths: list[np.ndarray] = field(default_factory=list)  # standardised logarithms of scored widths, (n_layers,)
    scores: list[float] = field(default_factory=list)


@dataclass
class WidthRegression(LevelSearcher):
    """Ridge regression of scores on the logarithms of layer widths; its result is the mask of highest predicted score.

    For scores that cost much and are noisy, such as trainings: the best of a few noisy scores is mostly luck, and a
    regression averages over all of them. Candidates are random widths that use up the budget. Scored are candidates of
    the highest variance of the prediction (a D-optimal design, Fedorov 1972), so scored masks are extreme, not good.
    ``predicted_best`` is the mask of the highest prediction within the budget, by dynamic programme, scored or not.

    Coefficients shrink towards equal positive ones: at equal cost, wide layers help, by the logarithm of their width.
    """

    candidates: int = 200
    """Number of random combinations of layer widths among which the search chooses those to score."""
    penalty: float = 5.0
    """Ridge penalty of the regression; its inputs, the logarithms of layer widths, are standardised."""
    prior: float = 0.6
    """Value towards which the penalty pulls coefficients, in standard deviations of scores / sqrt(number of layers)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2 or not self.penalty > 0 or self.prior < 0:
            raise InputError(
                f"width_regression: candidates {self.candidates}, penalty {self.penalty}, prior {self.prior}; needed "
                "are candidates >= 2, penalty > 0, prior >= 0"
            )

    def reset(self) -> None:  # noqa: D102
        super().reset()
        problem = self.problem
        self.state = RegressionState(numpy_generator(problem.seed, "width_regression"), problem.start is not None)
        ranked, rng = self._ranked(0), numpy_generator(problem.seed, "width_regression", "candidates")
        odds = rng.uniform(-_SPREAD, _SPREAD, (self.candidates, len(ranked.sizes)))
        drawn = [self._widths(ranked, row) for row in odds]
        self._kept = np.unique([self._widths(ranked, np.zeros(len(ranked.sizes))), *drawn], axis=0)
        logs = np.log(np.maximum(self._kept, 0.5))
        self._mean, self._deviation = logs.mean(0), np.maximum(logs.std(0), 1e-9)
        self._inputs = (logs - self._mean) / self._deviation
        self._waiting: list[np.ndarray] = []

    @staticmethod
    def _widths(ranked: RankedUnits, odds: np.ndarray) -> np.ndarray:
        """Kept units per layer, int64 (n_layers,), of densities sigmoid(odds - t), with the smallest t that fits."""
        levels = ranked.levels
        least = np.array([kept[0] for kept in levels.kept])

        def kept(shift: float) -> np.ndarray:
            return np.maximum((ranked.sizes / (1 + np.exp(shift - odds)) + 0.5).astype(np.int64), least)

        low, high = -20.0, 20.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if levels.cost(kept(middle)) <= levels.budget else (middle, high)
        return ranked.widened(kept(high), np.argsort(-odds).tolist())

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        state, problem = self.state, self.problem
        proposals: list[Proposal] = []
        self._waiting = []
        if state.start_is_due and problem.start is not None:
            state.start_is_due = False
            kept = np.array(list(problem.start.kept_per_layer().values()))
            proposals.append(Proposal.of(problem.start))
            self._waiting.append((np.log(np.maximum(kept, 0.5)) - self._mean) / self._deviation)
        while len(proposals) < n:
            place = self._next()
            state.asked.append(place)
            proposals.append(Proposal.of(self._ranked(len(state.asked)).mask_of(self._kept[place])))
            self._waiting.append(self._inputs[place])
        return proposals

    def _next(self) -> int:
        """One of the candidates of the highest variance of the prediction that were not proposed, if there are any."""
        state = self.state
        fresh = np.ones(len(self._inputs), dtype=bool)
        fresh[state.asked] = False
        if not fresh.any():
            return int(state.rng.integers(len(fresh)))
        inputs = np.column_stack([np.ones(len(self._inputs)), self._inputs])
        seen = [np.append(1.0, widths) for widths in (*state.widths, *self._waiting)]
        squares = np.eye(inputs.shape[1]) + sum((np.outer(row, row) for row in seen), np.zeros((inputs.shape[1],) * 2))
        variance = np.einsum("ij,ij->i", inputs, np.linalg.solve(squares, inputs.T).T)
        order = np.argsort(np.where(fresh, variance, -np.inf))
        return int(state.rng.choice(order[-max(1, round(_DRAWN * fresh.sum())) :]))

    def _coefficients(self) -> np.ndarray:
        """Coefficients of the standardised logarithms of the widths, float64 (n_layers,)."""
        widths, scores = np.array(self.state.widths), np.array(self.state.scores)
        centred, n = widths - widths.mean(0), widths.shape[1]
        prior = np.full(n, self.prior * scores.std() / math.sqrt(n))
        squares = centred.T @ centred + self.penalty * np.eye(n)
        residual = scores - scores.mean() - centred @ prior
        return prior + np.linalg.solve(squares, centred.T @ residual)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        for score, widths in zip(scores, self._waiting, strict=True):
            if score.exact and math.isfinite(score.value):
                self.state.widths.append(widths)
                self.state.scores.append(score.value)

    def predictions(self, kept: np.ndarray) -> np.ndarray:
        """Return n predicted scores, up to a constant; row i of ``kept`` (n, n_layers) has each layer's kept units."""
        return np.log(np.maximum(kept, 0.5)) @ (self._coefficients() / self._deviation)

    @property
    def predicted_best(self) -> Mask | None:
        """Return the mask of the problem's density with the highest predicted score; None before two scored masks."""
        if len(self.state.scores) < 2:
            return None
        ranked, slopes = self._ranked(0), self._coefficients() / self._deviation
        kept = ranked.levels.kept
        losses = [-slope * np.log(np.maximum(own, 0.5)) for slope, own in zip(slopes, kept, strict=True)]
        return ranked.mask(ranked.levels.best(losses), np.argsort(-slopes).tolist())
