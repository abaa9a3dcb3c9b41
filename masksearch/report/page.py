"""``report.html``: one self-contained page of a sweep."""

import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from masksearch.analysis import SummaryRow, summarise
from masksearch.experiment import SweepResult
from masksearch.files import write_bytes
from masksearch.report.figures import accuracy_figure, trajectory_figure, trajectory_folders
from masksearch.report.style import STYLE, name_of
from masksearch.report.tables import COLUMNS, caption, cells_of

__all__ = ["write_report"]


def write_report(result: SweepResult, command: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into the sweep's folder and return its path.

    Parameters
    ----------
    result : SweepResult
        With at least one finished cell.
    command : sequence of str
        The command line that made it, if there was one.
    """
    rows = summarise(result.cells, result.dense)
    sweep = result.sweep
    title = f"{sweep['model']} on {sweep['dataset']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">masksearch {escape(result.machine["masksearch"])}: {len(result.cells)} cells, '
        f"{sweep['seeds']} seeds</p>",
        f'<p class="answer">{_answer(rows)}</p>',
        "<h2>Results</h2>",
        _results(rows),
        "<h2>Accuracy against sparsity</h2>",
        _figure(accuracy_figure(rows), "Means over seeds with 95 % intervals; test accuracy after the last epoch."),
    ]
    folders = trajectory_folders(result)
    if folders:
        parts.append("<h2>The searches</h2>")
    for folder in folders:
        cell = result.cells[result.folders.index(folder)]
        text = f"{name_of(cell['method'])}, {100 * cell['sparsity']:g} % sparse, seed {cell['seed']}"
        parts.append(_figure(trajectory_figure(folder, cell["method"], sweep["objective"]), text))
    parts += ["<h2>Settings and versions</h2>", _settings({**_merged(result.settings), "machine": result.machine})]
    if command:
        parts.append(f"<h2>Command</h2><pre>{escape(shlex.join(command))}</pre>")
    path = result.path / "report.html"
    write_bytes(path, _page(title, parts).encode())
    return path


def _answer(rows: Sequence[SummaryRow]) -> str:
    """What a reader wants to know first: the best method at every sparsity, against the dense network."""
    dense = rows[0].trained
    sentences = [f"The dense network reaches {dense.text(100)} %."]
    for sparsity in sorted({row.sparsity for row in rows[1:]}):
        best = max((row for row in rows[1:] if row.sparsity == sparsity), key=lambda row: row.trained.mean)
        change = best.trained.mean - dense.mean
        sentences.append(
            f"At {100 * sparsity:g} % sparsity, <b>{escape(name_of(best.method))}</b> has the highest mean after "
            f"retraining: {best.trained.text(100)} % ({100 * change:+.2f} points)."
        )
    return " ".join(sentences)


def _results(rows: Sequence[SummaryRow]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    body = []
    for before, row in zip([None, *rows], rows, strict=False):
        first = ' class="first"' if before is not None and before.sparsity != row.sparsity else ""
        body.append(f"<tr{first}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells_of(row)) + "</tr>")
    text = escape(caption(rows[0].trained.n))
    return f'<div class="wide"><table><caption>{text}</caption><tr>{head}</tr>{"".join(body)}</table></div>'


def _figure(figure: Figure, text: str) -> str:
    sink = io.StringIO()
    with mpl.rc_context(STYLE):  # how text and names are written is decided here
        figure.savefig(sink, format="svg", metadata={"Date": None})
    svg = sink.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{escape(text)}</figcaption></figure>"


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
