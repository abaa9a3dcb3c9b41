"""Figures of searches with costs: score against cost, the Pareto front, and the masks that were chosen from it."""

import math
from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Estimate, Group, pareto_front
from masksearch.core.problem_and_trials import Trial
from masksearch.experiment import SweepResult
from masksearch.experiment.cell_results import Cap, CellResult
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover_texts import plot_points
from masksearch.report.figures.style import STYLE, Look, Looks, legend_below, panel_grid
from masksearch.searching.history_store import read_rows
from masksearch.utils.number_text import percent

_COLUMNS = 3  # side by side
_PANELS = 9
_COSTS = {"macs": "MACs", "params": "parameters", "latency": "measured latency"}


def front_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Yield a figure of score against cost, with a panel per search of a Pareto front; nothing if there is none."""
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
        "that were scored; line: the Pareto front (no mask has a higher score at lower cost); circles: the masks that "
        f"were chosen for the caps (dotted lines); crosses: masks of other methods at the caps.{left_out}"
    )
    objective = groups[0].cells[0].score.objective.replace("_", " ")
    labels = f"{cost} (% of the dense network's)", f"score ({objective})"
    yield Drawing("front", about, _figure(result, some, groups, labels, looks))


@mpl.rc_context(STYLE)
def _figure(
    result: SweepResult,
    panels: dict[tuple[str, str], list[Group]],
    groups: Sequence[Group],
    labels: tuple[str, str],
    looks: Looks,
) -> Figure:
    columns = min(_COLUMNS, len(panels))
    figure, grid = panel_grid(len(panels), columns, (9.5 if columns > 1 else 7.5, 3.2), 1.0, labels)
    others: dict[str, None] = {}
    for ((method, label), own), axes in zip(panels.items(), grid, strict=True):
        _panel(axes, _front_trials(result, own[0].cells[0]), own, looks.colour(method))
        for group in groups:
            cell = group.cells[0]
            if group.label == label and group.control == "none" and cell.cap and not cell.front:
                others[group.method] = None
                x, y = 100 * cell.cost_share(cell.cap.cost), cell.score.search_score
                if y is not None:
                    text = f"{looks.name(group.method)}: {x:.3g} %, {y:.4g}"
                    plot_points(
                        axes, [x], [y], [text], color=looks.colour(group.method), marker="x", linestyle="", markersize=6
                    )
        axes.set_title(looks.series_name(method, label))
    look: Look = {"marker": "x", "linestyle": ""}
    if others:
        legend_below(figure, [Line2D([], [], color=looks.colour(m), label=looks.name(m), **look) for m in others])
    return figure


def _front_trials(result: SweepResult, cell: CellResult) -> list[Trial]:
    """Return the trials with exact scores of the search that found the cell's mask."""
    assert cell.front is not None
    folder = result.path.parent / cell.front.folder
    trials = list(read_rows(folder)) if (folder / "history.jsonl").exists() else []
    return [trial for trial in trials if trial.score.exact and not math.isnan(trial.score.value)]


def _cap(cell: CellResult) -> Cap:
    assert cell.cap is not None, "a front is searched for caps"
    return cell.cap


def _panel(axes: Axes, trials: Sequence[Trial], groups: Sequence[Group], colour: str) -> None:
    values = [trial.score.value for trial in trials]
    costs = [100 * (trial.score.cost or 0.0) for trial in trials]
    axes.plot(costs, values, ".", color="#bbbbbb", markersize=3)
    front = pareto_front(values, costs)
    xs, ys = [costs[place] for place in front], [values[place] for place in front]
    axes.plot(xs, ys, color=colour, linewidth=1.5, drawstyle="steps-post")
    texts = [f"trial {trials[place].number}: {costs[place]:.3g} %, {values[place]:.4g}" for place in front]
    plot_points(axes, xs, ys, texts, marker=".", linestyle="", color=colour, markersize=5)
    by_number = {trial.number: trial for trial in trials}
    look: Look = {"marker": "o", "linestyle": "", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8}
    for group in groups:
        cell = group.cells[0]
        cap = _cap(cell).share
        axes.axvline(100 * cap, color="#999999", linewidth=0.8, linestyle=":")
        chosen = by_number.get(cell.front.trial) if cell.front else None
        if chosen is not None:
            x, y = 100 * (chosen.score.cost or 0.0), chosen.score.value
            value = Estimate.of([cell.trained.test_accuracy]).text(cell.metric.scale, cell.metric.digits)
            named = value + (cell.metric.unit or f" {cell.metric.name}")
            text = f"cap {percent(cap)}: {x:.3g} %, {y:.4g}; {named} after retraining"
            plot_points(axes, [x], [y], [text], color=colour, **look)
