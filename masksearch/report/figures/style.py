"""Style of all figures: colours of methods, line styles of labels, legends and grids of panels."""

import math
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Group
from masksearch.analysis.seed_groups import name_of
from masksearch.criteria import CRITERIA
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.utils.registry import Table

# Okabe & Ito (2008), without yellow, which is too pale for lines; then darker and lighter siblings.
_PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#7F3C8D", "#8C564B", "#4D4D4D", "#1B7837"),
)
DENSE = "#222222"
MATRIX_COLOURS = mpl.colormaps["cividis"].with_extremes(bad="#dddddd")
Look = dict[str, Any]
"""Keyword arguments of a matplotlib line."""
DENSE_LINE: Look = {"color": DENSE, "linewidth": 1, "linestyle": ":"}

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


class Looks:
    """A colour for each method and a line style for each varied setting, the same in all figures of a sweep.

    Parameters
    ----------
    groups : iterable of Group
        All groups of the sweep; other objects with ``method``, ``learned`` and ``label`` are allowed.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
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
            # A user's own method has no place in the tables: its name gives the place.
            place = known.index(method) if method in known else crc32(method.encode())
            turns = (_PALETTE[(place + turn) % len(_PALETTE)] for turn in range(len(_PALETTE)))
            free = [colour for colour in turns if colour not in self._colours.values()]
            self._colours[method] = free[0] if free else _PALETTE[place % len(_PALETTE)]

    def colour(self, method: str) -> str:
        """Return a method's colour, which is the same in all figures; up to ten methods have different colours."""
        return self._colours[method]

    def name(self, method: str) -> str:
        """Return a method's name for legends, with "(learned)" if gradient descent trains its masks."""
        return name_of(method, self._learned[method])

    def series_name(self, method: str, label: str) -> str:
        """Return a curve's name in legends: its method and, if settings vary in the sweep, the values of these."""
        return ", ".join(filter(None, [self.name(method), label if len(self.labels) > 1 else ""]))

    def line(self, label: str, labels: Sequence[str] = ()) -> Look:
        """Return the line style and marker of a label (text of varied settings), by the label's place in ``labels``."""
        style, marker = _LINES[list(labels or self.labels).index(label) % len(_LINES)]
        return {"linestyle": style, "marker": marker}

    @property
    def has_line_styles(self) -> bool:
        """Whether all labels of a sweep (texts of varied settings) can have different line styles."""
        return len(self.labels) <= len(_LINES)

    def handles(self, labels: Sequence[str] = ()) -> list[Line2D]:
        """Return legend entries: one colour per method, and one line style per label (text of varied settings)."""
        chosen = list(labels or self.labels)
        colours = [Line2D([], [], color=self.colour(m), linewidth=3, label=self.name(m)) for m in self.methods]
        look: Look = {"color": "#666666", "markersize": 5}
        styles = [Line2D([], [], label=label or "plain", **look, **self.line(label, chosen)) for label in chosen]
        return colours + styles * (len(chosen) > 1)


def shades(sparsities: Iterable[float]) -> dict[float, Any]:
    """Return {sparsity: colour}; the higher the sparsity, the brighter the colour."""
    ordered = sorted(set(sparsities))
    scale = mpl.colormaps["viridis"]
    return {value: scale(0.85 * place / max(1, len(ordered) - 1)) for place, value in enumerate(ordered)}


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Add a legend below a figure, with up to six entries per line, as far as the figure's width allows."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    most = max(1, min(6, int(figure.get_figwidth() / (0.072 * longest + 0.55))))
    lines = math.ceil(len(handles) / most)
    figure.legend(handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / lines))


def panel_grid(
    count: int, columns: int, size: tuple[float, float], margin: float, labels: tuple[str, str]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels that share their axes; only the outer panels have axis labels.

    Parameters
    ----------
    size : (float, float)
        Width of the figure, and height of a row of panels, in inches.
    margin : float
        Height above and below the panels, in inches.
    """
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(size[0], margin + size[1] * lines))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < count)
        if place >= count - columns:
            axes.set_xlabel(labels[0])
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(labels[1])
    return figure, list(grid.flat[:count])
