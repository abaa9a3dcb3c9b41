"""Figures of the test metric, such as accuracy, against sparsity, before and after retraining."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import fill

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Estimate, SummaryRow
from masksearch.report.figures.drawing import Drawing, label_of, limits, over_seeds
from masksearch.report.figures.hover_texts import interval_lengths, plot_estimates, tell
from masksearch.report.figures.style import DENSE_LINE, STYLE, Look, Looks, legend_below, panel_grid
from masksearch.utils.number_text import percent

_Moment = Callable[[SummaryRow], Estimate]
_MOMENTS: dict[str, tuple[str, _Moment]] = {
    "untrained": ("of the masked networks before retraining", lambda row: row.untrained),
    "trained": ("after retraining", lambda row: row.trained),
}
_PANELS = 24  # at most, one a variant


def accuracy_drawings(rows: Sequence[SummaryRow], looks: Looks) -> Iterator[Drawing]:
    """Yield figures of the test metric against sparsity by method, before and after retraining."""
    if len(rows) < 2:
        return
    seeds = max(row.trained.n for row in rows[1:])
    seeds_text = over_seeds(seeds, intervals=True)
    about = f"Test {rows[0].metric.name} after the last epoch, {seeds_text}"
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
            text = f"Test {rows[0].metric.name} {title}, {seeds_text}. One panel per variant.{left_out}"
            yield Drawing(f"accuracy{suffix}", text, figure)


@mpl.rc_context(STYLE)
def _lines(rows: Sequence[SummaryRow], looks: Looks) -> Figure:
    figure = Figure(figsize=(9.5, 4.6))
    for axes, (name, (title, moment)) in zip(figure.subplots(1, 2), _MOMENTS.items(), strict=True):
        _curves(axes, rows[1:], moment, looks, {label: looks.line(label) for label in looks.labels})
        _frame(axes, rows, moment, 0.07)
        axes.set(title=title, xlabel="sparsity (%)", ylabel=label_of(rows[0].metric, "test"))
        if name == "trained":
            axes.axhline(rows[0].metric.scale * rows[0].trained.mean, **DENSE_LINE)
    legend_below(figure, [*looks.handles(), Line2D([], [], label="dense", **DENSE_LINE)])
    return figure


@mpl.rc_context(STYLE)
def _panels(rows: Sequence[SummaryRow], variants: Sequence[str], looks: Looks, name: str) -> Figure:
    _, moment = _MOMENTS[name]
    columns = min(4, len(variants))
    figure, panels = panel_grid(len(variants), columns, (9.5, 2.0), 0.9, ("sparsity (%)", label_of(rows[0].metric)))
    # Within a panel, labels differ only in the moment that masks were found at.
    rest = {row.label: row.label.removeprefix(row.variant).removeprefix(", ") or "one moment only" for row in rows[1:]}
    found = list(dict.fromkeys(rest.values()))
    styles = {label: looks.line(text, found) for label, text in rest.items()}
    for variant, axes in zip(variants, panels, strict=True):
        _curves(axes, [row for row in rows[1:] if row.variant == variant], moment, looks, styles)
        axes.set_title(fill(variant or "plain", 32), fontsize=8)
        if name == "trained":
            axes.axhline(rows[0].metric.scale * rows[0].trained.mean, **DENSE_LINE)
    for axes in panels:
        _frame(axes, rows, moment, 0.04 * columns)
    legend_below(figure, [*looks.handles(found), Line2D([], [], label="dense", **DENSE_LINE)])
    return figure


def _curves(axes: Axes, rows: Sequence[SummaryRow], moment: _Moment, looks: Looks, styles: Mapping[str, Look]) -> None:
    lines: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        lines.setdefault((row.method, row.label), []).append(row)
    places = sorted({100 * row.sparsity for row in rows})
    step = min((after - before for before, after in pairwise(places)), default=1.0)
    for number, ((method, label), points) in enumerate(lines.items()):
        # Each line lies a little aside, so that intervals don't hide each other.
        aside = min(0.15, 0.25 * step / len(lines)) * (number - (len(lines) - 1) / 2)
        colour = looks.colour(method)
        plot_estimates(
            axes,
            [100 * row.sparsity + aside for row in points],
            [moment(row) for row in points],
            [_text(row, moment, looks) for row in points],
            points[0].metric,
            color=colour,
            markersize=4,
            linewidth=1.5,
            capsize=2,
            elinewidth=0.8,
            ecolor=to_rgba(colour, 0.5),  # of few seeds they are long, and must not hide the lines
            **styles[label],
        )


def _text(row: SummaryRow, moment: _Moment, looks: Looks) -> str:
    text = moment(row).text(row.metric.scale, row.metric.digits)
    return f"{looks.series_name(row.method, row.label)}, {percent(row.sparsity)}: {text}{row.metric.unit}"


def _ends(rows: Sequence[SummaryRow], moment: _Moment) -> list[float]:
    """Lower and upper ends of the intervals of all finite means, in the unit of tables."""
    ends = []
    for row in rows:
        estimate = moment(row)
        if math.isfinite(estimate.mean):
            [below], [above] = interval_lengths([estimate], row.metric)
            ends += [row.metric.scale * estimate.mean - below, row.metric.scale * estimate.mean + above]
    return ends


def _frame(axes: Axes, rows: Sequence[SummaryRow], moment: _Moment, crowded: float) -> None:
    """Set ticks at the sparsities, and limits that show all means with their intervals."""
    if ends := _ends(rows, moment):
        axes.set_ylim(*limits(ends, rows[0].metric))
    places = sorted({100 * row.sparsity for row in rows[1:]})
    axes.set_xticks(places, [f"{place:.3g}" for place in places])
    span = places[-1] - places[0]
    if min((after - before for before, after in pairwise(places)), default=span) < crowded * span:
        axes.tick_params(axis="x", rotation=90)


@mpl.rc_context(STYLE)
def _dots(rows: Sequence[SummaryRow], looks: Looks) -> Figure:
    """One sparsity: a line of dots per label, or per method if there is one label only."""
    several = len(looks.labels) > 1
    names = looks.labels if several else looks.methods
    crowd = len(looks.methods) if several else 1
    figure = Figure(figsize=(9.5, 1.3 + len(names) * (0.16 + 0.11 * crowd)))
    both = figure.subplots(1, 2, sharey=True)
    for axes, (name, (title, moment)) in zip(both, _MOMENTS.items(), strict=True):
        for row in rows[1:]:
            estimate = moment(row)
            aside = 0.7 * (looks.methods.index(row.method) / (crowd - 1) - 0.5) if crowd > 1 else 0
            bars = axes.errorbar(
                row.metric.scale * estimate.mean,
                names.index(row.label if several else row.method) + aside,
                xerr=interval_lengths([estimate], row.metric),
                color=looks.colour(row.method),
                marker="o",
                markersize=5,
                capsize=2.5,
            )
            tell(bars.lines[0], [_text(row, moment, looks)])
        metric = rows[0].metric
        if ends := _ends(rows, moment):
            axes.set_xlim(*limits(ends, metric))
        axes.set(title=title, xlabel=label_of(metric, "test"), ylim=(len(names) - 0.4, -0.6))
        if name == "trained":
            axes.axvline(rows[0].metric.scale * rows[0].trained.mean, **DENSE_LINE)
        axes.grid(visible=False, axis="y")
        for place in range(0, len(names), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0)
    both[0].set_yticks(range(len(names)), [label or "plain" for label in names] if several else map(looks.name, names))
    if several:
        look: Look = {"marker": "o", "linestyle": ""}
        legend_below(
            figure, [Line2D([], [], color=looks.colour(m), label=looks.name(m), **look) for m in looks.methods]
        )
    return figure
