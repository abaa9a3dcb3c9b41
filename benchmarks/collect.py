"""Take a finished sweep into the results: its rows as CSV, its tables into a page, its figures as PNG.

    python -m benchmarks.collect runs/thesis_mlp_cpu
    python -m benchmarks.collect --into search_filters_cpu_search runs/filters_seed*_search

The rows go to ``benchmarks/results/<name>.csv`` and the figures to ``docs/results/figures/<name>_<figure>.png``. The
tables and links to the figures go between the lines ``<!-- <name> -->`` and ``<!-- end of <name> -->`` of the page in
``docs/results`` that has these lines, with the machine and the versions that made them.

Of sweeps that belong together, as when each seed is a sweep of its own, ``--into`` takes the rows alone, into one file.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.page import HERE, page_of, pages_folder, write_block
from benchmarks.rows import case_columns, write_csv
from masksearch.analysis import summarise
from masksearch.experiment import SweepResult, read_sweep
from masksearch.report import Drawing, markdown_table, sweep_drawings
from masksearch.report.tables.results_csv import flat_row
from masksearch.report.tables.summary_tables import costs_grid, moments_grid
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes

_SHARPNESS = (110, 95, 80, 65, 50)  # dots per inch: the first at which a figure is small enough
_BYTES = 150_000  # of a figure


def flat_rows(result: SweepResult) -> list[dict]:
    """Return a row per cell, with the seconds of the seed's dense training if there was one."""
    trained: dict[int, list[float]] = {}
    for network in result.dense:
        trained.setdefault(network.seed, []).append(sum(epoch.seconds for epoch in network.epochs))
    rows = []
    for cell, folder in zip(result.cells, result.folders, strict=True):
        row = case_columns(folder.name, cell.settings) | flat_row(cell, result.machine)
        seconds = trained.get(cell.seed, [])
        rows.append(row | ({"seconds.dense": seconds[0]} if len(seconds) == 1 else {}))
    return rows


def write_figures(result: SweepResult, folder: Path) -> list[str]:
    """Write all figures of a sweep; return lines of Markdown that show them."""
    lines = []
    for _, drawings in sweep_drawings(result, summarise(result.cells, result.dense)):
        for drawing in drawings:
            path = folder / f"{result.path.name}_{drawing.name}.png"
            write_bytes(path, small_png(drawing))
            lines.append(f"![{drawing.name.replace('_', ' ')}]({folder.name}/{path.name})\n\n{drawing.caption}\n")
    return lines


def small_png(drawing: Drawing) -> bytes:
    """Return the figure as PNG, at the highest resolution that is small enough."""
    for dpi in _SHARPNESS:
        content = drawing.png(dpi)
        if len(content) <= _BYTES:
            break
    return content


def block_of(result: SweepResult, figures: list[str]) -> str:
    """Return the text between the markers: results, folded figures and two folded longer tables."""
    rows = summarise(result.cells, result.dense)
    machine = result.machine
    made = (
        f"masksearch {machine['masksearch']}, torch {machine['torch']}, {machine['device']}, "
        f"{machine['threads']} thread{'s' * (machine['threads'] != '1')}"
    )
    made += f"; rows in `results/{result.path.name}.csv`." if result.cells else "."
    folded = {
        "Figures": "\n".join(figures),
        "Masks at all moments": replace(moments_grid(rows), about="").markdown(heading=False),
        "Costs": replace(costs_grid(rows), about="").markdown(heading=False),
    }
    parts = [markdown_table(rows), f"{made}\n"]
    parts += [
        f'<details markdown="1"><summary>{title}</summary>\n\n{text}\n</details>\n'
        for title, text in folded.items()
        if text
    ]
    return "\n".join(parts)


def main(folder: Path, home: Path = HERE) -> None:
    """Collect the sweep in ``folder`` into the folder ``home``."""
    result = read_sweep(folder)
    name = result.path.name
    page_of(name, home)  # raises if no page has a place for it
    if result.cells:
        write_csv(flat_rows(result), home / "results" / f"{name}.csv")
    write_block(name, block_of(result, write_figures(result, pages_folder(home) / "figures")), home)


def merge(folders: Iterable[Path], name: str, home: Path = HERE) -> None:
    """Write the rows of several sweeps to one file, by sparsity, method and seed."""
    rows = [row for folder in folders for row in flat_rows(read_sweep(folder))]
    rows.sort(key=lambda row: (row["sparsity"], row["method"], row["seed"]))
    write_csv(rows, home / "results" / f"{name}.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a finished sweep; several with --into")
    parser.add_argument("--into", metavar="NAME", help="rows alone, into results/NAME.csv")
    asked = parser.parse_args()
    if len(asked.folders) > 1 and not asked.into:
        parser.error("several sweeps go --into one file of rows")
    try:
        if asked.into:
            merge(asked.folders, asked.into)
        else:
            main(asked.folders[0])
    except InputError as error:
        parser.error(str(error))
