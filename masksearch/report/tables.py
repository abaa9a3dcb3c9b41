"""The results table, in the terminal and as Markdown."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from masksearch.analysis import Estimate, SummaryRow
from masksearch.report.style import name_of

__all__ = ["COLUMNS", "cells_of", "markdown_table", "terminal_table"]

COLUMNS = (
    "method",
    "sparsity",
    "found",
    "untrained %",
    "trained %",
    "gap",
    "params",
    "MACs %",
    "speed x",
    "scorings",
    "search s",
    "train s",
)
_WIDE = 132  # characters that all columns need
_OMITTED = ("found", "params", "scorings", "search s", "train s")


def cells_of(row: SummaryRow) -> tuple[str, ...]:
    """The texts of a row, in order of ``COLUMNS``: test accuracies and the optimism gap in percent and points."""
    method = name_of(row.method) + f" ({row.variant})" * bool(row.variant)
    method += f" (empties a layer: {row.emptied} of {row.trained.n})" if row.emptied else ""
    return (
        method,
        f"{100 * row.sparsity:.4g} %" if row.sparsity else "–",
        row.find_at,
        row.untrained.text(100),
        row.trained.text(100),
        _mean(row.accuracy_gap, "+.1f", 100),
        _mean(row.params, ",.0f"),
        _mean(row.macs, ".1f", 100),
        _mean(row.speedup, ".2f"),
        _mean(row.scorings, ".0f"),
        _mean(row.search_seconds, ".1f"),
        _mean(row.retrain_seconds, ".1f"),
    )


def _mean(estimate: Estimate, form: str, scale: float = 1.0) -> str:
    return "–" if math.isnan(estimate.mean) else f"{scale * estimate.mean:{form}}"


def terminal_table(rows: Sequence[SummaryRow], width: int) -> Table:
    """For a rich console of that many characters; a narrow one gets the columns that matter."""
    shown = [place for place, column in enumerate(COLUMNS) if width >= _WIDE or column not in _OMITTED]
    seeds = rows[0].trained.n if rows else 0
    table = Table(caption=caption(seeds), caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place in shown:
        table.add_column(COLUMNS[place], justify="left" if place == 0 else "right", no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.sparsity != row.sparsity:
            table.add_section()
        cells = cells_of(row)
        table.add_row(*(cells[place] for place in shown))
    return table


def markdown_table(rows: Sequence[SummaryRow]) -> str:
    """For a page."""
    lines = [COLUMNS, ("---",) + ("---:",) * (len(COLUMNS) - 1), *map(cells_of, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def caption(seeds: int) -> str:
    """What the columns are."""
    interval = "mean ± 95 % interval" if seeds > 1 else "one seed, no interval"
    return (
        f"Test accuracy after the last epoch, {interval} over {seeds} seed{'s' * (seeds > 1)}. "
        "found: moment of the dense training whose weights the mask was found at. "
        "untrained: under the mask, at the weights that retraining starts from. "
        "gap: the optimism gap, accuracy on the search images minus on the rest of val, in points. "
        "params: not zero. MACs: effective, of the dense network's. "
        "speed: latency of the dense network / of this one, batches of 64, measured in turn."
    )
