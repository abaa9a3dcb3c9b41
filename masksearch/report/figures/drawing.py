"""A drawing: a matplotlib figure with its name and caption, saved as SVG or PNG; helpers for what figures show."""

import colorsys
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from masksearch.analysis import Group
from masksearch.experiment.result_parts import Metric
from masksearch.report.figures.hover_texts import with_titles
from masksearch.report.figures.style import STYLE

_SAVING = STYLE | {"figure.constrained_layout.use": False}  # a figure is laid out once, not for every file again


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure, its caption, and the name of the file to save it as."""

    name: str  # of its file
    caption: str
    figure: Figure

    def svg(self) -> str:
        """Return the figure as an SVG element for HTML pages, light or dark, with texts that appear under the mouse."""
        return themed(self._svg[self._svg.index("<svg") :])

    def svg_file(self) -> bytes:
        """Return the figure as the bytes of an SVG file in light colours, for use in papers."""
        return self._svg.encode()

    def png(self, dpi: int = 150) -> bytes:
        """Return the figure as the bytes of a PNG file; equal figures give equal bytes."""
        return self._saved(format="png", dpi=dpi, metadata={"Software": None})

    @cached_property
    def _svg(self) -> str:
        return with_titles(self._saved(format="svg", metadata={"Date": None}).decode())

    def _saved(self, **how: Any) -> bytes:
        sink = io.BytesIO()
        with mpl.rc_context(_SAVING):  # how text and names are written is decided here
            if isinstance(self.figure.get_layout_engine(), ConstrainedLayoutEngine):
                self.figure.draw_without_rendering()  # with many axes, the layout takes most of the time
                self.figure.set_layout_engine(None)
            self.figure.savefig(sink, **how)
        return sink.getvalue()


def by_sparsity(groups: Iterable[Group]) -> Iterator[tuple[float, list[Group]]]:
    """Yield (sparsity, results at this sparsity), in order of sparsity; control networks are left out."""
    plain = [group for group in groups if group.control == "none"]
    return ((sparsity, list(own)) for sparsity, own in groupby(plain, key=lambda group: group.sparsity))


def few(groups: Iterable[Group], limit: int) -> list[tuple[str, str]]:
    """Return up to ``limit`` (method, label) pairs to draw in a small figure; a label is the text of varied settings.

    The first labels of all methods come before the last label of any.
    """
    series = list(dict.fromkeys((group.method, group.label) for group in groups if group.control == "none"))
    labels: dict[str, list[str]] = {}
    for method, label in series:
        labels.setdefault(method, []).append(label)
    methods = list(labels)
    chosen = sorted(series, key=lambda one: (labels[one[0]].index(one[1]), methods.index(one[0])))[:limit]
    return sorted(chosen, key=series.index)


def one_sparsity(groups: Iterable[Group]) -> float:
    """Return the sparsity to show where a figure has room for one: the median, or the higher of two medians."""
    ordered = sorted({group.sparsity for group in groups})
    return ordered[len(ordered) // 2]


def over_seeds(number: int, intervals: bool = False) -> str:
    """Return words for a figure's caption that say how many seeds it shows, such as ``means over 3 seeds``."""
    if number == 1:
        return "one seed"
    bars = " with 95 % intervals" if number > 2 else " with lines from one seed's value to the other's"
    return f"means over {number} seeds" + bars * intervals


def label_of(metric: Metric, before: str = "") -> str:
    """Return a metric's label for an axis: ``test accuracy (%)`` or ``test perplexity (lower is better)``, say.

    Parameters
    ----------
    before : str
        Words before the name of the metric.
    """
    about = "%" if metric.is_accuracy else "" if metric.higher_is_better else "lower is better"
    return f"{before} {metric.name}".strip() + f" ({about})" * bool(about)


def limits(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """Return the lower and upper limit of an axis that shows all ``values`` of a metric (accuracies in percent)."""
    low, high = min(values), max(values)
    if metric.is_accuracy:
        return max(0, low - 5), min(101, high + 5)
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


_PAGE = 0.01  # relative luminance of the dark page
_CONTRAST = 4.5  # of a line or a text with it, at least (WCAG 2, level AA)


def themed(svg: str) -> str:
    """Return an SVG that adapts to its web page: colours to a light or dark page, and texts to the page's font."""
    svg = re.sub(r"font-family: [^;\"]*(; )?", "", svg)
    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda m: f"{m[1]}: light-dark({m[2]}, {dark(m[2])})", svg)


def dark(colour: str) -> str:
    """Return a colour ``#rrggbb`` adapted to a dark page: greys are inverted, other colours are made lighter."""
    rgb = to_rgb(colour)
    hue, lightness, saturation = colorsys.rgb_to_hls(*rgb)
    if max(rgb) - min(rgb) < 0.1:
        return to_hex(3 * (0.9 - 0.8 * lightness,))
    while (_luminance(*rgb) + 0.05) / (_PAGE + 0.05) < _CONTRAST:
        lightness += 0.02
        rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
    return to_hex(tuple(np.clip(rgb, 0, 1)))


def _luminance(*rgb: float) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
