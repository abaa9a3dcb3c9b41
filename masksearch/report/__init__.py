"""Reports of a sweep: tables, figures and the page ``report.html``."""

from masksearch.report.figures import sweep_drawings
from masksearch.report.figures.drawing import Drawing
from masksearch.report.html_page import write_report
from masksearch.report.tables.results_csv import write_rows
from masksearch.report.tables.summary_tables import costs_markdown, markdown_table, moments_markdown, terminal_table

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
