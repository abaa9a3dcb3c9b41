"""Values that a figure shows on a page when it is pointed at.

Points have ``<title>`` elements, as SVG has them. Areas of many cells, as heat maps and histograms, have one attribute
with the values of all, which the page's script reads.
"""

import json
import math
import re
from collections.abc import Sequence
from html import escape, unescape

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

__all__ = ["tell", "tell_along", "tell_cells", "with_titles"]

_MARK = "tell:"  # begins the id of a group in matplotlib's SVG whose points get titles
_CELLS = "cells:"  # begins the id of an element that is made of cells
_PARTING = "\x1f"
_ALONG = 40  # points of a line that get a title


def tell(line: Line2D, texts: Sequence[str]) -> None:
    """Give every marker of a line its text. A point that is NaN has no marker; its text goes with it."""
    there = np.isfinite(np.asarray(line.get_xydata(), float)).all(axis=1)
    known = [text for text, drawn in zip(texts, there, strict=True) if drawn]
    line.set_gid(_MARK + _PARTING.join(known))


def tell_along(axes: Axes, xs: Sequence[float], ys: Sequence[float], texts: Sequence[str]) -> None:
    """Give a line without markers some that can't be seen, each with its text."""
    stride = max(1, math.ceil(len(xs) / _ALONG))
    chosen = slice((len(xs) - 1) % stride if len(xs) else 0, None, stride)  # the last one always
    [line] = axes.plot(xs[chosen], ys[chosen], linestyle="", marker="o", markersize=8, alpha=0.0)
    tell(line, texts[chosen])


def tell_cells(
    area: Artist, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | str]], unit: str = ""
) -> None:
    """Give every cell of an area its text: ``row column: value unit``.

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
    """The SVG with the texts in the places that :func:`tell` and :func:`tell_cells` have marked."""
    svg = re.sub(rf""" id=(["']){_CELLS}(.*?)\1""", r" data-cells=\1\2\1", svg)
    return re.sub(rf'( *)<g id="{_MARK}([^"]*)">\n(.*?)\n\1</g>', _titled, svg, flags=re.DOTALL)


def _titled(group: re.Match[str]) -> str:
    indent, texts, inside = group[1], unescape(group[2]).split(_PARTING), group[3]
    before, *points = inside.split("<use ")
    if len(points) == len(texts):  # a point far outside has no element, and whose the others are can't be told
        points = [
            piece.replace("/>", f"><title>{escape(text)}</title></use>", 1)
            for text, piece in zip(texts, points, strict=True)
        ]
    return f"{indent}<g>\n{'<use '.join([before, *points])}\n{indent}</g>"
