"""Optimism gaps (score on the search's examples minus score on others): a table, and a figure by number of examples."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

from masksearch.analysis import Estimate, Group, group_cells
from masksearch.experiment import SweepResult
from masksearch.experiment.result_parts import Metric
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover_texts import plot_points
from masksearch.report.figures.style import STYLE, Look, Looks, legend_below
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.number_text import percent


def gaps(results: Mapping[str, SweepResult]) -> tuple[list[Grid], list[Drawing]]:
    """Return a table and a figure of how much better searched masks score on the search's examples than on others."""
    rows = []
    lines: dict[tuple[str, str, float], list[tuple[int, Estimate]]] = {}  # by method, label and sparsity
    searched: list[Group] = []
    for run, result in results.items():
        for group in group_cells(result.cells):
            if group.control != "none" or not group.cells[0].scorings:
                continue
            images = group.cells[0].setting("search_examples")
            gap = Estimate.of(cell.score.accuracy_gap for cell in group.cells)
            score = Estimate.of(cell.score.gap for cell in group.cells)
            metric = result.metric
            numbers = (gap.text(metric.scale, metric.digits, "+"), score.text(1, 4, "+"))
            rows.append((run, str(images or "default"), group.name, percent(group.sparsity), *numbers))
            searched.append(group)
            if images:
                lines.setdefault((group.method, group.label, group.sparsity), []).append((images, gap))
    metric = next((result.metric for result in results.values()), Metric())
    points, examples = " (in points)" * metric.is_accuracy, "images" if metric.is_accuracy else "examples"
    about = (
        f"Optimism gap: {metric.name}{points} and score of the found mask on the search {examples}, minus those on the "
        f"other validation {examples}. Runs with different --search-examples show how the gap falls with their number."
    )
    head = ("run", f"search {examples}", "method", "sparsity", f"{metric.name} gap", "score gap")
    grids = [Grid("Optimism gaps", head, rows, 3, about)] if rows else []
    several = {key: points for key, points in lines.items() if len({images for images, _ in points}) > 1}
    if not several:
        return grids, []
    caption = f"Optimism gaps of searches against the number of search {examples}, means over seeds."
    return grids, [Drawing("gap", caption, _figure(several, Looks(searched), metric))]


@mpl.rc_context(STYLE)
def _figure(lines: dict[tuple[str, str, float], list[tuple[int, Estimate]]], looks: Looks, metric: Metric) -> Figure:
    figure, examples = Figure(), "images" if metric.is_accuracy else "examples"
    axes = figure.subplots()
    for number, ((method, label, sparsity), points) in enumerate(lines.items()):
        images, estimates = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        name = ", ".join(filter(None, [looks.name(method), label, percent(sparsity)]))
        gaps = [
            estimate.text(metric.scale, metric.digits, "+") + metric.is_accuracy * " points" for estimate in estimates
        ]
        texts = [f"{name}, {n} {examples}: {gap}" for n, gap in zip(images, gaps, strict=True)]
        look: Look = {"color": looks.colour(method), "label": name, "marker": "osD^v"[number % 5]}
        plot_points(axes, images, [metric.scale * estimate.mean for estimate in estimates], texts, **look)
    ticks = sorted({images for points in lines.values() for images, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=f"search {examples}", ylabel=f"{metric.name} gap" + " (points)" * metric.is_accuracy)
    legend_below(figure, axes.lines)
    return figure
