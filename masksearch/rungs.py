"""Rungs: where a scoring may be stopped early, by a judge who has seen scores of others that far."""

import math
from collections.abc import Callable

__all__ = ["RUNGS", "WHOLE", "Judge", "reached", "stops"]

Judge = Callable[[int, float], bool]
"""(rung, score so far) -> whether to stop there. Asked once per rung, in their order, about finite scores alone."""

RUNGS = (1, 2, 4)  # parts of a scoring's work that are done
WHOLE = 8  # parts in all


def reached(before: int, done: int, whole: int) -> int | None:
    """The highest rung that lies between two points of a scoring; None if there is none, or nothing left to stop.

    Parameters
    ----------
    before, done, whole : int
        Pieces of work that were done at the last look, that are done now, and that there are.
    """
    if done >= whole:
        return None
    return max((rung for rung in RUNGS if before * WHOLE < rung * whole <= done * WHOLE), default=None)


def stops(judge: Judge | None, rung: int | None, score: Callable[[], float]) -> bool:
    """Whether to stop at a rung, if it is one and there is a judge: only then is the score so far worked out."""
    if judge is None or rung is None:
        return False
    value = score()
    return math.isfinite(value) and judge(rung, value)
