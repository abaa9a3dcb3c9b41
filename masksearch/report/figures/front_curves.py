"""Figures of searches with costs: score against cost, the Pareto front, and the masks that were chosen from it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Group, cost_share, pareto_front
from masksearch.core.protocol import Trial
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import STYLE, Looks, legend_columns
from masksearch.searching.history_store import read_rows

__all__ = ["front_drawings"]

_COLUMNS = 3  # side by side
_PANELS = 9
_COSTS = {"macs": "MACs", "params": "parameters", "latency": "measured latency"}


def front_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """A panel for every method and way that has searched a front, the first seed's; none where nothing has."""
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if "front" in group.cells[0]:
            panels.setdefault((group.method, group.way), []).append(group)
    if not panels:
        return
    some = dict(list(panels.items())[:_PANELS])
    first = next(iter(some.values()))[0].cells[0]
    left_out = f" {len(panels) - _PANELS} more fronts are not drawn." if len(panels) > _PANELS else ""
    about = (
        f"Score on the search images against {_COSTS[first['cap']['cost']]}, seed {first['seed']}. Dots: all masks "
        "that were scored; line: the Pareto front, which no mask beats in both; circles: the masks that were chosen "
        f"for the caps (dotted); crosses: what other methods have found at the caps.{left_out}"
    )
    yield Drawing("front", about, _figure(result, some, groups, looks))


def _figure(
    result: SweepResult, panels: dict[tuple[str, str], list[Group]], groups: Sequence[Group], looks: Looks
) -> Figure:
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5 if columns > 1 else 7.5, 1.0 + 3.2 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        others: dict[str, None] = {}
        for ((method, way), own), axes in zip(panels.items(), grid.flat, strict=False):
            _panel(axes, _front_trials(result, own[0]), own, looks)
            for group in groups:
                has = group.cells[0].keys() & {"cap", "front"}
                if group.way == way and group.control == "none" and has == {"cap"}:
                    _mark(axes, group, looks)
                    others[group.method] = None
            axes.set_title(looks.of_series(method, way))
        cost = _COSTS[next(iter(panels.values()))[0].cells[0]["cap"]["cost"]]
        objective = groups[0].cells[0]["score"]["objective"].replace("_", " ")
        for axes in grid[-1]:
            axes.set_xlabel(f"{cost} (% of the dense network's)")
        for axes in grid[:, 0]:
            axes.set_ylabel(f"score ({objective})")
        marks = [Line2D([], [], color=looks.colour(m), marker="x", linestyle="", label=looks.name(m)) for m in others]
        if marks:
            labels = legend_columns([str(mark.get_label()) for mark in marks], figure.get_figwidth())
            figure.legend(handles=marks, loc="outside lower center", ncols=labels)
        return figure


def _front_trials(result: SweepResult, group: Group) -> list[Trial]:
    """All scored masks of a group's first seed, exact scores only."""
    folder: Path = result.path.parent / group.cells[0]["front"]["folder"]
    trials = list(read_rows(folder)) if (folder / "history.jsonl").exists() else []
    return [trial for trial in trials if trial.score.exact and not math.isnan(trial.score.value)]


def _panel(axes: Axes, trials: Sequence[Trial], groups: Sequence[Group], looks: Looks) -> None:
    colour = looks.colour(groups[0].method)
    values = [trial.score.value for trial in trials]
    costs = [100 * (trial.score.cost or 0.0) for trial in trials]
    axes.plot(costs, values, ".", color="#bbbbbb", markersize=3)
    front = pareto_front(values, costs)
    xs, ys = [costs[place] for place in front], [values[place] for place in front]
    axes.plot(xs, ys, color=colour, linewidth=1.5, drawstyle="steps-post")
    [points] = axes.plot(xs, ys, ".", color=colour, markersize=5)
    tell(points, [f"trial {trials[place].number}: {costs[place]:.3g} %, {values[place]:.4g}" for place in front])
    by_number = {trial.number: trial for trial in trials}
    for group in groups:
        cell = group.cells[0]
        axes.axvline(100 * cell["cap"]["share"], color="#999999", linewidth=0.8, linestyle=":")
        chosen = by_number.get(cell["front"]["trial"])
        if chosen is not None:
            x, y = 100 * (chosen.score.cost or 0.0), chosen.score.value
            [ring] = axes.plot([x], [y], "o", color=colour, markersize=9, markerfacecolor="none", markeredgewidth=1.8)
            accuracy = f"{100 * cell['trained']['test_accuracy']:.2f} % after retraining"
            tell(ring, [f"cap {100 * cell['cap']['share']:.4g} %: {x:.3g} %, {y:.4g}; {accuracy}"])


def _mark(axes: Axes, group: Group, looks: Looks) -> None:
    cell = group.cells[0]
    x, y = 100 * cost_share(cell, cell["cap"]["cost"]), cell["score"]["search_score"]
    if y is not None:
        [mark] = axes.plot([x], [y], "x", color=looks.colour(group.method), markersize=6)
        tell(mark, [f"{looks.name(group.method)}: {x:.3g} %, {y:.4g}"])
