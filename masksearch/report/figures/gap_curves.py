"""Optimism gaps of searches, and how they fall with the number of images that a search sees."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

from masksearch.analysis import Estimate, Group, group_cells
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import Drawing, percent
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import STYLE, Looks, legend_columns, name_of
from masksearch.report.tables.text_table import Grid

__all__ = ["gaps"]


def gaps(results: Mapping[str, SweepResult]) -> tuple[list[Grid], list[Drawing]]:
    """Gaps of all searches of runs, by name; a figure of the gaps over the number of search images."""
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
            name = ", ".join(filter(None, [name_of(group.method), group.label]))
            numbers = (gap.text(100, 2, "+"), score.text(1, 4, "+"))
            rows.append((run, str(images or "default"), name, percent(group.sparsity), *numbers))
            searched.append(group)
            if images:
                lines.setdefault((group.method, group.label, group.sparsity), []).append((images, gap))
    about = (
        "A search's accuracy (in points) and score on the images that it saw, minus those on the rest of val. Runs "
        "with different --search-examples show how it falls with their number."
    )
    head = ("run", "search images", "method", "sparsity", "accuracy gap", "score gap")
    grids = [Grid("Optimism gaps", head, rows, 3, about)] if rows else []
    several = {key: points for key, points in lines.items() if len({images for images, _ in points}) > 1}
    if not several:
        return grids, []
    caption = "Optimism gaps of searches against the number of validation images that they saw, means over seeds."
    return grids, [Drawing("gap", caption, _figure(several, Looks(searched)))]


def _figure(lines: dict[tuple[str, str, float], list[tuple[int, Estimate]]], looks: Looks) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        for number, ((method, label, sparsity), points) in enumerate(lines.items()):
            ordered = sorted(points, key=lambda point: point[0])
            name = ", ".join(filter(None, [looks.name(method), label, percent(sparsity)]))
            [line] = axes.plot(
                [images for images, _ in ordered],
                [100 * gap.mean for _, gap in ordered],
                color=looks.colour(method),
                label=name,
                marker="osD^v"[number % 5],
            )
            tell(line, [f"{name}, {images} images: {gap.text(100, 2, '+')} points" for images, gap in ordered])
        ticks = sorted({images for points in lines.values() for images, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="search images", ylabel="accuracy gap (points)")
        figure.legend(
            loc="outside lower center", ncols=legend_columns(map(str, axes.get_legend_handles_labels()[1]), 7.5)
        )
        return figure
