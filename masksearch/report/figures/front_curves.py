"""Figures of searches with costs: score against cost, the Pareto front, and the masks that were chosen from it."""

import math
from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Estimate, Group, pareto_front
from masksearch.core.protocol import Trial
from masksearch.experiment import SweepResult
from masksearch.experiment.results import Cap, CellResult
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import STYLE, Looks, legend_columns
from masksearch.searching.history_store import read_rows

__all__ = ["front_drawings"]

_COLUMNS = 3  # side by side
_PANELS = 9
_COSTS = {"macs": "MACs", "params": "parameters", "latency": "measured latency"}


def front_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """A panel for every method and label with a searched front, of the first seed; none without fronts."""
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.cells[0].front:
            panels.setdefault((group.method, group.label), []).append(group)
    if not panels:
        return
    some = dict(list(panels.items())[:_PANELS])
    first = next(iter(some.values()))[0].cells[0]
    cost = _COSTS[_cap(first).cost]
    left_out = f" {len(panels) - _PANELS} more fronts are not drawn." if len(panels) > _PANELS else ""
    about = (
        f"Score on the search images against {cost}, seed {first.seed}. Dots: all masks "
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
        for ((method, label), own), axes in zip(panels.items(), grid.flat, strict=False):
            _panel(axes, _front_trials(result, own[0]), own, looks)
            for group in groups:
                first = group.cells[0]
                if group.label == label and group.control == "none" and first.cap and not first.front:
                    _mark(axes, group, looks)
                    others[group.method] = None
            axes.set_title(looks.series_name(method, label))
        cost = _COSTS[_cap(next(iter(panels.values()))[0].cells[0]).cost]
        objective = groups[0].cells[0].score.objective.replace("_", " ")
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
    """All scored masks of the first seed of a group, exact scores only."""
    front = group.cells[0].front
    assert front is not None
    folder = result.path.parent / front.folder
    trials = list(read_rows(folder)) if (folder / "history.jsonl").exists() else []
    return [trial for trial in trials if trial.score.exact and not math.isnan(trial.score.value)]


def _cap(cell: CellResult) -> Cap:
    assert cell.cap is not None, "a front is searched for caps"
    return cell.cap


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
        cap = _cap(cell).share
        axes.axvline(100 * cap, color="#999999", linewidth=0.8, linestyle=":")
        chosen = by_number.get(cell.front.trial) if cell.front else None
        if chosen is not None:
            x, y = 100 * (chosen.score.cost or 0.0), chosen.score.value
            [ring] = axes.plot([x], [y], "o", color=colour, markersize=9, markerfacecolor="none", markeredgewidth=1.8)
            accuracy = f"{Estimate.of([cell.trained.test_accuracy]).text(100)} % after retraining"
            tell(ring, [f"cap {100 * cap:.4g} %: {x:.3g} %, {y:.4g}; {accuracy}"])


def _mark(axes: Axes, group: Group, looks: Looks) -> None:
    cell = group.cells[0]
    x, y = 100 * cell.cost_share(_cap(cell).cost), cell.score.search_score
    if y is not None:
        [mark] = axes.plot([x], [y], "x", color=looks.colour(group.method), markersize=6)
        tell(mark, [f"{looks.name(group.method)}: {x:.3g} %, {y:.4g}"])
