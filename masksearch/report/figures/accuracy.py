"""Figures of test accuracy against sparsity, before and after retraining."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Estimate, SummaryRow
from masksearch.report.figures.drawing import Drawing, over_seeds, percent
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import DENSE, STYLE, LineStyle, Looks, legend_columns

__all__ = ["accuracy_drawings"]

_Moment = Callable[[SummaryRow], Estimate]
_MOMENTS: dict[str, tuple[str, _Moment]] = {
    "untrained": ("untrained, under the mask", lambda row: row.untrained),
    "trained": ("after retraining", lambda row: row.trained),
}
_PANELS = 24  # at most, one a variant


def accuracy_drawings(rows: Sequence[SummaryRow], looks: Looks) -> Iterator[Drawing]:
    """Nothing without masks; dots for one sparsity; lines; or a panel per variant where lines would be too many."""
    if len(rows) < 2:
        return
    seeds = max(row.trained.n for row in rows[1:])
    about = f"Test accuracy after the last epoch, {over_seeds(seeds, intervals=True)}"
    if len({row.sparsity for row in rows[1:]}) == 1:
        yield Drawing("accuracy", f"{about}. Dotted: the dense network.", _dots(rows, looks))
    elif looks.has_line_styles:
        yield Drawing("accuracy", f"{about}.", _lines(rows, looks))
    else:
        variants = list(dict.fromkeys(row.variant for row in rows[1:]))
        left_out = f" {len(variants) - _PANELS} more variants are in the table." if len(variants) > _PANELS else ""
        for name, (title, _) in _MOMENTS.items():
            figure = _panels(rows, variants[:_PANELS], looks, name)
            suffix = "" if name == "trained" else f"_{name}"
            yield Drawing(f"accuracy{suffix}", f"{about}: {title}. A panel per variant.{left_out}", figure)


def _lines(rows: Sequence[SummaryRow], looks: Looks) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.6))
        for axes, (name, (title, moment)) in zip(figure.subplots(1, 2), _MOMENTS.items(), strict=True):
            _curves(axes, rows[1:], moment, looks, {label: looks.line(label) for label in looks.labels})
            _frame(axes, rows, moment, 0.07)
            axes.set(title=title, xlabel="sparsity (%)", ylabel="test accuracy (%)")
            if name == "trained":
                _dense_line(axes, rows)
        _legend(figure, looks, looks.labels)
        return figure


def _panels(rows: Sequence[SummaryRow], variants: Sequence[str], looks: Looks, name: str) -> Figure:
    _, moment = _MOMENTS[name]
    columns = min(4, len(variants))
    lines = math.ceil(len(variants) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 0.9 + 2.0 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(variants) :]:
            axes.set_visible(False)
        # Within a panel, labels differ only in the moment that masks were found at.
        rest = {
            row.label: row.label.removeprefix(row.variant).removeprefix(", ") or "one moment only" for row in rows[1:]
        }
        found = sorted(set(rest.values()), key=list(rest.values()).index)
        styles = {label: looks.line(text, found) for label, text in rest.items()}
        for variant, axes in zip(variants, grid.flat, strict=False):
            own = [row for row in rows[1:] if row.variant == variant]
            _curves(axes, own, moment, looks, styles)
            axes.set_title(fill(variant or "plain", 32), fontsize=8)
            if name == "trained":
                _dense_line(axes, rows)
        for place, axes in enumerate(grid.flat[: len(variants)]):
            if place >= len(variants) - columns:
                axes.set_xlabel("sparsity (%)")
                axes.tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy (%)")
        for axes in grid.flat:
            _frame(axes, rows, moment, 0.04 * columns)
        _legend(figure, looks, found)
        return figure


def _curves(
    axes: Axes, rows: Sequence[SummaryRow], moment: _Moment, looks: Looks, styles: Mapping[str, LineStyle]
) -> None:
    lines: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        lines.setdefault((row.method, row.label), []).append(row)
    places = sorted({100 * row.sparsity for row in rows})
    step = min((after - before for before, after in pairwise(places)), default=1.0)
    for number, ((method, label), points) in enumerate(lines.items()):
        estimates = [moment(row) for row in points]
        # Each line lies a little aside, so that intervals don't hide each other.
        aside = min(0.15, 0.25 * step / len(lines)) * (number - (len(lines) - 1) / 2)
        bars = axes.errorbar(
            [100 * row.sparsity + aside for row in points],
            [100 * e.mean for e in estimates],
            yerr=[_half(e) for e in estimates],
            label=looks.series_name(method, label),
            color=looks.colour(method),
            markersize=4,
            linewidth=1.5,
            capsize=2,
            elinewidth=0.8,
            ecolor=to_rgba(looks.colour(method), 0.5),  # of few seeds they are long, and must not hide the lines
            **styles[label],
        )
        name = looks.series_name(method, label)
        tell(bars.lines[0], [f"{name}, {_value(row, moment)}" for row in points])


def _value(row: SummaryRow, moment: _Moment) -> str:
    return f"{percent(row.sparsity)}: {moment(row).text(100)} %"


def _half(estimate: Estimate) -> float:
    return 0.0 if math.isnan(estimate.half_width) else 100 * estimate.half_width


def _frame(axes: Axes, rows: Sequence[SummaryRow], moment: _Moment, crowded: float) -> None:
    """Ticks at the sparsities, and all means in sight: the intervals of few seeds reach far beyond."""
    means = [100 * moment(row).mean for row in rows if not math.isnan(moment(row).mean)]
    if means:
        axes.set_ylim(max(0, min(means) - 5), min(101, max(means) + 5))
    places = sorted({100 * row.sparsity for row in rows[1:]})
    axes.set_xticks(places, [f"{place:.3g}" for place in places])
    span = places[-1] - places[0]
    if min((after - before for before, after in pairwise(places)), default=span) < crowded * span:
        axes.tick_params(axis="x", rotation=90)


def _dense_line(axes: Axes, rows: Sequence[SummaryRow]) -> None:
    axes.axhline(100 * rows[0].trained.mean, color=DENSE, linewidth=1, linestyle=":", label="dense")


def _dots(rows: Sequence[SummaryRow], looks: Looks) -> Figure:
    """One sparsity: a line of dots per label, or per method if there is one label only."""
    several = len(looks.labels) > 1
    names = looks.labels if several else looks.methods
    crowd = len(looks.methods) if several else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.3 + len(names) * (0.16 + 0.11 * crowd)))
        both = figure.subplots(1, 2, sharey=True)
        for axes, (name, (title, moment)) in zip(both, _MOMENTS.items(), strict=True):
            for row in rows[1:]:
                estimate = moment(row)
                aside = 0.7 * (looks.methods.index(row.method) / (crowd - 1) - 0.5) if crowd > 1 else 0
                bars = axes.errorbar(
                    100 * estimate.mean,
                    names.index(row.label if several else row.method) + aside,
                    xerr=_half(estimate),
                    color=looks.colour(row.method),
                    marker="o",
                    markersize=5,
                    capsize=2.5,
                )
                tell(bars.lines[0], [f"{looks.series_name(row.method, row.label)}, {_value(row, moment)}"])
            means = np.array([100 * moment(row).mean for row in rows])
            if not np.isnan(means).all():
                axes.set_xlim(max(0, np.nanmin(means) - 5), min(101, np.nanmax(means) + 5))
            axes.set(title=title, xlabel="test accuracy (%)", ylim=(len(names) - 0.4, -0.6))
            if name == "trained":
                axes.axvline(100 * rows[0].trained.mean, color=DENSE, linewidth=1, linestyle=":")
            axes.grid(visible=False, axis="y")
            for place in range(0, len(names), 2):
                axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0)
        both[0].set_yticks(
            range(len(names)), [label or "plain" for label in names] if several else map(looks.name, names)
        )
        if several:
            handles = [
                Line2D([], [], color=looks.colour(m), marker="o", linestyle="", label=looks.name(m))
                for m in looks.methods
            ]
            columns = legend_columns([looks.name(m) for m in looks.methods], 9.5)
            figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure


def _legend(figure: Figure, looks: Looks, labels: Sequence[str]) -> None:
    dense = Line2D([], [], color=DENSE, linewidth=1, linestyle=":", label="dense")
    handles = [*looks.handles(labels), dense]
    columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
