"""``report.html``: one self-contained page about a sweep, with its tables and figures as files beside it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from masksearch.analysis import Group, SummaryRow, group_cells, summarise
from masksearch.analysis.paired_results import settings_texts
from masksearch.experiment import SweepResult
from masksearch.report.best_methods import answer_html
from masksearch.report.figures.all_figures import sweep_drawings
from masksearch.report.figures.drawing import percent
from masksearch.report.figures.early_bird_heatmaps import early_bird_grid
from masksearch.report.rerun_commands import row_commands, sweep_command
from masksearch.report.tables.results_csv import write_rows
from masksearch.report.tables.summary_tables import costs_grid, moments_grid, results_grid
from masksearch.report.tables.table_formats import Grid
from masksearch.report.tensorboard_address import board_link
from masksearch.utils.files import write_bytes

__all__ = ["write_report"]

_LONG = 40  # rows; a longer table is folded
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

    Beside it go ``results.csv``, its tables as ``results.md``, and its figures as ``figures/*.png`` and ``*.svg``.

    Parameters
    ----------
    result : SweepResult
        With at least one finished cell or dense network.
    command : sequence of str
        The command line that made the sweep; if not given, a command line with the same settings.
    """
    groups = group_cells(result.cells)
    rows = summarise(result.cells, result.dense)
    sweep = result.sweep
    title = f"{sweep.model} on {sweep.dataset}"
    numbers = f"{_count(len(result.cells), 'cell')}, {_count(sweep.seeds, 'seed')}"
    results, moments, costs = results_grid(rows), moments_grid(rows), costs_grid(rows)
    write_rows(result, result.path / "results.csv")
    tables = "\n".join(grid.markdown() for grid in (results, moments, costs))
    write_bytes(result.path / "results.md", f"# {title}\n\n{tables}".encode())
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">masksearch {escape(str(result.machine["masksearch"]))}: {escape(numbers)}</p>',
        f'<div class="answer">{answer_html(rows, _masks(result, groups))}</div>',
        f"<h2>Results</h2>\n{results.html()}",
        '<p class="about">All numbers of all cells: <a href="results.csv">results.csv</a>. For papers: '
        '<a href="results.md">results.md</a>, and <code>figures/</code> as SVG and PNG.'
        f"{_board(result, groups)}</p>",
        *_figures(result, rows, groups),
        f"<h2>Masks at all moments</h2>\n{_folded('all rounds and moments', moments)}",
        f"<h2>Costs</h2>\n{_folded('all costs', costs)}",
        f"<h2>Settings and versions</h2>\n{_settings(settings_texts(result.settings) | {'machine': result.machine})}",
        *_commands(result, groups, command or sweep_command(result)),
    ]
    css, js = ((files("masksearch.report") / f"page.{kind}").read_text() for kind in ("css", "js"))
    path = result.path / "report.html"
    write_bytes(path, _PAGE.format(title=escape(title), css=css, body="\n".join(parts), js=js).encode())
    return path


def _masks(result: SweepResult, groups: Sequence[Group]) -> list[Path | None]:
    """The file of the mask of every row's first seed, relative to the page; None for the dense network."""
    paths = [Path(result.folders[group.places[0]].name) / "mask.safetensors" for group in groups]
    return [None, *(path if (result.path / path).exists() else None for path in paths)]


def _board(result: SweepResult, groups: Sequence[Group]) -> str:
    link = board_link(result, groups)
    if link is None:
        return ""
    address, about = map(escape, link)
    start = escape(shlex.join(["tensorboard", "--logdir", str(result.path)]))
    return f' Curves: start <code>{start}</code>, then open <a href="{address}">{about}</a>.'


def _figures(result: SweepResult, rows: Sequence[SummaryRow], groups: Sequence[Group]) -> Iterator[str]:
    """Write the files of all figures; yield headings and figures of the page."""
    for heading, drawings in sweep_drawings(result, rows):
        yield f"<h2>{escape(heading)}</h2>"
        for drawing in drawings:
            write_bytes(result.path / "figures" / f"{drawing.name}.png", drawing.png())
            write_bytes(result.path / "figures" / f"{drawing.name}.svg", drawing.svg_file())
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
