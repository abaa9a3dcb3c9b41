"""Reading results: estimates over seeds."""

from masksearch.analysis.summary import Estimate, SummaryRow, summarise

__all__ = ["Estimate", "SummaryRow", "summarise"]
