"""Tables of results over seeds: the main table, the masks of all pruning rounds, and the costs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from rich.console import Group, RenderableType
from rich.table import Table

from masksearch.analysis import SummaryRow
from masksearch.analysis.seed_groups import name_of
from masksearch.experiment.result_parts import Metric
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.number_text import percent

COSTS = {"macs": "MACs", "params": "params", "latency": "latency"}
_COLUMNS: dict[str, Callable[[SummaryRow], str]] = {
    "method": lambda row: _method(row),
    "variant": lambda row: row.variant,
    "sparsity": lambda row: percent(row.sparsity) if row.sparsity else "–",
    "cap": lambda row: f"{percent(row.cap.share)} of {COSTS[row.cap.cost]}" if row.cap else "–",
    "cost %": lambda row: row.capped.plain(".1f", 100) if row.cap else "–",
    "found": lambda row: row.find_at,
    "masked %": lambda row: row.masked.text(row.metric.scale, row.metric.digits),
    "untrained %": lambda row: row.untrained.text(row.metric.scale, row.metric.digits),
    "trained %": lambda row: row.trained.text(row.metric.scale, row.metric.digits),
    "gap": lambda row: row.accuracy_gap.plain(f"+.{1 if row.metric.is_accuracy else 3}f", row.metric.scale),
    "params": lambda row: row.params.plain(",.0f"),
    "MACs %": lambda row: row.macs.plain(".1f", 100),
    "speed x": lambda row: row.speedup.plain(".2f"),
    "scorings": lambda row: _scorings(row),
    "search s": lambda row: row.search_seconds.plain(".1f"),
    "train s": lambda row: row.retrain_seconds.plain(".1f"),
}
_LESS = (
    *("train s", "search s", "scorings", "params", "gap", "speed x"),
    *("MACs %", "found", "cap", "cost %", "masked %", "untrained %"),
)
"""Columns that a narrow terminal leaves out, in this order."""
_MEANINGS = {
    "variant": "variant: settings in which rows of the same method differ.",
    "cap": "cap: highest allowed cost of a mask, as a share of the dense network's; sparsity: 1 - cap.",
    "cost %": "cost: cost of the masks, as a share of the dense network's, means over seeds.",
    "found": "found: moment of the dense training at which the mask was found.",
    "masked %": "masked: the masked network before the repair.",
    "untrained %": "untrained: the masked network with the weights that retraining starts from, after any repair.",
    "repaired %": "repaired: the masked network after the repair of its weights (reconstruct), before retraining.",
    "gap": "gap: the optimism gap, {gap}.",
    "params": "params: parameters that are not zero.",
    "MACs %": "MACs: multiply-adds of the kept weights, as a share of the dense network's.",
    "speed x": "speed: latency of the dense network / latency of the pruned network, batches of 64, measured in turns.",
}


_GAPS = {
    True: "{name} on the search {example}s minus {name} on the other validation {example}s",
    False: "{name} on the other validation {example}s minus {name} on the search {example}s",
}  # by whether higher is better
_REPAIRED = {"untrained %": "repaired %", "trained %": "retrained %"}  # heads where every row is repaired
_OF_METRIC = (
    *_REPAIRED.values(),
    "masked %",
    "untrained %",
    "trained %",
    "rewound %",
    "best dense %",
    "as found %",
    "accuracy %",
)


def metric_of(rows: Sequence[SummaryRow]) -> Metric:
    """Return the main metric, such as accuracy, that all rows of a results table have."""
    return rows[0].metric if rows else Metric()


def is_repaired(rows: Sequence[SummaryRow]) -> bool:
    """Return whether every pruned network of a results table has a metric before and after a least-squares repair."""
    return len(rows) > 1 and all(row.masked.n for row in rows[1:])


def _heads(rows: Sequence[SummaryRow]) -> dict[str, str]:
    """The head of every column of the results table."""
    names = _REPAIRED if is_repaired(rows) else {}
    return {column: head_of(names.get(column, column), metric_of(rows)) for column in _COLUMNS}


def head_of(column: str, metric: Metric) -> str:
    """Return the heading of a results table's column, such as ``trained %`` for accuracy or ``trained perplexity``."""
    if metric.is_accuracy or column not in _OF_METRIC:
        return column
    return metric.name if column == "accuracy %" else f"{column.removesuffix('%')}{metric.name}"


