"""The benchmark suites: cases with equal splits, budgets and retraining, a row each, and tables of what they say.

    python -m benchmarks --list
    python -m benchmarks --suite criteria --scale cpu --data-root $MASKSEARCH_DATA
    python -m benchmarks --suite criteria --scale cpu --only mnist magnitude snip --seeds 1
    python -m benchmarks --suite criteria --scale cpu --tables

Rows go to ``benchmarks/results/<sweep>.csv`` as cases finish; the same command goes on after a kill, and on another
machine from the rows that are there. At the end, or with ``--tables`` from the rows alone, the tables go between the
lines ``<!-- suite_<suite>_<scale> -->`` of ``benchmarks/README.md``. At scale ``smoke`` all of that is in ``<runs>``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.running import run_suite
from benchmarks.suites import SUITES, Sweep, chosen
from masksearch.errors import InputError
from masksearch.experiment import SCALES

HERE = Path(__file__).parent


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
    parser.add_argument("--suite", default="criteria", metavar="NAME", help=", ".join(SUITES))
    parser.add_argument("--scale", default="smoke", metavar="NAME", help=", ".join(SCALES))
    parser.add_argument("--seeds", type=int, help="how many, in place of the suite's own")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="methods, and parts of names of sweeps")
    parser.add_argument("--tables", action="store_true", help="run nothing; tables from the rows that are there")
    parser.add_argument(
        "--data-root", default=os.environ.get("MASKSEARCH_DATA", "data"), help="folder of the data sets"
    )
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _run(asked: argparse.Namespace, home: Path, console: Console) -> int:
    suite = SUITES[asked.suite]
    run = {name: getattr(asked, name) for name in ("data_root", "runs", "device", "threads")}
    sweeps = chosen(suite.sweeps(asked.scale), asked.only, asked.seeds, run)
    run_suite(sweeps, home, console)
    return 0


def _list(console: Console) -> None:
    for name, suite in SUITES.items():
        console.print(f"[bold]{name}[/]  {suite.about}", highlight=False)
        for scale in SCALES:
            for sweep in suite.sweeps(scale):
                console.print(f"  {scale:<5}  {sweep.name:<36} {_line(sweep)}", highlight=False, soft_wrap=True)


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
