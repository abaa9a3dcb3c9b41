"""Figures of searches: scores and distances over scorings."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from masksearch.analysis import Group
from masksearch.core.protocol import Trial
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import Drawing, percent
from masksearch.report.figures.hover import tell_along
from masksearch.report.figures.style import STYLE, Looks
from masksearch.searching.history_store import read_rows

__all__ = ["search_drawings"]

_POINTS = 800  # of a drawn search; more can't be told apart


def search_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Of every searcher, the first seed at the highest sparsity: the last round's search."""
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


def _search(trials: Sequence[Trial], colour: str, objective: str) -> Figure:
    """Score, current and best on the left axis, Hamming distances on the right one."""
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        stride = math.ceil(len(trials) / _POINTS)
        shown = trials[::stride]
        numbers = [trial.number for trial in shown]
        scores = [trial.score.value if trial.score.exact else math.nan for trial in shown]  # a bound is no score
        axes.plot(numbers, scores, ".", color="#bbbbbb", markersize=2, label="score")
        if "current" in trials[-1].metrics:
            current = [trial.metrics["current"] for trial in shown]
            axes.plot(numbers, current, color=colour, linewidth=1, alpha=0.6, label="current")
            texts = [f"current after scoring {n}: {value:.4g}" for n, value in zip(numbers, current, strict=True)]
            tell_along(axes, numbers, current, texts)
        numbers, values = _steps(trials)
        axes.plot(numbers, values, color=colour, linewidth=2, label="best", drawstyle="steps-post")
        texts = [f"best after scoring {number}: {value:.4g}" for number, value in zip(numbers, values, strict=True)]
        tell_along(axes, numbers, values, texts)
        axes.set(xlabel="scorings", ylabel=f"score ({objective})", xlim=(0, len(trials)))
        looks = [trial for trial in trials if "hamming_start" in trial.metrics]
        if looks:
            other = axes.twinx()
            other.grid(visible=False)
            other.spines["right"].set_visible(True)
            for name, style in (("hamming_start", "-"), ("hamming_best", ":")):
                points = [(t.number, t.metrics[name]) for t in looks if name in t.metrics]
                label = f"distance to the {name.removeprefix('hamming_')}"
                places, distances = zip(*points, strict=True)
                other.plot(places, distances, color="#777777", linestyle=style, linewidth=1.2, label=label)
                tell_along(other, places, distances, [f"{label} after scoring {n}: {d:g}" for n, d in points])
            other.set_ylabel("Hamming distance (units)")
            other.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=5)
        return figure


def _steps(trials: Iterable[Trial]) -> tuple[list[int], list[float]]:
    numbers, values = [], []
    for trial in trials:
        if trial.is_best:
            numbers.append(trial.number)
            values.append(trial.score.value)
        last = trial.number
    return [*numbers, last], [*values, values[-1] if values else math.nan]
