"""The table of moments: every round's mask, at all weights that it is looked at."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from masksearch.analysis import SummaryRow
from masksearch.report.figures.style import name_of

__all__ = ["MOMENTS_ABOUT", "MOMENT_COLUMNS", "MOMENT_TEXTS", "moments_rows", "moments_terminal"]

_ACCURACIES = ("rewound %", "@w0 %", "@w(t-1) %", "trained %")
MOMENT_COLUMNS = (
    "method",
    "variant",
    "sparsity",
    "found",
    "round",
    "density %",
    *(column for name in _ACCURACIES for column in (name, "loss")),
    "best epoch",
)
MOMENT_TEXTS = 2  # columns of words
MOMENTS_ABOUT = (
    "Means over seeds: test accuracy and test loss under the mask of every round, at the weights that its training "
    "starts from (rewound), at the dense network's best weights by validation (@w0), at the weights that the mask was "
    "found at, which are the last round's (@w(t-1)), and after training. The dense network: its best weights by "
    "validation, and its last. Best epoch: by validation, counted as the learning rate's schedule counts."
)


def moments_rows(rows: Sequence[SummaryRow]) -> list[tuple[str, ...]]:
    """The texts of the table, in order of ``MOMENT_COLUMNS``."""
    return [(*_names(row), *round_.texts) for row in rows for round_ in row.rounds]


def moments_terminal(rows: Sequence[SummaryRow], width: int) -> Table:
    """The table for a rich console of that many characters: of rows with several rounds, without what has no room."""
    shown = [row for row in rows if len(row.rounds) > 1 or row.method == "dense"]
    body = list(_once_named(shown))
    places = [place for place in range(len(MOMENT_COLUMNS)) if place != 1 or any(row.variant for row in shown)]
    losses = {place for place, column in enumerate(MOMENT_COLUMNS) if column == "loss"}
    for less in ({3}, {len(MOMENT_COLUMNS) - 1}, losses):
        if sum(_width(body, place) for place in places) + 3 * len(places) - 1 > width:
            places = [place for place in places if place not in less]
    table = Table(
        title="Rounds", caption=MOMENTS_ABOUT, caption_justify="left", title_justify="left", box=SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    for place in places:
        text = place < MOMENT_TEXTS
        table.add_column(MOMENT_COLUMNS[place], justify="left" if text else "right", no_wrap=not text, overflow="fold")
        table.columns[-1].min_width = _width(body, place) if text else None
    for before, line in zip([None, *body], body, strict=False):
        if before is not None and line[0]:
            table.add_section()
        table.add_row(*(line[place] for place in places))
    return table


def _names(row: SummaryRow) -> tuple[str, ...]:
    sparsity = f"{100 * row.sparsity:.4g} %" if row.sparsity else "–"
    return (name_of(row.method, row.learned), row.variant, sparsity, row.find_at)


def _once_named(rows: Sequence[SummaryRow]) -> Iterator[tuple[str, ...]]:
    """Lines whose names stand only at the first of their rounds."""
    for row in rows:
        for place, round_ in enumerate(row.rounds):
            names = _names(row)
            yield (*(("",) * len(names) if place else names), *round_.texts)


def _width(body: Sequence[tuple[str, ...]], place: int) -> int:
    longest = max(len(text) for text in (MOMENT_COLUMNS[place], *(line[place] for line in body)))
    return min(longest, 14) if place < MOMENT_TEXTS else longest
