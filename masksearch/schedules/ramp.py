"""Cubic ramp: density of gradual pruning as a function of the optimiser step (Zhu and Gupta 2017)."""

from dataclasses import dataclass

from masksearch.utils.errors import InputError


@dataclass(frozen=True)
class Ramp:
    """Cubic curve of the density over optimiser steps: a fast fall from ``start``, then a slow fall to ``density``.

    Zhu and Gupta 2017 (equation 1), for sparsity: s = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3.

    Raises
    ------
    InputError
        For a density outside (0, start], a start outside (0, 1], an end before the beginning, or an interval below 1.
    """

    density: float
    """Final density, which the curve reaches at step ``end``."""
    begin: int
    """Optimiser step at which the density begins to fall."""
    end: int
    """Optimiser step at which the density has fallen to its final value."""
    interval: int = 100
    """Optimiser steps between two changes of the mask. The last change is at step ``end``, even if that interval is
    shorter."""
    start: float = 1.0
    """Initial density, from which the curve falls at step ``begin``."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise InputError(f"start: {self.start}; a ramp starts at a density in (0, 1]")
        if not 0 < self.density <= self.start:
            raise InputError(f"density: {self.density}; allowed is (0, {self.start:.6g}], where the ramp starts")
        if not 0 <= self.begin < self.end:
            raise InputError(f"begin: {self.begin}; allowed is 0 to {self.end - 1}, the ramp ends at step {self.end}")
        if self.interval < 1:
            raise InputError(f"interval: {self.interval}; allowed is 1 or more steps")

    def at(self, step: int) -> float:
        """Return the density after ``step`` optimiser steps; from step ``end`` on, exactly the final density."""
        if step >= self.end:
            return self.density
        left = 1 - (max(step, self.begin) - self.begin) / (self.end - self.begin)
        return self.density + (self.start - self.density) * left**3

    def due(self, step: int) -> bool:
        """Return whether gradual pruning changes the mask after optimiser step ``step``."""
        within = self.begin < step <= self.end
        return within and (step == self.end or (step - self.begin) % self.interval == 0)
