"""Figures of searches: scores and distances of masks against the number of masks scored."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from masksearch.analysis import Group
from masksearch.core.problem_and_trials import Trial
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover_texts import plot_curve
from masksearch.report.figures.style import STYLE, Look, Looks
from masksearch.searching.history_store import read_rows
from masksearch.utils.number_text import percent

_POINTS = 800  # of a drawn search; more can't be distinguished


def search_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Yield a figure per searcher, of its search at the highest sparsity: scores and distances of masks by scorings."""
    chosen: dict[str, tuple[Group, Path]] = {}
    for group in groups:
        folder = result.folders[group.places[0]]
        known = chosen.get(group.method)
        if (folder / "history.jsonl").exists() and (known is None or group.sparsity > known[0].sparsity):
            chosen[group.method] = group, folder
    for group, folder in chosen.values():
        cell = group.cells[0]
        objective = cell.score.objective.replace("_", " ")
        name = ", ".join([looks.series_name(group.method, group.label), f"{percent(group.sparsity)} sparse"])
        rounds = f", round {len(cell.rounds)}" if len(cell.rounds) > 1 else ""
        trials = list(read_rows(folder))
        figure = _search(trials, looks.colour(group.method), objective)
        yield Drawing(f"search_{group.method}", f"{name}, seed {cell.seed}{rounds}", figure)


@mpl.rc_context(STYLE)
def _search(trials: Sequence[Trial], colour: str, objective: str) -> Figure:
    """Score, current and best on the left axis, Hamming distances on the right one."""
    figure = Figure()
    axes = figure.subplots()
    shown = trials[:: math.ceil(len(trials) / _POINTS)]
    numbers = [trial.number for trial in shown]
    scores = [trial.score.value if trial.score.exact else math.nan for trial in shown]  # a bound is no score
    axes.plot(numbers, scores, ".", color="#bbbbbb", markersize=2, label="score")
    if "current" in trials[-1].metrics:
        current = [trial.metrics["current"] for trial in shown]
        look: Look = {"color": colour, "linewidth": 1, "alpha": 0.6, "label": "current"}
        plot_curve(axes, numbers, current, "current after scoring", **look)
    best = [trial for trial in trials if trial.is_best]
    numbers, values = [trial.number for trial in best], [trial.score.value for trial in best]
    look = {"color": colour, "linewidth": 2, "label": "best", "drawstyle": "steps-post"}
    ends = [*numbers, trials[-1].number], [*values, values[-1] if best else math.nan]
    plot_curve(axes, *ends, "best after scoring", **look)
    axes.set(xlabel="scorings", ylabel=f"score ({objective})", xlim=(0, len(trials)))
    if any("hamming_start" in trial.metrics for trial in trials):
        other = axes.twinx()
        other.grid(visible=False)
        other.spines["right"].set_visible(True)
        for of, style in (("start", "-"), ("best", ":")):
            seen = [trial for trial in trials if f"hamming_{of}" in trial.metrics]
            points = [trial.number for trial in seen], [trial.metrics[f"hamming_{of}"] for trial in seen]
            label = f"distance to the {of}"
            look = {"color": "#777777", "linestyle": style, "linewidth": 1.2, "label": label}
            plot_curve(other, *points, f"{label} after scoring", "g", **look)
        other.set(ylabel="Hamming distance (units)")
        other.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=5)
    return figure
