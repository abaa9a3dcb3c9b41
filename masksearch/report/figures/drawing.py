"""A drawing: a figure with its name and caption, as SVG (light and dark) for a page, as PNG for a paper."""

import colorsys
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from masksearch.analysis import Group
from masksearch.report.figures.hover import with_titles
from masksearch.report.figures.style import STYLE

__all__ = ["Drawing", "by_sparsity", "dark", "few", "one_sparsity", "over_seeds", "percent", "themed"]


_SAVING = STYLE | {"figure.constrained_layout.use": False}  # a figure is laid out once, not for every file again


@dataclass(frozen=True)
class Drawing:
    """A figure of a sweep."""

    name: str  # of its file
    caption: str
    figure: Figure

    def svg(self) -> str:
        """As an element of a page: of both themes, with values to point at."""
        text = self._svg
        return themed(text[text.index("<svg") :])

    def svg_file(self) -> bytes:
        """As a file, for papers: in light colours, its texts in a typeface that any program has."""
        return self._svg.encode()

    def png(self, dpi: int = 150) -> bytes:
        """As a file; the same figure gives the same bytes."""
        sink = io.BytesIO()
        with mpl.rc_context(_SAVING):
            self._settle()
            self.figure.savefig(sink, format="png", dpi=dpi, metadata={"Software": None})
        return sink.getvalue()

    @cached_property
    def _svg(self) -> str:
        sink = io.StringIO()
        with mpl.rc_context(_SAVING):  # how text and names are written is decided here
            self._settle()
            self.figure.savefig(sink, format="svg", metadata={"Date": None})
        return with_titles(sink.getvalue())

    def _settle(self) -> None:
        """Lay the figure out: with many axes that takes most of the time that a file needs."""
        if isinstance(self.figure.get_layout_engine(), ConstrainedLayoutEngine):
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine(None)


def by_sparsity(groups: Iterable[Group]) -> Iterator[tuple[float, list[Group]]]:
    """Every sparsity with its groups, controls left out; ``groups`` are in order of sparsity."""
    plain = [group for group in groups if group.control == "none"]
    return ((sparsity, list(own)) for sparsity, own in groupby(plain, key=lambda group: group.sparsity))


def few(groups: Iterable[Group], limit: int) -> list[tuple[str, str]]:
    """Up to ``limit`` pairs of a method and a label, for figures that can't hold all of them.

    The first labels of all methods come before the last label of any. Controls are left out: their lines would be the
    same, or their figures are in the tables.
    """
    series = list(dict.fromkeys((group.method, group.label) for group in groups if group.control == "none"))
    methods = list(dict.fromkeys(method for method, _ in series))
    turns: dict[tuple[str, str], int] = {}
    seen: dict[str, int] = {}
    for method, label in series:
        turns[method, label] = seen[method] = seen.get(method, -1) + 1
    chosen = sorted(series, key=lambda one: (turns[one], methods.index(one[0])))[:limit]
    return sorted(chosen, key=series.index)


def one_sparsity(groups: Iterable[Group]) -> float:
    """The sparsity for figures that show one: in the middle, the higher one of two."""
    ordered = sorted({group.sparsity for group in groups})
    return ordered[len(ordered) // 2]


def over_seeds(number: int, intervals: bool = False) -> str:
    """What the figures of a caption are of."""
    if number == 1:
        return "one seed"
    return f"means over {number} seeds" + " with 95 % intervals" * intervals


def percent(sparsity: float) -> str:
    """A sparsity, as it stands in titles."""
    return f"{100 * sparsity:.4g} %"


_PAGE = 0.01  # relative luminance of the dark page
_CONTRAST = 4.5  # of a line or a text with it, at least (WCAG 2, level AA)


def themed(svg: str) -> str:
    """The SVG with ``light-dark(...)`` in the place of every colour, and its texts in the page's typeface."""
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg)
    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda m: f"{m[1]}: light-dark({m[2]}, {dark(m[2])})", svg)


def dark(colour: str) -> str:
    """What ``#rrggbb`` is on a dark page: greys change sides, colours become as light as they must to be seen."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    lightness = (max(red, green, blue) + min(red, green, blue)) / 2
    if max(red, green, blue) - min(red, green, blue) < 0.1:
        return _hex(*3 * [0.9 - 0.8 * lightness])
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while (_luminance(red, green, blue) + 0.05) / (_PAGE + 0.05) < _CONTRAST:
        lightness += 0.02
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return _hex(red, green, blue)


def _luminance(*rgb: float) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(*rgb: float) -> str:
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, value))):02x}" for value in rgb)
