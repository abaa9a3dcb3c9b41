"""Reports: the results table and ``report.html``."""

from masksearch.report.page import write_report
from masksearch.report.tables import markdown_table, terminal_table

__all__ = ["markdown_table", "terminal_table", "write_report"]
