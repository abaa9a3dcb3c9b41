"""Figures of a sweep."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from masksearch.analysis import Estimate, SummaryRow
from masksearch.experiment import SweepResult
from masksearch.history_file import read_rows
from masksearch.report.style import STYLE, colour, name_of

__all__ = ["accuracy_figure", "trajectory_figure", "trajectory_folders"]

_POINTS = 1500  # of a drawn trajectory; more can't be told apart


def accuracy_figure(rows: Sequence[SummaryRow]) -> Figure:
    """Test accuracy against sparsity, a line per method with 95 % intervals: untrained left, trained right."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.2))
        left, right = figure.subplots(1, 2)
        _accuracies(left, rows, "untrained")
        _accuracies(right, rows, "trained")
        left.set(title="untrained, under the mask", ylabel="test accuracy (%)")
        right.set(title="after retraining")
        dense = rows[0].trained.mean
        right.axhline(100 * dense, color="#222222", linewidth=1, linestyle=":", label="dense")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return figure


def _accuracies(axes: Axes, rows: Sequence[SummaryRow], moment: str) -> None:
    lines: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows[1:]:
        lines.setdefault((row.method, row.find_at), []).append(row)
    several = len({find_at for _, find_at in lines if find_at != "end"}) > 1
    for number, ((method, find_at), points) in enumerate(lines.items()):
        estimates: list[Estimate] = [getattr(row, moment) for row in points]
        # A little aside, each line its own way, so that intervals don't hide each other.
        aside = 0.15 * (number - (len(lines) - 1) / 2)
        axes.errorbar(
            [100 * row.sparsity + aside for row in points],
            [100 * e.mean for e in estimates],
            yerr=[0 if math.isnan(e.half_width) else 100 * e.half_width for e in estimates],
            label=name_of(method) + (f", k = {find_at}" if several else ""),
            color=colour(method),
            marker="o",
            markersize=4,
            linewidth=1.5,
            capsize=2.5,
        )
    axes.set_xlabel("sparsity (%)")
    means = [100 * getattr(row, moment).mean for row in rows[1:]]
    axes.set_ylim(max(0, min(means) - 5), min(101, max(means) + 5))  # the intervals of few seeds reach far beyond
    axes.set_xticks(sorted({100 * row.sparsity for row in rows[1:]}))


def trajectory_folders(result: SweepResult) -> list[Path]:
    """Cells whose search is worth drawing: of every searcher, the first seed at the highest sparsity."""
    chosen: dict[str, tuple[float, Path]] = {}
    for cell, folder in zip(result.cells, result.folders, strict=True):
        if not (folder / "history.jsonl").exists():
            continue
        if cell["method"] not in chosen or cell["sparsity"] > chosen[cell["method"]][0]:
            chosen[cell["method"]] = (cell["sparsity"], folder)
    return [folder for _, folder in chosen.values()]


def trajectory_figure(folder: Path, method: str, objective: str) -> Figure:
    """A search over its scorings: score, current and best on the left axis, Hamming distances on the right one."""
    trials = list(read_rows(folder))
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        stride = max(1, len(trials) // _POINTS)
        shown = trials[::stride]
        numbers = [trial.number for trial in shown]
        axes.plot(numbers, [trial.score.value for trial in shown], ".", color="#bbbbbb", markersize=2, label="score")
        if "current" in trials[-1].metrics:
            current = [trial.metrics["current"] for trial in shown]
            axes.plot(numbers, current, color=colour(method), linewidth=1, alpha=0.6, label="current")
        axes.plot(*_steps(trials), color=colour(method), linewidth=2, label="best", drawstyle="steps-post")
        axes.set(xlabel="scorings", ylabel=f"score ({objective.replace('_', ' ')})", xlim=(0, len(trials)))
        looks = [trial for trial in trials if "hamming_start" in trial.metrics]
        if looks:
            other = axes.twinx()
            other.grid(visible=False)
            other.spines["right"].set_visible(True)
            for name, style in (("hamming_start", "-"), ("hamming_best", ":")):
                points = [(t.number, t.metrics[name]) for t in looks if name in t.metrics]
                label = f"distance to the {name.removeprefix('hamming_')}"
                other.plot(*zip(*points, strict=True), color="#777777", linestyle=style, linewidth=1.2, label=label)
            other.set_ylabel("Hamming distance (units)")
            other.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=5)
        return figure


def _steps(trials: Iterable) -> tuple[list[int], list[float]]:
    numbers, values = [], []
    for trial in trials:
        if trial.is_best:
            numbers.append(trial.number)
            values.append(trial.score.value)
        last = trial.number
    return [*numbers, last], [*values, values[-1] if values else math.nan]
