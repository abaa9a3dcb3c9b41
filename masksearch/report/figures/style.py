"""One look for all figures: the same colour for the same method everywhere, told apart by the colour-blind."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypedDict
from zlib import crc32

import matplotlib as mpl
from matplotlib.lines import Line2D

from masksearch.criteria import CRITERIA
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.utils.registry import Table

__all__ = ["DENSE", "STYLE", "LineStyle", "Looks", "Shown", "legend_columns", "name_of", "shades"]

# Okabe & Ito (2008), without yellow, which is too pale for lines; then darker and lighter siblings.
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F3C8D",
    "#8C564B",
    "#4D4D4D",
    "#1B7837",
)
DENSE = "#222222"

# Line style and marker by label; more labels than these have panels of their own.
_LINES: tuple[tuple[Any, str], ...] = (
    ("-", "o"),
    ("--", "s"),
    (":", "^"),
    ("-.", "D"),
    ((0, (6, 1.5, 1, 1.5, 1, 1.5)), "v"),
    ((0, (3, 3)), "P"),
)

STYLE: Any = {  # matplotlib types its settings one name at a time
    "figure.figsize": (7.5, 4.2),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "masksearch",  # same figure, same bytes
}


class LineStyle(TypedDict):
    """Keywords of a line of matplotlib."""

    linestyle: Any
    marker: str


class Shown(Protocol):
    """What has a colour and a line style: a :class:`~masksearch.analysis.Group`, say."""

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def learned(self) -> bool: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102


class Looks:
    """Colours of the methods of a sweep and line styles of their labels, the same in all its figures.

    Parameters
    ----------
    groups : iterable of Shown
        All of the sweep.
    """

    def __init__(self, groups: Iterable[Shown]) -> None:
        self._learned: dict[str, bool] = {}
        labels: dict[str, None] = {}
        for group in groups:
            self._learned[group.method] = group.learned
            labels[group.label] = None
        self.methods, self.labels = list(self._learned), list(labels)
        self._colours: dict[str, str] = {}
        tables: list[Table[Any]] = [SEARCHERS, CRITERIA, SUPERMASKS]
        known = [name for table in tables for name in table if table.added(name) is None]
        for method in self.methods:
            # Of a user's own module, which whoever reads a sweep may not have loaded: by the name alone.
            place = known.index(method) if method in known else crc32(method.encode())
            turns = (_PALETTE[(place + turn) % len(_PALETTE)] for turn in range(len(_PALETTE)))
            free = [colour for colour in turns if colour not in self._colours.values()]
            self._colours[method] = free[0] if free else _PALETTE[place % len(_PALETTE)]

    def colour(self, method: str) -> str:
        """The method's colour: by its place in the tables, or the next one that no other method here has."""
        return self._colours[method]

    def name(self, method: str) -> str:
        """The method's name, with a mark if gradients make its masks."""
        return name_of(method, self._learned[method])

    def series_name(self, method: str, label: str) -> str:
        """The name of a line: the method, and the label if there are several labels."""
        return ", ".join(filter(None, [self.name(method), label if len(self.labels) > 1 else ""]))

    def line(self, label: str, labels: Sequence[str] = ()) -> LineStyle:
        """Line style and marker of a label, by its place among all, or among the ``labels`` of one panel."""
        style, marker = _LINES[list(labels or self.labels).index(label) % len(_LINES)]
        return {"linestyle": style, "marker": marker}

    @property
    def has_line_styles(self) -> bool:
        """Whether every label has a line style of its own."""
        return len(self.labels) <= len(_LINES)

    def handles(self, labels: Sequence[str] = ()) -> list[Line2D]:
        """For a legend: a colour per method, and a line style per label if there are several."""
        chosen = list(labels or self.labels)
        colours = [
            Line2D([], [], color=self.colour(method), linewidth=3, label=self.name(method)) for method in self.methods
        ]
        if len(chosen) < 2:
            return colours
        styles = [
            Line2D([], [], color="#666666", markersize=5, label=label or "plain", **self.line(label, chosen))
            for label in chosen
        ]
        return colours + styles


def name_of(method: str, learned: bool = False) -> str:
    """How a method is written in tables and legends."""
    return method.replace("_", " ") + " (learned)" * learned


def shades(sparsities: Iterable[float]) -> dict[float, Any]:
    """A colour for every sparsity, from dark to bright as they rise; none is too pale for a line."""
    ordered = sorted(set(sparsities))
    scale = mpl.colormaps["viridis"]
    return {value: scale(0.85 * place / max(1, len(ordered) - 1)) for place, value in enumerate(ordered)}


def legend_columns(labels: Iterable[str], inches: float) -> int:
    """As many columns as a legend as wide as the figure can have."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(6, int(inches / (0.072 * longest + 0.55))))
