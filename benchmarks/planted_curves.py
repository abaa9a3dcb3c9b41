"""Anytime curves of planted problems: the best score so far along scorings and along seconds, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from masksearch.analysis import Band, band
from masksearch.report import Drawing
from masksearch.report.figures.style import STYLE

__all__ = ["Climb", "along", "drawing"]

_POINTS = 120  # of a curve
_AXES = ("scorings", "seconds")


@dataclass
class Climb:
    """How the best score of one search rose: a step for every improvement."""

    scorings: list[int] = field(default_factory=list)  # at the improvements, rising
    seconds: list[float] = field(default_factory=list)  # then, of asking, scoring and telling
    best: list[float] = field(default_factory=list)  # from then on
    whole: dict[str, float] = field(default_factory=dict)  # scorings and seconds of the whole search

    def step(self, scorings: int, seconds: float, best: float) -> None:
        """Take an improvement."""
        self.scorings.append(scorings)
        self.seconds.append(seconds)
        self.best.append(best)

    def at(self, axis: str, places: np.ndarray) -> np.ndarray:
        """The best score at some places of an axis; NaN before the first, and after a search that found no optimum.

        Parameters
        ----------
        axis : str
            scorings or seconds.
        """
        steps = np.searchsorted(getattr(self, axis), places, side="right") - 1
        known = (steps >= 0) & (self.found | (places <= self.whole[axis]))
        return np.where(known, np.array(self.best)[np.maximum(steps, 0)], np.nan)

    @property
    def found(self) -> bool:
        """Whether the search found the optimum, which then stays the best."""
        return self.best[-1] >= 1


def along(climbs: Sequence[Climb], axis: str) -> tuple[np.ndarray, Band]:
    """Places on an axis and there the band over seeds, as far as every seed has come."""
    last = min(
        (climb.whole[axis] for climb in climbs if not climb.found), default=max(climb.whole[axis] for climb in climbs)
    )
    first = max(getattr(climb, axis)[0] for climb in climbs)
    places = np.clip(np.geomspace(first, last, _POINTS), first, last)  # the ends to the bit
    return places, band(np.array([climb.at(axis, places) for climb in climbs]))


def drawing(climbs: Mapping[str, Mapping[str, Sequence[Climb]]], titles: Mapping[str, str], name: str) -> Drawing:
    """One figure: a row of panels a problem, a panel an axis, a curve a searcher.

    Parameters
    ----------
    climbs : mapping
        By problem, then by searcher, one climb a seed.
    titles : mapping
        Of the problems.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.7 * len(climbs) + 0.3), layout="constrained")
        grid = figure.subplots(len(climbs), len(_AXES), squeeze=False)
        for panels, (problem, searchers) in zip(grid, climbs.items(), strict=True):
            for panel, axis in zip(panels, _AXES, strict=True):
                for number, (searcher, own) in enumerate(searchers.items()):
                    places, over_seeds = along(own, axis)
                    panel.plot(places, over_seeds.mean, label=searcher, color=f"C{number}")
                    panel.fill_between(
                        places, over_seeds.low, over_seeds.high, color=f"C{number}", alpha=0.2, linewidth=0
                    )
                panel.set_xscale("log")
                panel.set_xlabel(axis)
                panel.set_ylabel("best score so far")
                panel.set_title(titles[problem])
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
    about = (
        "Best score so far (1 = the optimum), means and 95 % intervals over seeds, up to the scorings that all "
        "seeds have"
    )
    return Drawing(name, f"{about}.", figure)