def _method(row: SummaryRow) -> str:
    notes = {"empties a layer": row.emptied, "constant outputs": row.constant, "diverged": row.diverged}
    notes["mask of a criterion kept"] = row.kept_criteria
    marks = [f"{note}: {count} of {row.trained.n}" for note, count in notes.items() if count]
    return name_of(row.method, row.learned) + (f" ({'; '.join(marks)})" if marks else "")


def _scorings(row: SummaryRow) -> str:
    own = row.scorings.plain(".0f")
    return f"{own} + {row.foreign_trials.plain('.0f')}" if row.foreign_trials.mean > 0 else own


def columns_of(rows: Sequence[SummaryRow]) -> list[str]:
    """Return the names of those columns of the results table for which at least one of the ``rows`` has a value."""
    left_out = set() if any(row.variant for row in rows) else {"variant"}
    left_out |= set() if any(row.cap for row in rows) else {"cap", "cost %"}
    left_out |= set() if any(row.masked.n for row in rows) else {"masked %"}
    left_out |= {"found"} if is_repaired(rows) and len({row.find_at for row in rows[1:]}) == 1 else set()
    return [column for column in _COLUMNS if column not in left_out]


def table_rows(rows: Sequence[SummaryRow], columns: Sequence[str]) -> list[list[str]]:
    """Return the texts of the results table: a list for each row, with a text for each column in ``columns``."""
    return [[_COLUMNS[column](row) for column in columns] for row in rows]


def results_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return the results table, with means over seeds and one row per method and sparsity."""
    columns = columns_of(rows)
    starts = [place for place in range(1, len(rows)) if rows[place - 1].sparsity != rows[place].sparsity]
    texts = 1 + ("variant" in columns)
    heads = [_heads(rows)[column] for column in columns]
    return Grid("Results", heads, table_rows(rows, columns), texts, caption(rows, columns), starts)


def terminal_table(rows: Sequence[SummaryRow], width: int) -> RenderableType:
    """Return the results table for a terminal ``width`` characters wide; several pruning rounds get a table below."""
    heads = _heads(rows)
    table = replace(results_grid(rows), title="").terminal(width, [heads[column] for column in _LESS])
    shown = {str(column.header) for column in table.columns}
    table.caption = caption(rows, [column for column, head in heads.items() if head in shown])
    if not any(len(row.rounds) > 1 for row in rows):
        return table
    return Group(table, "", _rounds_terminal(rows, width))


def markdown_table(rows: Sequence[SummaryRow]) -> str:
    """Return the results table as Markdown, without the explanation of its columns."""
    return replace(results_grid(rows), about="").markdown(heading=False)


def caption(rows: Sequence[SummaryRow], columns: Sequence[str]) -> str:
    """Return sentences that explain the columns in ``columns`` of the results table."""
    seeds = max((row.trained.n for row in rows), default=0)
    over = "one seed, so without intervals"
    if seeds > 1:
        over = f"mean {'± 95 % interval' if seeds > 2 else '(± half of the difference)'} over {seeds} seeds"
    metric = metric_of(rows)
    lower = "" if metric.higher_is_better else " (lower is better)"
    sentences = [f"Test {metric.name}{lower} after the last epoch: {over}."]
    example = "image" if metric.is_accuracy else "example"
    gap = _GAPS[metric.higher_is_better].format(name=metric.name, example=example) + ", in points" * metric.is_accuracy
    names = [_REPAIRED.get(column, column) if is_repaired(rows) else column for column in columns]
    sentences += [text.format(gap=gap) for column, text in _MEANINGS.items() if column in names]
    if any(row.control != "none" for row in rows):
        sentences.append(
            "shuffled: a control with the mask permuted within its layers; reinitialised: a control with the mask on "
            "new weights; repaired: the mask on weights that are made as orthonormal as the mask allows."
        )
    if "scorings" in columns and any(row.foreign_trials.mean > 0 for row in rows):
        sentences.append("scorings: masks that the search scored + masks of other searches from a shared study.")
    if any(row.learned for row in rows):
        sentences.append(
            "(learned): supermasks. They are learned from gradients, so they are not found by black-box search."
        )
    return " ".join(sentences)


_ACCURACIES = ("rewound %", "best dense %", "as found %", "trained %")
_MOMENT_COLUMNS = (
    *("method", "variant", "sparsity", "found", "round", "density %"),
    *(column for name in _ACCURACIES for column in (name, "loss")),
    "best epoch",
)
_MOMENTS_ABOUT = (
    "Means over seeds: test {metric} and test loss of the masked network of every round, with four states of the "
    "weights: where the round's training starts (rewound), the dense network's best weights by validation (best "
    "dense), the weights after the previous round, at which the mask was found (as found), and after training. The row "
    "of the dense network has its best weights by validation (best dense) and its last weights (trained). Best epoch: "
    "number of the epoch with the best validation result, in the learning rate's schedule."
)


def moments_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return a table of test metric and loss per pruning round, for each state of the weights (found, trained, ...)."""
    lines = [(*_names(row), *round_.texts) for row in rows for round_ in row.rounds]
    several = any(len(row.rounds) > 1 for row in rows)
    starts = list(accumulate(len(row.rounds) for row in rows))[:-1] if several else ()
    metric = metric_of(rows)
    heads = [head_of(column, metric) for column in _MOMENT_COLUMNS]
    return Grid("Masks at all moments", heads, lines, 2, _MOMENTS_ABOUT.format(metric=metric.name), starts)


