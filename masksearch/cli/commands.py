"""The command line: ``masksearch run``, ``show``, ``compare`` and ``analyse``."""

import ctypes
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from masksearch import models
from masksearch.analysis import SIMILARITIES, summarise
from masksearch.cli.flags import parse
from masksearch.cli.inspection import ANALYSES, analyse, compare, show_contents
from masksearch.cli.progress import ProgressBars
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment import Settings, SweepResult, read_sweep, recipe_names, recipe_text, run_sweep
from masksearch.report import terminal_table, write_report
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["keep_freed_memory", "main"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30  # bytes
_LARGEST = 32 << 20  # bytes, glibc's maximum for this threshold

_USAGE = f"""\
usage: masksearch run [flags]     search, prune and retrain; --help lists the flags
       masksearch --list          every method, schedule, objective, model, data set and recipe
       masksearch show FOLDER     the results of a sweep that ran, or is running, and all that its folder holds
       masksearch compare RUN RUN ...   how sweeps differ: settings, and results paired by cell
       masksearch analyse RUN ... [--what {" ".join(ANALYSES)}]
                                  [--measure {" ".join(SIMILARITIES)}] [--sparsity S ...] [--out FOLDER]
                                  what masks are like, and what they are worth
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input or a disk that fails, 130 when interrupted."""
    args = sys.argv[1:] if args is None else list(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no ± must not end a sweep
    try:
        return _dispatch(args)
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Whoever read has left. What is still buffered must go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"disk:{where} {error.strerror or error}; what was finished is kept")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _dispatch(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if args[0] == "--list":
        parse(args, "masksearch")
        return _list()
    command = choose("command", args[0], ["run", "show", "compare", "analyse"])
    if command == "run":
        asked = parse(args[1:], "masksearch run")
        return _list() if asked == "list" else _run(asked, args)
    if command in ("compare", "analyse"):
        (compare if command == "compare" else analyse)(args[1:], _console())
        return 0
    if len(args) != 2:
        raise InputError("show: takes one folder, as runs/sweep")
    return _show(Path(args[1]))


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory in this process; return whether glibc does.

    With glibc's defaults, a freed tensor of some megabytes goes back to the kernel, and the next training step gets
    zeroed new pages (mallopt(3)). Other C libraries have no such switch, and nothing changes there. Only the command
    line calls this function, before a run; the library leaves malloc unchanged.

    It brings a ratio of 0.80 in CPU time: 41.1 s of user and system time with it, 51.7 s without it, means of two runs
    each, in turn, by /usr/bin/time, of ``masksearch run --dataset mnist --model resnet20 --methods magnitude --epochs 1
    --train-examples 1500 --val-examples 400 --sparsity 0.9 --seeds 1 --threads 1 --device cpu``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def _run(parts: Sequence[Settings], args: Sequence[str]) -> int:
    keep_freed_memory()
    console = _console()
    sweeps: dict[str, list[Settings]] = {}
    for part in parts:
        sweeps.setdefault(part.run.name, []).append(part)
    for sweep in sweeps.values():
        with ProgressBars(console) as bars:
            result = run_sweep(sweep, bars)
        _print(result, ["masksearch", *args], console)
    return 0


def _print(result: SweepResult, command: Sequence[str], console: Console) -> None:
    report = write_report(result, command)
    console.print(terminal_table(summarise(result.cells, result.dense), console.width))
    page = "http://localhost:6006/#custom_scalars"
    console.print(f"curves  tensorboard --logdir {result.path}    then {page}", highlight=False, soft_wrap=True)
    console.print(f"report  {report}", highlight=False, soft_wrap=True)


def _show(folder: Path) -> int:
    console = _console()
    if (folder / "sweep.json").exists():
        result = read_sweep(folder)
        if not result.cells and not result.dense:
            raise InputError(f"{folder}: no cell is finished yet")
        _print(result, (), console)
    show_contents(folder, console)
    return 0


def _list() -> int:
    console = Console(highlight=False)
    catalogue = {
        "searchers": {name: _first_line(row) for name, row in SEARCHERS.items()},
        "supermasks (learned by gradient, beside searches and criteria)": {
            name: f"{row.about} ({row.source})" for name, row in SUPERMASKS.items()
        },
        "schedules": {name: row.about for name, row in SCHEDULES.items()},
        "criteria": {name: row.source for name, row in CRITERIA.items()},
        "objectives": {name: row.about for name, row in OBJECTIVES.items()},
        "models": {
            **{name: row.about for name, row in models.MODELS.items()},
            "torchvision:NAME": "torchvision's classifiers",
        },
        "data sets": {name: row.about for name, row in DATASETS.items()},
        "recipes": {name: recipe_text(name) for name in recipe_names()},
    }
    for kind, rows in catalogue.items():
        console.print(f"[bold]{kind}[/]")
        for name, text in rows.items():
            console.print(f"  {name:<22} {text}", soft_wrap=True, markup=False)
    return 0


def _console() -> Console:
    """As wide as the terminal; wide where there is none, for a log or a pipe to hold whole rows."""
    return Console() if sys.stdout.isatty() else Console(width=150)


def _first_line(row: object) -> str:
    """What a row says about itself; a partial about what it is of, with the arguments that make it another."""
    if isinstance(row, partial):
        given = [*map(repr, row.args), *(f"{name}={value!r}" for name, value in row.keywords.items())]
        return f"{_first_line(row.func)} ({', '.join(given)})"
    return (row.__doc__ or "of your own").strip().splitlines()[0]


def _fail(message: str) -> int:
    print(f"masksearch: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
