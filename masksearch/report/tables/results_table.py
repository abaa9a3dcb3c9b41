"""Tables, in the terminal, as Markdown and in the page; first of all the results table."""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from masksearch.analysis import SummaryRow
from masksearch.report.figures.style import name_of
from masksearch.report.tables.cost_table import COST_COLUMNS, COST_TEXTS, COSTS_ABOUT, cost_rows
from masksearch.report.tables.round_table import (
    MOMENT_COLUMNS,
    MOMENT_TEXTS,
    MOMENTS_ABOUT,
    moments_rows,
    moments_terminal,
)

__all__ = [
    "COSTS",
    "caption",
    "columns_of",
    "costs_markdown",
    "html_table",
    "markdown",
    "markdown_table",
    "moments_markdown",
    "table_rows",
    "tables_markdown",
    "terminal_table",
]

COSTS = {"macs": "MACs", "params": "params", "latency": "latency"}
_COLUMNS: dict[str, Callable[[SummaryRow], str]] = {
    "method": lambda row: _method(row),
    "variant": lambda row: row.variant,
    "sparsity": lambda row: f"{100 * row.sparsity:.4g} %" if row.sparsity else "–",
    "cap": lambda row: f"{100 * row.cap.share:.4g} % of {COSTS[row.cap.cost]}" if row.cap else "–",
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
_TEXTS = {"method": 14, "variant": 14}  # columns that may fold, and the width that they fold to at most
_LESS = (
    *("train s", "search s", "scorings", "params", "gap", "speed x"),
    *("MACs %", "found", "cap", "cost %", "untrained %"),
)
"""What a narrow terminal leaves out, in this order."""
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
    """The columns of the whole table: without ``variant``, and without caps and their costs, where no row has one."""
    left_out = set() if any(row.variant for row in rows) else {"variant"}
    left_out |= set() if any(row.cap for row in rows) else {"cap", "cost %"}
    return [column for column in _COLUMNS if column not in left_out]


def table_rows(rows: Sequence[SummaryRow], columns: Sequence[str]) -> list[list[str]]:
    """The texts of every row; test accuracies and the optimism gap in percent and points."""
    return [[_COLUMNS[column](row) for column in columns] for row in rows]


def terminal_table(rows: Sequence[SummaryRow], width: int) -> RenderableType:
    """For a rich console of that many characters; a narrow one gets the columns that matter.

    If there are several rounds of pruning, a table of them follows.
    """
    columns = columns_of(rows)
    for column in _LESS:
        if column in columns and _needed(rows, columns) > width:
            columns.remove(column)
    about = caption(rows, columns)
    table = Table(caption=about, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        text = column in _TEXTS
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
        table.columns[-1].min_width = min(_TEXTS[column], _longest(rows, column)) if text else None
    for before, row, cells in zip([None, *rows], rows, table_rows(rows, columns), strict=False):
        if before is not None and before.sparsity != row.sparsity:
            table.add_section()
        table.add_row(*cells)
    if not any(len(row.rounds) > 1 for row in rows):
        return table
    return Group(table, "", moments_terminal(rows, width))


def _needed(rows: Sequence[SummaryRow], columns: Sequence[str]) -> int:
    """Characters that a table of these columns needs, its texts folded as far as they may be."""
    widths = []
    for column in columns:
        longest = _longest(rows, column)
        widths.append(min(longest, _TEXTS.get(column, longest)))
    return sum(widths) + 3 * len(widths) - 1  # between columns, and at both ends


def _longest(rows: Sequence[SummaryRow], column: str) -> int:
    return max(map(len, [column, *map(_COLUMNS[column], rows)]))


def markdown_table(rows: Sequence[SummaryRow]) -> str:
    """For a page."""
    columns = columns_of(rows)
    return markdown(columns, table_rows(rows, columns), texts=sum(column in _TEXTS for column in columns))


def moments_markdown(rows: Sequence[SummaryRow]) -> str:
    """The table of moments, for a page."""
    return markdown(MOMENT_COLUMNS, moments_rows(rows), MOMENT_TEXTS) + f"\n{MOMENTS_ABOUT}\n"


def costs_markdown(rows: Sequence[SummaryRow]) -> str:
    """The table of costs, for a page."""
    return markdown(COST_COLUMNS, cost_rows(rows), COST_TEXTS) + f"\n{COSTS_ABOUT}\n"


def tables_markdown(title: str, rows: Sequence[SummaryRow]) -> str:
    """All tables of a sweep, as a page."""
    results = f"{markdown_table(rows)}\n{caption(rows, columns_of(rows))}\n"
    tables = {"Results": results, "Masks at all moments": moments_markdown(rows), "Costs": costs_markdown(rows)}
    return "\n".join([f"# {title}\n", *(f"## {name}\n\n{text}" for name, text in tables.items())])


def markdown(head: Sequence[str], body: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first ``texts`` columns are words, the others numbers."""
    head, body, texts = _with_words(head, body, texts)
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def html_table(
    head: Sequence[str], body: Sequence[Sequence[str]], texts: int, about: str, first: Iterable[int] = ()
) -> str:
    """A table that sorts: its first ``texts`` columns are words, the others numbers; rows ``first`` begin a part."""
    head, body, texts = _with_words(head, body, texts)
    kinds = [' class="text"'] * texts + [""] * (len(head) - texts)
    heads = "".join(f"<th{kind}><button>{escape(cell)}</button></th>" for kind, cell in zip(kinds, head, strict=True))
    begins, mark = set(first), ' class="first"'
    rows = "".join(
        f"<tr{mark if place in begins else ''}>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>\n"
        for place, cells in enumerate(body)
    )
    return (
        f'<div class="wide"><table class="sorts">\n<thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
        f'<p class="about">{escape(about)}</p>'
    )


def _with_words(
    head: Sequence[str], body: Iterable[Sequence[str]], texts: int
) -> tuple[Sequence[str], list[Sequence[str]], int]:
    """The table without its columns of words in which there is none."""
    rows = list(body)
    kept = [place for place in range(len(head)) if place >= texts or any(row[place] for row in rows)]
    words = sum(place < texts for place in kept)
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows], words


def caption(rows: Sequence[SummaryRow], columns: Sequence[str]) -> str:
    """The sentences below the table that explain its columns."""
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
