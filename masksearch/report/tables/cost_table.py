"""The table of costs: what the smaller networks are worth, and what they still cost."""

from collections.abc import Sequence

from masksearch.analysis import SummaryRow
from masksearch.report.figures.style import name_of

__all__ = ["COSTS_ABOUT", "COST_COLUMNS", "COST_TEXTS", "cost_rows"]

COST_COLUMNS = (
    "method",
    "variant",
    "sparsity",
    "found",
    "accuracy %",
    "params",
    "compression",
    "MACs",
    "MACs %",
    "test s",
    "latency ms",
    "speed x",
)
COST_TEXTS = 2  # columns of words
COSTS_ABOUT = (
    "Means over seeds. Accuracy: on the test set, after the last epoch. Params: not zero. Compression: parameters of "
    "the dense network / those. MACs: effective, of one image. Test: seconds of one pass over the test images, as "
    "measured, with whatever else the machine was doing. Latency: milliseconds of a batch of 64. Speed: latency of the "
    "dense network / of this one, measured in turn. Masked weights save no time in dense kernels; removed filters do."
)


def cost_rows(rows: Sequence[SummaryRow]) -> list[tuple[str, ...]]:
    """The texts of the table, in order of ``COST_COLUMNS``."""
    return [
        (
            name_of(row.method, row.learned),
            row.variant,
            f"{100 * row.sparsity:.4g} %" if row.sparsity else "–",
            row.find_at,
            row.trained.plain(".2f", 100),
            row.params.plain(",.0f"),
            row.compression.plain(".2f"),
            row.total_macs.plain(",.0f"),
            row.macs.plain(".1f", 100),
            row.test_seconds.plain(".3f"),
            row.latency.plain(".3f", 1000),
            row.speedup.plain(".2f"),
        )
        for row in rows
        if row.control == "none"  # a control has the layers of what it is a control of
    ]
