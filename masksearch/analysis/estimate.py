"""Estimates: a mean over seeds and its 95 % interval."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its uncertainty."""

    mean: float
    half_width: float  # of the 95 % interval (Student's t); NaN with fewer than two values
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate":
        """The estimate from one value a seed; a missing one makes the mean NaN, so that it can't go unseen."""
        data = np.array([math.nan if value is None else value for value in values], dtype=float)
        n = len(data)
        if n < 2:
            return cls(float(data.mean()) if n else math.nan, math.nan, n)
        return cls(float(data.mean()), float(stdtrit(n - 1, 0.975) * data.std(ddof=1) / math.sqrt(n)), n)

    def text(self, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
        """``mean ± half width``, both times ``scale``; only the mean if there is no interval, – if there is no mean."""
        if math.isnan(self.mean):
            return "–"
        mean = f"{scale * self.mean:{sign}.{digits}f}"
        return mean if math.isnan(self.half_width) else f"{mean} ± {scale * self.half_width:.{digits}f}"

    def plain(self, form: str, scale: float = 1.0) -> str:
        """The mean alone, times ``scale`` and as ``form`` says; – if there is none."""
        return "–" if math.isnan(self.mean) else f"{scale * self.mean:{form}}"