def moments_markdown(rows: Sequence[SummaryRow]) -> str:
    """Return the table of pruning rounds as Markdown, with an explanation of its columns."""
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
    "accuracy %": lambda row: row.trained.plain(f".{row.metric.digits}f", row.metric.scale),
    "params": lambda row: row.params.plain(",.0f"),
    "compression": lambda row: row.compression.plain(".2f"),
    "MACs": lambda row: row.total_macs.plain(",.0f"),
    "MACs %": lambda row: row.macs.plain(".1f", 100),
    "test s": lambda row: row.test_seconds.plain(".3f"),
    "latency ms": lambda row: row.latency.plain(".3f", 1000),
    "speed x": lambda row: row.speedup.plain(".2f"),
}
_COSTS_ABOUT = (
    "Means over seeds. {metric}: on the test set, after the last epoch. Params: parameters that are not zero. "
    "Compression: parameters of the dense network / params. MACs: multiply-adds of the kept weights for one {example}. "
    "Test: seconds of one pass over the test {example}s; other work on the machine adds to them. Latency: milliseconds "
    "for a batch of 64. Speed: latency of the dense network / latency of the pruned network, measured in turns. Masked "
    "weights save no time in dense kernels; removed filters save time."
)


def costs_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return a table of test metrics, parameters, MACs and latencies by method and sparsity."""
    lines = [(*_names(row), *(text(row) for text in _COST_COLUMNS.values())) for row in rows if row.control == "none"]
    metric = metric_of(rows)
    about = _COSTS_ABOUT.format(
        metric="Accuracy" if metric.is_accuracy else metric.name, example="image" if metric.is_accuracy else "example"
    )
    heads = [head_of(column, metric) for column in (*_MOMENT_COLUMNS[:4], *_COST_COLUMNS)]
    return Grid("Costs", heads, lines, 2, about)


def costs_markdown(rows: Sequence[SummaryRow]) -> str:
    """Return the table of parameters, MACs and latencies as Markdown, with an explanation of its columns."""
    return costs_grid(rows).markdown(heading=False)
