"""Reading results: cells grouped over seeds, estimates, comparisons, curves, rows of tables."""

from masksearch.analysis.anytime import Band, band, best_so_far
from masksearch.analysis.estimate import Estimate
from masksearch.analysis.groups import Group, group_cells
from masksearch.analysis.orthogonality import orthogonality_score
from masksearch.analysis.pareto import pareto_front
from masksearch.analysis.round_rows import MOMENTS, RoundRow
from masksearch.analysis.statistics import MARGIN, Paired, Ranks, holm, paired, ranks, win_matrix
from masksearch.analysis.summary import SummaryRow, summarise

__all__ = [
    "MARGIN",
    "MOMENTS",
    "Band",
    "Estimate",
    "Group",
    "Paired",
    "Ranks",
    "RoundRow",
    "SummaryRow",
    "band",
    "best_so_far",
    "group_cells",
    "holm",
    "orthogonality_score",
    "paired",
    "pareto_front",
    "ranks",
    "summarise",
    "win_matrix",
]
