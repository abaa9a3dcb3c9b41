"""The benchmark suites: run cases with equal splits, budgets and retraining; write rows and tables.

    python -m benchmarks --list
    python -m benchmarks --suite criteria --scale cpu --data-root $MASKSEARCH_DATA
    python -m benchmarks --suite criteria --scale cpu --only mnist magnitude snip --seeds 1
    python -m benchmarks --suite criteria --scale cpu --tables

Rows go to ``benchmarks/results/<sweep>.csv`` as cases finish; the same command goes on after a kill, and on another
machine from the rows that are there. At the end, or with ``--tables`` from the rows alone, the tables go between the
lines ``<!-- suite_<suite>_<scale> -->`` of a page in ``docs/results``. At scale ``smoke`` rows go to ``<runs>/results``
and the tables are printed. Recipes (``published``) are taken in sweep by sweep, as ``python -m benchmarks.collect``
does; ``speed`` runs scripts, whose output has its own places on the pages, all or those that ``--only`` names.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import accuracies, anytime, collect
from benchmarks.collect import small_png
from benchmarks.page import HERE, page_of, pages_folder, write_block
from benchmarks.rows import read_rows
from benchmarks.running import run_suite
from benchmarks.scripts import commands, run_scripts
from benchmarks.suites import SUITES, Sweep, chosen
from benchmarks.tables import suite_text
from masksearch.experiment import SCALES
from masksearch.report import Drawing
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes
from masksearch.utils.registry import choose


def main(arguments: Sequence[str] | None = None, home: Path = HERE) -> int:
    """Run what the flags ask for; return the exit code."""
    asked = _flags().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    try:
        if asked.list:
            _list(console)
            return 0
        return _run(asked, home, console)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the suites and their sweeps, and end")
    parser.add_argument("--suite", default="criteria", metavar="NAME", help=", ".join([*SUITES, "speed"]))
    parser.add_argument("--scale", default="smoke", metavar="NAME", help=", ".join(SCALES))
    parser.add_argument("--seeds", type=int, help="how many, in place of the suite's own")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="methods, parts of names of sweeps, scripts"
    )
    parser.add_argument("--tables", action="store_true", help="run nothing; tables from the rows that are there")
    parser.add_argument(
        "--data-root", default=os.environ.get("MASKSEARCH_DATA", "data"), help="folder of the data sets"
    )
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _run(asked: argparse.Namespace, home: Path, console: Console) -> int:
    choose("scale", asked.scale, list(SCALES))
    choose("suite", asked.suite, [*SUITES, "speed"])
    if asked.suite == "speed":
        run_scripts(asked.scale, asked.data_root, asked.runs, home, asked.only)
    else:
        _run_cases(asked, home if asked.scale != "smoke" else Path(asked.runs), console)
    return 0


def _run_cases(asked: argparse.Namespace, home: Path, console: Console) -> None:
    suite = SUITES[asked.suite]
    run = {name: getattr(asked, name) for name in ("data_root", "runs", "device", "threads")}
    whole = suite.sweeps(asked.scale)
    if asked.scale != "smoke" and not suite.published:
        page_of(_block(asked), home)  # raises if no page has a place for the tables
    if not asked.tables:
        run_suite(chosen(whole, asked.only, asked.seeds, run), home, console, grows=not suite.published)
    if suite.published:
        _collect(chosen(whole, asked.only, asked.seeds, run), home)
    else:
        _write_tables(asked, whole, home)


def _write_tables(asked: argparse.Namespace, sweeps: Sequence[Sweep], home: Path) -> None:
    """Write the block of the suite from the rows of all sweeps; at scale smoke, print it."""
    suite = SUITES[asked.suite]
    paths = [path for sweep in sweeps if (path := home / "results" / f"{sweep.name}.csv").exists()]
    files = {path.stem: read_rows([path]) for path in paths}
    text = suite_text(suite, files, sum(len(sweep.cells) for sweep in sweeps))
    for name, rows in files.items():
        if any(column.startswith("best.") for column in rows[0]):
            text += _figures(anytime.drawings(rows), name, home)
        else:
            text += _figures([accuracies.drawing(rows, suite.value, suite.scale)], name, home)
            at_costs = _figures(accuracies.cost_drawings(rows, suite.value, suite.scale), name, home)
            text += f'\n<details markdown="1"><summary>The same against costs</summary>\n{at_costs}\n</details>\n'
    if asked.scale == "smoke":
        print(text)
        return
    print(f"tables  {write_block(_block(asked), text, home)}")


def _figures(drawings: Sequence[Drawing], name: str, home: Path) -> str:
    """Write figures of a sweep; return the Markdown that shows them."""
    text = ""
    for figure in drawings:
        path = pages_folder(home) / "figures" / f"{name}_{figure.name}.png"
        write_bytes(path, small_png(figure))
        text += f"\n![{figure.name}]({path.parent.name}/{path.name})\n\n{figure.caption}\n"
    return text


def _block(asked: argparse.Namespace) -> str:
    """Return the name of the block of the suite."""
    return f"suite_{asked.suite}_{asked.scale}"


def _collect(sweeps: Sequence[Sweep], home: Path) -> None:
    """Write finished sweeps of recipes to the pages that have a block for them."""
    for sweep in sweeps:
        try:
            page = page_of(sweep.name, home)
        except InputError as error:
            print(f"no place for {sweep.name}: {error}")
        else:
            collect.main(Path(sweep.parts[0].run.runs) / sweep.name, home)
            print(f"tables  {page}: {sweep.name}")


def _list(console: Console) -> None:
    for name, suite in SUITES.items():
        console.print(f"[bold]{name}[/]  {suite.about}", highlight=False)
        for scale in SCALES:
            for sweep in suite.sweeps(scale):
                console.print(f"  {scale:<5}  {sweep.name:<36} {_line(sweep)}", highlight=False, soft_wrap=True)
    console.print("[bold]speed[/]  scripts that measure, one after the other", highlight=False)
    for scale in SCALES:
        for name, (script, *flags) in commands(scale, "$MASKSEARCH_DATA", "runs").items():
            line = f"  {scale:<5}  {name:<20} {script} {' '.join(flags)}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _line(sweep: Sweep) -> str:
    first = sweep.parts[0].sweep
    sparsities = {one for part in sweep.parts for one in part.sweep.sparsities}
    methods = {cell.method for cell in sweep.cells}
    return (
        f"{len(sweep.cells):>4} cases: {first.dataset}, {first.model}, {first.granularity}s, {len(methods)} methods, "
        f"{len(sparsities)} sparsities, {first.seeds} seeds"
    )


if __name__ == "__main__":
    sys.exit(main())
