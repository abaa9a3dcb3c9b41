"""Reading results: cells grouped over seeds, estimates, rows of tables."""

from masksearch.analysis.estimate import Estimate
from masksearch.analysis.groups import Group, group_cells
from masksearch.analysis.orthogonality import orthogonality_score
from masksearch.analysis.round_rows import MOMENTS, RoundRow
from masksearch.analysis.summary import SummaryRow, summarise

__all__ = [
    "MOMENTS",
    "Estimate",
    "Group",
    "RoundRow",
    "SummaryRow",
    "group_cells",
    "orthogonality_score",
    "summarise",
]
