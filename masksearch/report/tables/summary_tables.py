"""Tables of summary rows: the results, the masks of all rounds at all moments, and the costs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from rich.console import Group, RenderableType
from rich.table import Table

from masksearch.analysis import SummaryRow
from masksearch.analysis.seed_groups import name_of
from masksearch.report.figures.drawing import percent
from masksearch.report.tables.table_formats import Grid

__all__ = [
    "COSTS",
    "caption",
    "columns_of",
    "costs_grid",
    "costs_markdown",
    "markdown_table",
    "moments_grid",
    "moments_markdown",
    "results_grid",
    "table_rows",
    "terminal_table",
]

COSTS = {"macs": "MACs", "params": "params", "latency": "latency"}
_COLUMNS: dict[str, Callable[[SummaryRow], str]] = {
    "method": lambda row: _method(row),
    "variant": lambda row: row.variant,
    "sparsity": lambda row: percent(row.sparsity) if row.sparsity else "–",
    "cap": lambda row: f"{percent(row.cap.share)} of {COSTS[row.cap.cost]}" if row.cap else "–",
    "cost %": lambda row: row.capped.plain(".1f", 100) if row.cap else "–",
    "found": lambda row: row.find_at,
    "untrained %": lambda row: row.untrained.text(100),
    "trained %": lambda row: row.trained.text(100),
    "gap": lambda row: row.accuracy_gap.plain("+.1f", 100),
    "params": lambda row: row.params.plain(",.0f"),
    "MACs %": lambda row: row.macs.plain(".1f", 100),
    "speed x": lambda row: row.speedup.plain(".2f"),
    "scorings": lambda row: _scorings(row),
    "search s": lambda row: row.search_seconds.plain(".1f"),
    "train s": lambda row: row.retrain_seconds.plain(".1f"),
}
_LESS = (
    *("train s", "search s", "scorings", "params", "gap", "speed x"),
    *("MACs %", "found", "cap", "cost %", "untrained %"),
)
"""Columns that a narrow terminal leaves out, in this order."""
_MEANINGS = {
    "variant": "variant: what tells rows of a method apart.",
    "cap": "cap: what a mask may cost, of the dense network's; sparsity: 1 - cap.",
    "cost %": "cost: of that, what it does cost, means over seeds.",
    "found": "found: moment of the dense training whose weights the mask was found at.",
    "untrained %": "untrained: under the mask, at the weights that retraining starts from.",
    "gap": "gap: the optimism gap, accuracy on the search images minus on the rest of val, in points.",
    "params": "params: not zero.",
    "MACs %": "MACs: effective, of the dense network's.",
    "speed x": "speed: latency of the dense network / of this one, batches of 64, measured in turn.",
}


def _method(row: SummaryRow) -> str:
    notes = {"empties a layer": row.emptied, "constant outputs": row.constant, "diverged": row.diverged}
    notes["mask of a criterion kept"] = row.kept_criteria
    marks = [f"{note}: {count} of {row.trained.n}" for note, count in notes.items() if count]
    return name_of(row.method, row.learned) + (f" ({'; '.join(marks)})" if marks else "")


def _scorings(row: SummaryRow) -> str:
    own = row.scorings.plain(".0f")
    return f"{own} + {row.foreign_trials.plain('.0f')}" if row.foreign_trials.mean > 0 else own


def columns_of(rows: Sequence[SummaryRow]) -> list[str]:
    """Return the columns of the results table; ``variant``, ``cap`` and ``cost %`` are left out if no row has one."""
    left_out = set() if any(row.variant for row in rows) else {"variant"}
    left_out |= set() if any(row.cap for row in rows) else {"cap", "cost %"}
    return [column for column in _COLUMNS if column not in left_out]


def table_rows(rows: Sequence[SummaryRow], columns: Sequence[str]) -> list[list[str]]:
    """Return the texts of every row in these columns of the results table."""
    return [[_COLUMNS[column](row) for column in columns] for row in rows]


def results_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return the results table of summary rows."""
    columns = columns_of(rows)
    starts = [place for place in range(1, len(rows)) if rows[place - 1].sparsity != rows[place].sparsity]
    texts = 1 + ("variant" in columns)
    return Grid("Results", columns, table_rows(rows, columns), texts, caption(rows, columns), starts)


def terminal_table(rows: Sequence[SummaryRow], width: int) -> RenderableType:
    """Return the results table for a rich console of ``width`` characters, with a table of rounds if there are any."""
    table = replace(results_grid(rows), title="").terminal(width, _LESS)
    table.caption = caption(rows, [str(column.header) for column in table.columns])
    if not any(len(row.rounds) > 1 for row in rows):
        return table
    return Group(table, "", _rounds_terminal(rows, width))


def markdown_table(rows: Sequence[SummaryRow]) -> str:
    """Return the results table as Markdown, without the explanation of its columns."""
    return replace(results_grid(rows), about="").markdown(heading=False)


