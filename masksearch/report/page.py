"""``report.html``: one self-contained page of a sweep; its tables and its figures as files beside it, for papers."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from masksearch.analysis import Group, SummaryRow, group_cells, summarise
from masksearch.experiment import Settings, SweepResult
from masksearch.report.answer import answer_html
from masksearch.report.figures.all_figures import sweep_drawings
from masksearch.report.figures.drawing import Drawing, percent
from masksearch.report.figures.early_bird_heatmaps import EARLY_ABOUT, EARLY_COLUMNS, EARLY_TEXTS, early_bird_rows
from masksearch.report.figures.style import name_of
from masksearch.report.reproduce import row_commands, sweep_command
from masksearch.report.tables.cost_table import COST_COLUMNS, COST_TEXTS, COSTS_ABOUT, cost_rows
from masksearch.report.tables.csv_rows import write_rows
from masksearch.report.tables.results_table import caption, columns_of, html_table, table_rows, tables_markdown
from masksearch.report.tables.round_table import MOMENT_COLUMNS, MOMENT_TEXTS, MOMENTS_ABOUT, moments_rows
from masksearch.report.tensorboard_link import board_link
from masksearch.utils.files import write_bytes

__all__ = ["write_report"]

_LONG = 40  # rows of a table that is folded away until somebody wants to see it


def write_report(result: SweepResult, command: Sequence[str] = ()) -> Path:
    """Write a sweep's page, ``report.html``, into its folder and return the page's path.

    Beside it go ``results.csv``, its tables as ``results.md``, and its figures as ``figures/*.png`` and ``*.svg``.

    Parameters
    ----------
    result : SweepResult
        With at least one finished cell or dense network.
    command : sequence of str
        The command line that made it; if it isn't known, one that asks for the same settings.
    """
    groups = group_cells(result.cells)
    rows = summarise(result.cells, result.dense)
    sweep = result.sweep
    title = f"{sweep.model} on {sweep.dataset}"
    numbers = f"{_count(len(result.cells), 'cell')}, {_count(sweep.seeds, 'seed')}"
    write_rows(result, result.path / "results.csv")
    write_bytes(result.path / "results.md", tables_markdown(title, rows).encode())
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">masksearch {escape(result.machine["masksearch"])}: {numbers}</p>',
        f'<div class="answer">{answer_html(rows, _masks(result, groups))}</div>',
        "<h2>Results</h2>",
        _results(rows),
        '<p class="about">Every cell with every number: <a href="results.csv">results.csv</a>. For papers: '
        '<a href="results.md">results.md</a>, and <code>figures/</code> as SVG and PNG.'
        f"{_board(result, groups)}</p>",
    ]
    early = early_bird_rows(groups)
    for heading, drawings in sweep_drawings(result, rows):
        parts.append(f"<h2>{escape(heading)}</h2>")
        for drawing in drawings:
            write_bytes(result.path / "figures" / f"{drawing.name}.png", drawing.png())
            write_bytes(result.path / "figures" / f"{drawing.name}.svg", drawing.svg_file())
            parts.append(_figure(drawing))
            if drawing.name == "early_bird":
                parts.append(_table("the epochs of all seeds", EARLY_COLUMNS, early, EARLY_TEXTS, EARLY_ABOUT))
    settings = _merged(result.settings) | {"machine": result.machine}
    parts += [
        "<h2>Masks at all moments</h2>",
        _table("all rounds and moments", MOMENT_COLUMNS, moments_rows(rows), MOMENT_TEXTS, MOMENTS_ABOUT),
        "<h2>Costs</h2>",
        _table("all costs", COST_COLUMNS, cost_rows(rows), COST_TEXTS, COSTS_ABOUT),
        "<h2>Settings and versions</h2>",
        _settings(settings),
        *_commands(result, groups, command or sweep_command(result)),
    ]
    path = result.path / "report.html"
    write_bytes(path, _page(title, parts).encode())
    return path


def _masks(result: SweepResult, groups: Sequence[Group]) -> list[Path | None]:
    """The file of the mask of every row's first seed, as the page would call it."""
    paths = [Path(result.folders[group.places[0]].name) / "mask.safetensors" for group in groups]
    return [None, *(path if (result.path / path).exists() else None for path in paths)]


def _board(result: SweepResult, groups: Sequence[Group]) -> str:
    link = board_link(result, groups)
    if link is None:
        return ""
    address, about = link
    start = shlex.join(["tensorboard", "--logdir", str(result.path)])
    return f' Curves: start <code>{escape(start)}</code>, then open <a href="{escape(address)}">{escape(about)}</a>.'


def _commands(result: SweepResult, groups: Sequence[Group], command: Sequence[str]) -> list[str]:
    parts = ["<h2>Once again</h2>"]
    if command:
        parts.append(f"<p>The whole sweep:</p><pre>{escape(shlex.join(command))}</pre>")
    lines = [
        f'<tr><td>{escape(percent(group.sparsity))}</td><td class="text">{escape(_called(group))}</td>'
        f"<td><pre>{escape(text)}</pre></td></tr>"
        for group, text in zip(groups, row_commands(result, groups), strict=True)
        if text
    ]
    if not lines:
        return parts if command else []
    return [
        *parts,
        "<details><summary>each row by itself, all its seeds</summary>",
        f'<div class="wide"><table>{"".join(lines)}</table></div></details>',
    ]


def _called(group: Group) -> str:
    return ", ".join(filter(None, [name_of(group.method, group.learned), group.label]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


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
    return f'<figure><div class="wide">{drawing.svg()}</div><figcaption>{escape(drawing.caption)}</figcaption></figure>'


def _merged(parts: Sequence[Settings]) -> dict[str, dict[str, str]]:
    """The texts of the settings of all parts, by group and name: where parts differ, the values of all parts."""
    first, *others = [part.as_dict() for part in parts]
    return {
        group: {
            name: " | ".join(dict.fromkeys(_plain(part[group][name]) for part in (first, *others))) for name in values
        }
        for group, values in first.items()
    }


def _settings(groups: Mapping[str, Mapping[str, str]]) -> str:
    tables = []
    for group, values in groups.items():
        lines = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in values.items())
        tables.append(f"<table><tr><th>{escape(group)}</th><th></th></tr>{lines}</table>")
    return f'<div class="settings">{"".join(tables)}</div>'


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _page(title: str, parts: Iterable[str]) -> str:
    css, js = ((files("masksearch.report") / f"page.{kind}").read_text() for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{css}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>\n{js}</script>\n</body></html>\n"
    )
