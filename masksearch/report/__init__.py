"""Reports: the tables, the figures and ``report.html``."""

from masksearch.report.drawing import Drawing
from masksearch.report.figures import sweep_drawings
from masksearch.report.page import write_report
from masksearch.report.rows import write_rows
from masksearch.report.tables import costs_markdown, markdown_table, moments_markdown, terminal_table

__all__ = [
    "Drawing",
    "costs_markdown",
    "markdown_table",
    "moments_markdown",
    "sweep_drawings",
    "terminal_table",
    "write_report",
    "write_rows",
]
