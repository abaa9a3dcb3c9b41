"""``report.html``: one self-contained page about a sweep, with its tables and figures as files beside it."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from masksearch.analysis import Group, SummaryRow, group_cells, summarise
from masksearch.analysis.paired_sweeps_and_controls import settings_texts
from masksearch.experiment import SweepResult
from masksearch.report.figures import sweep_drawings
from masksearch.report.figures.early_bird_heatmaps import early_bird_grid
from masksearch.report.reproduction_commands import row_commands, sweep_command
from masksearch.report.result_sentences import answer_html, best_rows
from masksearch.report.tables.results_csv import write_rows
from masksearch.report.tables.summary_tables import costs_grid, moments_grid, results_grid
from masksearch.report.tables.table_formats import Grid
from masksearch.report.tensorboard_address import board_link
from masksearch.utils.files import write_bytes
from masksearch.utils.number_text import percent

_LONG = 40  # rows; a longer table is folded
_MOST_ROWS = 300  # of one page
_MOST_DRAWN = 100  # rows whose curves can be distinguished
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\
<title>{title}</title><style>
{css}</style></head>
<body>
{body}
<script>
{js}</script>
</body></html>
"""


def write_report(result: SweepResult, command: Sequence[str] = ()) -> Path:
    """Write a sweep's report as ``report.html`` into the sweep's folder; return the path of the page.

    Beside it go ``results.csv``, its tables as ``results.md``, and its figures as ``figures/*.png`` and ``*.svg``. With
    more than 300 rows of results, ``report.html`` is an overview, and every method has a page ``report_METHOD.html``.

    Parameters
    ----------
    result : SweepResult
        With at least one finished cell or dense network.
    command : sequence of str
        The command line that made the sweep; if not given, a command line with the same settings.
    """
    groups = group_cells(result.cells)
    rows = summarise(result.cells, result.dense)
    write_rows(result, result.path / "results.csv")
    tables = "\n".join(grid.markdown() for grid in (results_grid(rows), moments_grid(rows), costs_grid(rows)))
    write_bytes(result.path / "results.md", f"# {_title(result)}\n\n{tables}".encode())
    command = command or sweep_command(result)
    if len(groups) <= _MOST_ROWS:
        return _written(result, "report.html", _whole(result, rows, groups, command))
    return _written(result, "report.html", _overview(result, rows, groups, command))


def _written(result: SweepResult, name: str, parts: Iterable[str]) -> Path:
    """Write a page; return its path."""
    css, js = ((files("masksearch.report") / f"page.{kind}").read_text() for kind in ("css", "js"))
    path, title = result.path / name, escape(_title(result))
    write_bytes(path, _PAGE.format(title=title, css=css, body="\n".join(parts), js=js).encode())
    return path


def _title(result: SweepResult) -> str:
    return f"{result.sweep.model} on {result.sweep.dataset}"


def _top(result: SweepResult, rows: Sequence[SummaryRow], groups: Sequence[Group]) -> list[str]:
    """Title, size and answer of a page."""
    numbers = f"{_count(len(result.cells), 'cell')}, {_count(result.sweep.seeds, 'seed')}"
    return [
        f"<h1>{escape(_title(result))}</h1>",
        f'<p class="about">masksearch {escape(str(result.machine["masksearch"]))}: {escape(numbers)}</p>',
        f'<div class="answer">{answer_html(rows, _masks(result, groups))}</div>',
    ]


def _whole(
    result: SweepResult, rows: Sequence[SummaryRow], groups: Sequence[Group], command: Sequence[str], figures: str = ""
) -> list[str]:
    """All parts of a page; names of files of figures begin with ``figures``."""
    return [
        *_top(result, rows, groups),
        f"<h2>Results</h2>\n{results_grid(rows).html()}",
        '<p class="about">All numbers of all cells: <a href="results.csv">results.csv</a>. For papers: '
        '<a href="results.md">results.md</a>, and <code>figures/</code> as SVG and PNG.'
        f"{_board(result, groups)}</p>",
        *(_figures(result, rows, groups, figures) if len(groups) <= _MOST_DRAWN else ()),
        f"<h2>Masks at all moments</h2>\n{_folded('all rounds and moments', moments_grid(rows))}",
        f"<h2>Costs</h2>\n{_folded('all costs', costs_grid(rows))}",
        *_settings_part(result),
        *_commands(result, groups, command),
    ]


