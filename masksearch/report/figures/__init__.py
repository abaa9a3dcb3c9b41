"""Figures of a sweep, by headings of its report."""

from collections.abc import Iterator, Sequence

from masksearch.analysis import SummaryRow, group_cells
from masksearch.experiment import SweepResult
from masksearch.report.figures.accuracy import accuracy_drawings
from masksearch.report.figures.accuracy_by_find_at import found_at_drawings
from masksearch.report.figures.curves_by_sparsity import trajectory_drawings
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.early_bird_heatmaps import early_bird_drawings
from masksearch.report.figures.layer_densities import layer_drawings
from masksearch.report.figures.pareto_fronts import front_drawings
from masksearch.report.figures.search_curves import search_drawings
from masksearch.report.figures.style import Looks
from masksearch.report.figures.weight_histograms import weight_drawings

__all__ = ["sweep_drawings"]


def sweep_drawings(result: SweepResult, rows: Sequence[SummaryRow]) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield (heading, figures under that heading) for each section of a sweep's report."""
    groups = group_cells(result.cells)
    looks = Looks(groups)
    name = result.metric.name
    name = name[0].upper() + name[1:]
    parts = {
        f"{name} against sparsity": accuracy_drawings(rows, looks),
        f"{name} against the moment at which masks are found": found_at_drawings(groups, result.dense, looks),
        "Early-bird tickets": early_bird_drawings(groups),
        "The trainings": trajectory_drawings(groups, result.dense, looks),
        "Layers": layer_drawings(groups, looks),
        "Weights": weight_drawings(result, groups, looks),
        "Score against cost": front_drawings(result, groups, looks),
        "The searches": search_drawings(result, groups, looks),
    }
    for heading, drawings in parts.items():
        if some := list(drawings):
            yield heading, some
