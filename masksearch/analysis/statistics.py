"""Statistics over seeds: 95 % intervals; paired comparisons by Wilcoxon's test, Holm's correction, wins and ranks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from masksearch.utils.errors import InputError
from masksearch.utils.number_text import number_text

INTERVALS = "mean ± 95 % interval over seeds; of two seeds, mean (± half of their difference)"
"""What :meth:`Estimate.text` shows, in words for captions of tables whose rows may have different numbers of seeds."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, with the half width of its 95 % interval."""

    mean: float
    half_width: float  # of the 95 % interval (Student's t); NaN with fewer than two values
    n: int
    half_difference: float | None = None  # of exactly two values

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate":
        """Return the mean and the 95 % interval of values, one per seed; both are NaN if any value is None."""
        data = np.array(list(values), dtype=float)  # None: NaN
        n = len(data)
        with np.errstate(invalid="ignore"):  # infinite values have no deviation
            half = float(stdtrit(n - 1, 0.975) * data.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        difference = float(np.ptp(data)) / 2 if n == 2 else None
        return cls(float(data.mean()) if n else math.nan, half, n, difference)

    @classmethod
    def of_differences(cls, pairs: Iterable[tuple[float | None, float | None]]) -> "Estimate":
        """Return mean and 95 % interval of first - second over pairs, one per seed; NaN if a value is None."""
        return cls.of(None if one is None or other is None else one - other for one, other in pairs)

    def text(self, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
        """Return a mean over seeds as text, such as ``91.20 ± 0.15``, with half its 95 % interval; "–": no mean.

        For two values it is ``mean (± half difference)``: their interval is 13 times as long as their difference, too
        long to be of use. The text of a single value is the mean alone.
        """
        if math.isnan(self.mean):
            return "–"
        mean = number_text(scale * self.mean, f"{sign}.{digits}f")
        if self.half_difference is not None:
            return f"{mean} (±{scale * self.half_difference:.{digits}f})"
        return mean if math.isnan(self.half_width) else f"{mean} ± {scale * self.half_width:.{digits}f}"

    @property
    def shown_half_width(self) -> float:
        """Number shown after ± for a mean over seeds: half the 95 % interval, or, for two seeds, half the difference.

        NaN for a single value.
        """
        return self.half_width if self.half_difference is None else self.half_difference

    def plain(self, form: str, scale: float = 1.0) -> str:
        """Return a mean over seeds as text, without its interval, multiplied by ``scale``; "–" if there is no mean."""
        return "–" if math.isnan(self.mean) else number_text(scale * self.mean, form)


MARGIN = 0.001
"""Largest loss of accuracy (0.001 is 0.1 points) at which a method still counts as not below another."""


@dataclass(frozen=True)
class Paired:
    """Difference of two methods over pairs of measurements, such as one pair per seed, with a significance test."""

    difference: Estimate  # first minus second: mean and 95 % interval (Student's t)
    p: float  # Wilcoxon's signed-rank test, two-sided
    wins: int  # pairs in which the first is higher
    losses: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of two methods' mean difference; NaN with fewer than two pairs."""
        return self.difference.mean - self.difference.half_width

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of two methods' mean difference; NaN with fewer than two pairs."""
        return self.difference.mean + self.difference.half_width

    def above(self, bar: float) -> bool:
        """Return whether the whole 95 % interval of the two methods' mean difference lies above the number ``bar``."""
        return self.low > bar

    def below(self, bar: float) -> bool:
        """Return whether the whole 95 % interval of the two methods' mean difference lies below the number ``bar``."""
        return self.high < bar

    @property
    def not_below(self) -> bool:
        """Whether the 95 % interval of the difference in accuracy, first method minus second, lies above -0.001."""
        return self.above(-MARGIN)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two methods by paired measurements: mean difference, 95 % interval and Wilcoxon's signed-rank test.

    Pairs without a difference don't count in the test (Wilcoxon 1945). The p-value is exact up to 50 pairs, or 13 where
    differences tie: 10 pairs reach 0.002, 5 can't go below 0.0625. Differences are rounded to 12 digits, so that ties
    are ties.

    Parameters
    ----------
    first, second : sequences of float, of one length
        The measurements of two methods, pair by pair. A NaN makes mean, interval and p NaN.

    Raises
    ------
    InputError
        If there are no pairs, or lengths differ.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise InputError(f"pairs: shapes {one.shape} and {other.shape}; give two sequences of equal length, at least 1")
    differences = np.round(one - other, 12)
    p = math.nan if np.isnan(differences).any() else 1.0  # 1 where there is nothing to rank
    if p == 1.0 and differences.any():
        from scipy import stats  # importing it takes 0.3 s, and few runs need it

        p = float(stats.wilcoxon(differences[differences != 0]).pvalue)
    return Paired(Estimate.of(differences), p, int((differences > 0).sum()), int((differences < 0).sum()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return the p-values of several tests, corrected by Holm (1979); a NaN counts as a test, and stays NaN."""
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw)  # NaN last
    steps = np.arange(len(raw), 0, -1) * raw[order]
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def win_matrix(scores: np.ndarray) -> np.ndarray:
    """Return a matrix: in how many blocks (such as seeds) the row's method beats the column's; a tie counts half.

    Parameters
    ----------
    scores : float array (n_blocks, n_methods)
        Higher is better. A block holds one measurement of every method under equal conditions.

    Returns
    -------
    float array (n_methods, n_methods)
        With its transpose it adds up to ``n_blocks``; 0 on the diagonal.
    """
    scores = _blocks(scores)
    above = (scores[:, :, None] > scores[:, None, :]).sum(0)
    level = (scores[:, :, None] == scores[:, None, :]).sum(0)
    wins = above + level / 2
    np.fill_diagonal(wins, 0)
    return wins


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of methods over blocks such as data sets (1 is best), with Friedman's test."""

    mean: np.ndarray  # (n_methods,)
    p: float  # Friedman's test: that all methods are alike; NaN for fewer than three, or if nothing differs
    critical: float  # Nemenyi's critical difference at 5 %: mean ranks further apart differ


def ranks(scores: np.ndarray) -> Ranks:
    """Return methods' mean ranks, Friedman's test and Nemenyi's critical difference (Demsar 2006, section 3.2.2).

    Parameters
    ----------
    scores : float array (n_blocks, n_methods)
        Higher is better; ties share their ranks. Blocks must be independent: as one mean over seeds for every data set,
        network and sparsity, not one block a seed.
    """
    from scipy import stats  # as in paired()

    scores = _blocks(scores)
    n_blocks, n_methods = scores.shape
    mean = stats.rankdata(-scores, axis=1).mean(0)
    testable = n_methods > 2 and n_blocks > 1 and np.ptp(scores, axis=1).any()
    p = float(stats.friedmanchisquare(*scores.T).pvalue) if testable else math.nan
    quantile = stats.studentized_range.ppf(0.95, n_methods, np.inf) / math.sqrt(2) if n_methods > 1 else math.nan
    return Ranks(mean, p, float(quantile * math.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks))))


def _blocks(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or not scores.size or np.isnan(scores).any():
        raise InputError(f"scores: shape {scores.shape}; a table (blocks, methods) is needed, without NaN")
    return scores
