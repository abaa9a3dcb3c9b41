"""Analysis of results: means over seeds, paired tests, curves, Pareto fronts and similarity of masks."""

from masksearch.analysis.curves_and_fronts import Band, band, best_so_far, pareto_front
from masksearch.analysis.paired_sweeps_and_controls import (
    ControlRow,
    PairedRow,
    control_rows,
    different_settings,
    paired_rows,
)
from masksearch.analysis.saved_masks import group_masks, group_orthogonality, read_mask
from masksearch.analysis.seed_groups import Group, group_cells
from masksearch.analysis.similarity_and_orthogonality import (
    SIMILARITIES,
    orthogonality_score,
    random_like,
    similarity_matrix,
    similarity_means,
)
from masksearch.analysis.statistics import INTERVALS, MARGIN, Estimate, Paired, Ranks, holm, paired, ranks, win_matrix
from masksearch.analysis.summary_rows import MOMENTS, RoundRow, SummaryRow, layer_means, summarise

__all__ = [
    "INTERVALS",
    "MARGIN",
    "MOMENTS",
    "SIMILARITIES",
    "Band",
    "ControlRow",
    "Estimate",
    "Group",
    "Paired",
    "PairedRow",
    "Ranks",
    "RoundRow",
    "SummaryRow",
    "band",
    "best_so_far",
    "control_rows",
    "different_settings",
    "group_cells",
    "group_masks",
    "group_orthogonality",
    "holm",
    "layer_means",
    "orthogonality_score",
    "paired",
    "paired_rows",
    "pareto_front",
    "random_like",
    "ranks",
    "read_mask",
    "similarity_matrix",
    "similarity_means",
    "summarise",
    "win_matrix",
]
