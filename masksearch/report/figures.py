"""All figures of a sweep: those that it has the data for, by the part of the page that they belong to."""

from collections.abc import Iterator, Sequence

from masksearch.analysis import SummaryRow, group_cells
from masksearch.experiment import SweepResult
from masksearch.report.accuracies import accuracy_drawings
from masksearch.report.drawing import Drawing
from masksearch.report.early_bird import early_bird_drawings
from masksearch.report.found_at import found_at_drawings
from masksearch.report.fronts import front_drawings
from masksearch.report.histograms import weight_drawings
from masksearch.report.layers import layer_drawings
from masksearch.report.searches import search_drawings
from masksearch.report.style import Looks
from masksearch.report.trajectories import trajectory_drawings

__all__ = ["sweep_drawings"]


def sweep_drawings(result: SweepResult, rows: Sequence[SummaryRow]) -> Iterator[tuple[str, list[Drawing]]]:
    """Headings of parts, and the figures of each.

    Parameters
    ----------
    rows : sequence of SummaryRow
        The summary of ``result``.
    """
    groups = group_cells(result.cells)
    looks = Looks(groups)
    parts = {
        "Accuracy against sparsity": accuracy_drawings(rows, looks),
        "Accuracy against the moment that masks are found at": found_at_drawings(groups, result.dense, looks),
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
