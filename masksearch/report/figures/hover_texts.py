"""Texts that a figure on a page shows when the reader points at a marker or at a cell of a heat map.

Points have ``<title>`` elements, as SVG has them. Areas of many cells, as heat maps and histograms, have one attribute
with the values of all cells, which the page's script reads.
"""

import json
import math
import re
from collections.abc import Sequence
from html import escape, unescape
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from masksearch.analysis import Estimate
from masksearch.experiment.result_parts import Metric

_MARK = "tell:"  # begins the id of a group in matplotlib's SVG whose points get titles
_CELLS = "cells:"  # begins the id of an element that is made of cells
_PARTING = "\x1f"
_Values = Sequence[float] | np.ndarray
_ALONG = 40  # points of a line that get a title


def tell(line: Line2D, texts: Sequence[str]) -> None:
    """Give each marker of a line a text that appears under the mouse; NaN points have no marker."""
    there = np.isfinite(np.asarray(line.get_xydata(), float)).all(axis=1)
    known = [text for text, drawn in zip(texts, there, strict=True) if drawn]
    line.set_gid(_MARK + _PARTING.join(known))


def plot_points(axes: Axes, xs: _Values, ys: _Values, texts: Sequence[str], **look: Any) -> None:
    """Draw a line with markers; each marker shows its text when the mouse points at it."""
    [line] = axes.plot(xs, ys, **look)
    tell(line, texts)


def interval_lengths(estimates: Sequence[Estimate], metric: Metric) -> np.ndarray:
    """Return the lengths of error bars of n means over seeds, below and above each: (2, n); 0 for a single seed.

    Of two seeds, the bar reaches from one value to the other.
    Bars of accuracies end at 0 and 100 %.
    """
    means = np.array([metric.scale * estimate.mean for estimate in estimates])
    halves = np.nan_to_num([metric.scale * estimate.shown_half_width for estimate in estimates])
    if not metric.is_accuracy:
        return np.array([halves, halves])
    return np.array([np.minimum(halves, means), np.minimum(halves, 100 - means)]).clip(0)


def plot_estimates(
    axes: Axes, xs: Sequence[float], estimates: Sequence[Estimate], texts: Sequence[str], metric: Metric, **look: Any
) -> None:
    """Draw means of a metric with 95 % intervals; each mean shows its text when the mouse points at it."""
    means = [metric.scale * estimate.mean for estimate in estimates]
    bars = axes.errorbar(xs, means, yerr=interval_lengths(estimates, metric), **look)
    tell(bars.lines[0], texts)


def plot_curve(axes: Axes, xs: _Values, ys: _Values, name: str, form: str = ".4g", **look: Any) -> None:
    """Draw a line without markers; up to 40 of its points show ``name x: y`` when the mouse points at them."""
    axes.plot(xs, ys, **look)
    stride = max(1, math.ceil(len(xs) / _ALONG))
    chosen = slice((len(xs) - 1) % stride if len(xs) else 0, None, stride)  # the last one always
    texts = [f"{name} {x:.12g}: {y:{form}}" for x, y in zip(xs[chosen], ys[chosen], strict=True)]
    plot_points(axes, xs[chosen], ys[chosen], texts, linestyle="", marker="o", markersize=8, alpha=0.0)


def tell_cells(
    area: Artist, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | str]], unit: str = ""
) -> None:
    """Give each field of a heat map or histogram the text ``row column: value unit``, which appears under the mouse.

    Parameters
    ----------
    area : Artist
        Drawn as one element, whose box the cells share out evenly.
    rows, columns : sequences of str
        From the top, and from the left.
    """
    cells = {"rows": list(rows), "columns": list(columns), "values": [list(row) for row in values], "unit": unit}
    area.set_gid(_CELLS + json.dumps(cells, separators=(",", ":")))


def with_titles(svg: str) -> str:
    """Return an SVG in which the texts set by :func:`tell` and :func:`tell_cells` appear under the mouse."""
    svg = re.sub(rf""" id=(["']){_CELLS}(.*?)\1""", r" data-cells=\1\2\1", svg)
    return re.sub(rf'( *)<g id="{_MARK}([^"]*)">\n(.*?)\n\1</g>', _titled, svg, flags=re.DOTALL)


def _titled(group: re.Match[str]) -> str:
    indent, texts, inside = group[1], unescape(group[2]).split(_PARTING), group[3]
    before, *points = inside.split("<use ")
    if len(points) == len(texts):  # a point far outside has no element; then the others can't be assigned
        points = [
            piece.replace("/>", f"><title>{escape(text)}</title></use>", 1)
            for text, piece in zip(texts, points, strict=True)
        ]
    return f"{indent}<g>\n{'<use '.join([before, *points])}\n{indent}</g>"