def _overview(
    result: SweepResult, rows: Sequence[SummaryRow], groups: Sequence[Group], command: Sequence[str]
) -> list[str]:
    """Write a page for every method; return the parts of the page that names them."""
    links = []
    for method in dict.fromkeys(group.method for group in groups):
        places = [place for place, cell in enumerate(result.cells) if cell.method == method]
        cells = [result.cells[place] for place in places]
        own = replace(result, cells=cells, folders=[result.folders[place] for place in places])
        name = f"report_{method}.html"
        own_rows, own_groups = summarise(cells, own.dense), group_cells(cells)
        _written(own, name, _whole(own, own_rows, own_groups, [], f"{method}_"))
        about = f"{_count(len(own_groups), 'row')}, {_count(len(cells), 'cell')}"
        links.append(f'<li><a href="{quote(name)}">{escape(method)}</a>: {about}</li>')
    best = results_grid([rows[0], *best_rows(rows)]).html() if rows else ""
    return [
        *_top(result, rows, groups),
        f"<h2>Pages of methods</h2>\n<ul>{''.join(links)}</ul>",
        f"<h2>Best method at each sparsity, by validation</h2>\n{best}",
        '<p class="about">All numbers of all cells: <a href="results.csv">results.csv</a>.</p>',
        *_settings_part(result),
        *_commands(result, [], command),
    ]


def _settings_part(result: SweepResult) -> list[str]:
    texts = settings_texts(result.settings) | {"machine": result.machine}
    return [f"<h2>Settings and versions</h2>\n{_settings(texts)}"]


def _masks(result: SweepResult, groups: Sequence[Group]) -> list[Path | None]:
    """The file of the mask of every row's first seed, relative to the page; None for the dense network."""
    paths = [Path(result.folders[group.places[0]].name) / "mask.safetensors" for group in groups]
    return [None, *(path if (result.path / path).exists() else None for path in paths)]


def _board(result: SweepResult, groups: Sequence[Group]) -> str:
    link = board_link(groups)
    if link is None:
        return ""
    address, about = map(escape, link)
    start = escape(shlex.join(["tensorboard", "--logdir", str(result.path)]))
    return f' Curves: start <code>{start}</code>, then open <a href="{address}">{about}</a>.'


def _figures(result: SweepResult, rows: Sequence[SummaryRow], groups: Sequence[Group], prefix: str) -> Iterator[str]:
    """Write the files of all figures; yield headings and figures of the page."""
    for heading, drawings in sweep_drawings(result, rows):
        yield f"<h2>{escape(heading)}</h2>"
        for drawing in drawings:
            write_bytes(result.path / "figures" / f"{prefix}{drawing.name}.png", drawing.png())
            write_bytes(result.path / "figures" / f"{prefix}{drawing.name}.svg", drawing.svg_file())
            caption = f"<figcaption>{escape(drawing.caption)}</figcaption>"
            yield f'<figure><div class="wide">{drawing.svg()}</div>{caption}</figure>'
            if drawing.name == "early_bird":
                yield _folded("the epochs of all seeds", early_bird_grid(groups))


def _commands(result: SweepResult, groups: Sequence[Group], command: Sequence[str]) -> list[str]:
    lines = [
        f'<tr><td>{escape(percent(group.sparsity))}</td><td class="text">{escape(group.name)}</td>'
        f"<td><pre>{escape(text)}</pre></td></tr>"
        for group, text in zip(groups, row_commands(result, groups), strict=True)
        if text
    ]
    parts = ["<h2>Commands that repeat the results</h2>"] if command or lines else []
    if command:
        parts.append(f"<p>The whole sweep:</p><pre>{escape(shlex.join(command))}</pre>")
    if lines:
        parts += [
            "<details><summary>one row alone, with all its seeds</summary>",
            f'<div class="wide"><table>{"".join(lines)}</table></div></details>',
        ]
    return parts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _folded(what: str, grid: Grid) -> str:
    """A table as HTML; a long one is folded."""
    if len(grid.rows) <= _LONG:
        return grid.html()
    return f"<details><summary>{escape(what)}: {len(grid.rows)} rows</summary>{grid.html()}</details>"


def _settings(groups: Mapping[str, Mapping[str, str]]) -> str:
    tables = []
    for group, values in groups.items():
        lines = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in values.items())
        tables.append(f"<table><tr><th>{escape(group)}</th><th></th></tr>{lines}</table>")
    return f'<div class="settings">{"".join(tables)}</div>'