def caption(rows: Sequence[SummaryRow], columns: Sequence[str]) -> str:
    """Return the sentences that explain these columns of the results table."""
    seeds = max((row.trained.n for row in rows), default=0)
    over = f"mean ± 95 % interval over {seeds} seeds" if seeds > 1 else "one seed, so without intervals"
    sentences = [f"Test accuracy after the last epoch: {over}."]
    sentences += [text for column, text in _MEANINGS.items() if column in columns]
    if any(row.control != "none" for row in rows):
        sentences.append(
            "shuffled: a control, the mask permuted within its layers; reinitialised: a control, the mask on fresh "
            "weights; repaired: the mask on weights made as orthonormal under it as it allows."
        )
    if "scorings" in columns and any(row.foreign_trials.mean > 0 for row in rows):
        sentences.append("scorings: a search's own + those of other searches that it took in, from a shared study.")
    if any(row.learned for row in rows):
        sentences.append(
            "(learned): supermasks, whose masks gradients have trained: they see more than scores and are no "
            "black-box search."
        )
    return " ".join(sentences)


_ACCURACIES = ("rewound %", "@w0 %", "@w(t-1) %", "trained %")
_MOMENT_COLUMNS = (
    *("method", "variant", "sparsity", "found", "round", "density %"),
    *(column for name in _ACCURACIES for column in (name, "loss")),
    "best epoch",
)
_MOMENTS_ABOUT = (
    "Means over seeds: test accuracy and test loss under the mask of every round, at the weights that its training "
    "starts from (rewound), at the dense network's best weights by validation (@w0), at the weights that the mask was "
    "found at, which are the last round's (@w(t-1)), and after training. The dense network: its best weights by "
    "validation, and its last. Best epoch: by validation, counted as the learning rate's schedule counts."
)


def moments_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return the table of every round's test accuracy and loss under its mask, at all weights of :data:`MOMENTS`."""
    lines = [(*_names(row), *round_.texts) for row in rows for round_ in row.rounds]
    several = any(len(row.rounds) > 1 for row in rows)
    starts = list(accumulate(len(row.rounds) for row in rows))[:-1] if several else ()
    return Grid("Masks at all moments", _MOMENT_COLUMNS, lines, 2, _MOMENTS_ABOUT, starts)


def moments_markdown(rows: Sequence[SummaryRow]) -> str:
    """Return the table of all rounds and moments as Markdown, with its explanation."""
    return moments_grid(rows).markdown(heading=False)


def _rounds_terminal(rows: Sequence[SummaryRow], width: int) -> Table:
    """The dense network and the rows with several rounds; names are only at the first round of each row."""
    grid = moments_grid([row for row in rows if len(row.rounds) > 1 or row.method == "dense"])
    firsts = {0, *grid.starts}
    lines = [line if place in firsts else ("",) * 4 + tuple(line[4:]) for place, line in enumerate(grid.rows)]
    return replace(grid, title="Rounds", rows=lines).terminal(width, ("found", "best epoch", "loss"))


def _names(row: SummaryRow) -> tuple[str, str, str, str]:
    sparsity = percent(row.sparsity) if row.sparsity else "–"
    return name_of(row.method, row.learned), row.variant, sparsity, row.find_at


_COST_COLUMNS: dict[str, Callable[[SummaryRow], str]] = {
    "accuracy %": lambda row: row.trained.plain(".2f", 100),
    "params": lambda row: row.params.plain(",.0f"),
    "compression": lambda row: row.compression.plain(".2f"),
    "MACs": lambda row: row.total_macs.plain(",.0f"),
    "MACs %": lambda row: row.macs.plain(".1f", 100),
    "test s": lambda row: row.test_seconds.plain(".3f"),
    "latency ms": lambda row: row.latency.plain(".3f", 1000),
    "speed x": lambda row: row.speedup.plain(".2f"),
}
_COSTS_ABOUT = (
    "Means over seeds. Accuracy: on the test set, after the last epoch. Params: not zero. Compression: parameters of "
    "the dense network / those. MACs: effective, of one image. Test: seconds of one pass over the test images, as "
    "measured, with whatever else the machine was doing. Latency: milliseconds of a batch of 64. Speed: latency of the "
    "dense network / of this one, measured in turn. Masked weights save no time in dense kernels; removed filters do."
)


def costs_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return the table of accuracies, parameters, MACs and latencies; a control costs as much as its ticket."""
    lines = [(*_names(row), *(text(row) for text in _COST_COLUMNS.values())) for row in rows if row.control == "none"]
    return Grid("Costs", (*_MOMENT_COLUMNS[:4], *_COST_COLUMNS), lines, 2, _COSTS_ABOUT)


def costs_markdown(rows: Sequence[SummaryRow]) -> str:
    """Return the table of costs as Markdown, with its explanation."""
    return costs_grid(rows).markdown(heading=False)
