"""The cubic ramp of gradual pruning: how density falls while a network trains."""

from dataclasses import dataclass

from masksearch.utils.errors import InputError

__all__ = ["Ramp"]


@dataclass(frozen=True)
class Ramp:
    """Density from ``start`` to ``density`` between two optimiser steps: fast at first, slow at the end.

    Zhu and Gupta 2017 (equation 1), who write it for sparsity: s = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3.

    Raises
    ------
    InputError
        For a density outside (0, start], a start above 1, an end that isn't after the beginning, or no interval.
    """

    density: float
    """Kept share at the end."""
    begin: int
    """Steps until the ramp begins."""
    end: int
    """Steps until it is over."""
    interval: int = 100
    """Steps from one change of the mask to the next; the last one is at ``end``, whatever is left of an interval."""
    start: float = 1.0
    """Kept share at the beginning."""

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
        """Density after so many steps, exactly ``density`` from ``end`` on."""
        if step >= self.end:
            return self.density
        left = 1 - (max(step, self.begin) - self.begin) / (self.end - self.begin)
        return self.density + (self.start - self.density) * left**3

    def due(self, step: int) -> bool:
        """Whether the mask changes after this step."""
        within = self.begin < step <= self.end
        return within and (step == self.end or (step - self.begin) % self.interval == 0)
