"""``report.html``: one self-contained page of a sweep, and its figures as files beside it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from masksearch.analysis import SummaryRow, group_cells, summarise
from masksearch.experiment import SweepResult
from masksearch.files import write_bytes
from masksearch.report.costs import COST_COLUMNS, COST_TEXTS, COSTS_ABOUT, cost_rows
from masksearch.report.drawing import Drawing
from masksearch.report.early_bird import EARLY_ABOUT, EARLY_COLUMNS, EARLY_TEXTS, early_bird_rows
from masksearch.report.figures import sweep_drawings
from masksearch.report.moments import MOMENT_COLUMNS, MOMENT_TEXTS, MOMENTS_ABOUT, moments_rows
from masksearch.report.style import name_of
from masksearch.report.tables import caption, columns_of, html_table, table_rows

__all__ = ["write_report"]

_LONG = 40  # rows of a table that is folded away until somebody wants to see it


def write_report(result: SweepResult, command: Sequence[str] = ()) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into the sweep's folder and return the page's path.

    Parameters
    ----------
    result : SweepResult
        With at least one finished cell or dense network.
    command : sequence of str
        The command line that made it, if there was one.
    """
    rows = summarise(result.cells, result.dense)
    sweep = result.sweep
    title = f"{sweep['model']} on {sweep['dataset']}"
    numbers = f"{_count(len(result.cells), 'cell')}, {_count(sweep['seeds'], 'seed')}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">masksearch {escape(result.machine["masksearch"])}: {numbers}</p>',
        f'<p class="answer">{_answer(rows)}</p>',
        "<h2>Results</h2>",
        _results(rows),
    ]
    early = early_bird_rows(group_cells(result.cells))
    for heading, drawings in sweep_drawings(result, rows):
        parts.append(f"<h2>{escape(heading)}</h2>")
        for drawing in drawings:
            write_bytes(result.path / "figures" / f"{drawing.name}.png", drawing.png())
            parts.append(_figure(drawing))
            if drawing.name == "early_bird":
                parts.append(_table("the epochs of all seeds", EARLY_COLUMNS, early, EARLY_TEXTS, EARLY_ABOUT))
    settings = {**_merged(result.settings), "machine": result.machine}
    parts += [
        "<h2>Masks at all moments</h2>",
        _table("all rounds and moments", MOMENT_COLUMNS, moments_rows(rows), MOMENT_TEXTS, MOMENTS_ABOUT),
        "<h2>Costs</h2>",
        _table("all costs", COST_COLUMNS, cost_rows(rows), COST_TEXTS, COSTS_ABOUT),
        "<h2>Settings and versions</h2>",
        _settings(settings),
    ]
    if command:
        parts.append(f"<h2>Command</h2><pre>{escape(shlex.join(command))}</pre>")
    path = result.path / "report.html"
    write_bytes(path, _page(title, parts).encode())
    return path


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _answer(rows: Sequence[SummaryRow]) -> str:
    """What a reader wants to know first: the best method at every sparsity, against the dense network.

    Controls are no methods. Where a method that learns its mask by gradient is best, the best of the others follows.
    """
    if not rows:
        return "Nothing is finished yet."
    dense = rows[0].trained
    sentences = [f"The dense network reaches {dense.text(100)} %."]
    candidates = [row for row in rows[1:] if row.control == "none" and row.trained.mean == row.trained.mean]
    for sparsity in sorted({row.sparsity for row in candidates}):
        here = [row for row in candidates if row.sparsity == sparsity]
        best = max(here, key=lambda row: row.trained.mean)
        highest = "mean" if best.trained.n > 1 else "accuracy"
        sentences.append(
            f"At {100 * sparsity:.4g} % sparsity, <b>{_name(best)}</b> has the highest {highest} after "
            f"retraining: {best.trained.text(100)} % ({_points(best, dense.mean)})."
        )
        others = [row for row in here if not row.learned]
        if best.learned and others:
            next_best = max(others, key=lambda row: row.trained.mean)
            sentences.append(
                f"Of those that aren't learned by gradient it is <b>{_name(next_best)}</b>: "
                f"{next_best.trained.text(100)} % ({_points(next_best, dense.mean)})."
            )
    return " ".join(sentences)


def _name(row: SummaryRow) -> str:
    return escape(name_of(row.method, row.learned) + (f" ({row.way})" if row.way else ""))


def _points(row: SummaryRow, dense: float) -> str:
    return f"{100 * (row.trained.mean - dense):+.2f} points"


def _results(rows: Sequence[SummaryRow]) -> str:
    columns = columns_of(rows)
    first = [place for place in range(1, len(rows)) if rows[place - 1].sparsity != rows[place].sparsity]
    texts = sum(column in ("method", "variant") for column in columns)
    return html_table(columns, table_rows(rows, columns), texts, caption(rows, columns), first)


def _table(what: str, head: Sequence[str], body: Sequence[Sequence[str]], texts: int, about: str) -> str:
    """A table; a long one is folded away."""
    first = [place for place in range(1, len(body)) if body[place - 1][:4] != body[place][:4]]
    table = html_table(head, body, texts, about, first if len(first) < len(body) - 1 else ())
    if len(body) <= _LONG:
        return table
    return f"<details><summary>{escape(what)}: {len(body)} rows</summary>{table}</details>"


def _figure(drawing: Drawing) -> str:
    return f"<figure>{drawing.svg()}<figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _merged(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The settings of all parts as one: where they differ, all values, one after the other."""
    merged: dict[str, dict[str, Any]] = {}
    for group, values in parts[0].items():
        merged[group] = {}
        for name in values:
            different = dict.fromkeys(_plain(part[group][name]) for part in parts)
            merged[group][name] = " | ".join(different)
    return merged


def _settings(groups: Mapping[str, Mapping[str, Any]]) -> str:
    tables = []
    for group, values in groups.items():
        lines = "".join(f"<tr><td>{escape(k)}</td><td>{escape(_plain(v))}</td></tr>" for k, v in values.items())
        tables.append(f"<table><tr><th>{escape(group)}</th><th></th></tr>{lines}</table>")
    return f'<div class="settings">{"".join(tables)}</div>'


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _page(title: str, parts: Iterable[str]) -> str:
    css = (files("masksearch.report") / "page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{css}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
