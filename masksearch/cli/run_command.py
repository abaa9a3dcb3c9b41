"""``masksearch run`` and ``--list``: run sweeps and print their results, or print all methods and networks."""

import ctypes
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from rich.console import Console

from masksearch.cli.run_arguments import full_help, parse
from masksearch.cli.sweep_progress import ProgressBars
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment import (
    EXECUTORS,
    CellsFailedError,
    Settings,
    SweepResult,
    on_all_ranks,
    own_copy,
    recipe_names,
    recipe_text,
    run_sweep,
)
from masksearch.experiment.store.mirror import Mirror
from masksearch.experiment.store.sweep_plan import differing_settings, free_name, renamed
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.utils.ranks import equal_errors, ranks

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30  # bytes
_LARGEST = 32 << 20  # bytes, glibc's maximum for this threshold


def run(args: Sequence[str], console: Console) -> None:
    """Execute ``masksearch run``: run the sweeps and print their results, or print ``--help-all`` or ``--list``."""
    if "--help-all" in args:
        print(full_help(args, "masksearch run"), end="")
        return
    with equal_errors():
        parts = parse(args, "masksearch run")
    if parts == "list":
        print_tables(console)
        return
    with on_all_ranks(parts) as own:
        console.quiet = not ranks().first
        run_parts(own, ["run", *args], console)


def run_parts(parts: Sequence[Settings], args: Sequence[str], console: Console) -> None:
    """Run sweeps and print their results; parts with the same name are one sweep.

    Reports show ``args`` as the command line.
    """
    keep_freed_memory()
    sweeps: dict[str, list[Settings]] = {}
    for part in parts:
        sweeps.setdefault(part.run.name, []).append(part)
    for name, sweep in sweeps.items():
        free = ranks().from_first(partial(free_name, sweep))
        if free != name:
            folder = sweep[0].run.folder
            text = f"{folder / name} holds a sweep with other settings, which is kept; this sweep is {folder / free}"
            if names := differing_settings(folder / name, sweep):
                text += f" (other settings: {' '.join(names)})"
            console.print(text, highlight=False, soft_wrap=True, markup=False)
        with own_copy(renamed(sweep, free)) as own, ProgressBars(console) as bars:
            try:
                result = run_sweep(own, bars)
            except CellsFailedError as error:
                if error.result.cells:
                    ranks().from_first(partial(_finish, error.result, args, console))
                raise
        ranks().from_first(partial(_finish, result, args, console))


def _finish(result: SweepResult, args: Sequence[str], console: Console) -> None:
    draw_report(result, ["masksearch", *args], console)
    print_result(result, console)
    run = result.settings[0].run
    Mirror(run).publish_report()
    if run.is_remote:
        text = f"copied  {run.runs.rstrip('/')}/{run.name}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def draw_report(result: SweepResult, command: Sequence[str], console: Console) -> None:
    """Write a sweep's report (HTML page, tables, figures) into the folder of the sweep.

    A report that can't be written is one line: it must not hide the results.
    """
    from masksearch.report import write_report  # here: importing matplotlib takes a second

    if not console.is_terminal:
        console.print("drawing the report ...", highlight=False)
    with console.status("drawing the report") if console.is_terminal else nullcontext():
        try:
            write_report(result, command)
        except OSError as error:
            text = f"report  not written: {error.filename or result.path}: {error.strerror or error}"
            console.print(text, highlight=False, soft_wrap=True, markup=False)


def print_result(result: SweepResult, console: Console) -> None:
    """Print a sweep's table of results, and where to find its report and TensorBoard curves; write nothing to disk."""
    from masksearch.analysis import group_cells, summarise
    from masksearch.report import terminal_table
    from masksearch.report.result_sentences import best_methods, what_steps_brought, why_searches_trail
    from masksearch.report.tensorboard_address import board_link

    link = board_link(group_cells(result.cells))
    address = "http://localhost:6006/#custom_scalars" if link is None else link[0]
    rows = summarise(result.cells, result.dense)
    console.print(terminal_table(rows, console.width))
    for sentence in filter(None, [best_methods(rows), *what_steps_brought(rows), why_searches_trail(rows)]):
        console.print(sentence, highlight=False, markup=False)
    curves = f"curves  tensorboard --logdir {shlex.quote(str(result.path))}    then {address}"
    report = result.path / "report.html"
    missing = "" if report.exists() else " is not written yet: masksearch show --report writes it"
    for line in (curves, f"report  {report}{missing}"):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def print_tables(console: Console) -> None:
    """Print the names and descriptions of all methods, schedules, objectives, networks, data sets and recipes."""
    catalogue = {
        "searchers (--methods)": {name: _first_line(row) for name, row in SEARCHERS.items()},
        "criteria (--methods, --saliencies, --warm-start)": {name: row.source for name, row in CRITERIA.items()},
        "supermasks, learned by gradient (--methods)": {
            name: f"{row.about} ({row.source})" for name, row in SUPERMASKS.items()
        },
        "schedules (--schedule)": {name: row.about for name, row in SCHEDULES.items()},
        "objectives (--objective, --rescore-by)": {name: row.about for name, row in OBJECTIVES.items()},
        "executors (--executor)": {name: row.about for name, row in EXECUTORS.items()},
        "networks (--model)": {
            **{name: row.about for name, row in MODELS.items()},
            "torchvision:NAME": "torchvision's classifiers",
            "transformers:FOLDER": "pretrained language models and text classifiers in local folders",
        },
        "data sets (--dataset)": {name: row.about for name, row in DATASETS.items()},
        "recipes (--recipe)": {name: recipe_text(name) for name in recipe_names()},
    }
    for kind, rows in catalogue.items():
        console.print(f"[bold]{kind}[/]", highlight=False)
        for name, text in rows.items():
            console.print(f"  {name + ' ':<22} {text}", soft_wrap=True, markup=False, highlight=False)


def _first_line(row: object) -> str:
    """First line of a row's docstring; for a partial, the first line of its function's docstring and the arguments."""
    if isinstance(row, partial):
        given = [*map(repr, row.args), *(f"{name}={value!r}" for name, value in row.keywords.items())]
        return f"{_first_line(row.func)} ({', '.join(given)})"
    return (row.__doc__ or "a row of your own").strip().splitlines()[0]


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory for reuse; return False for C libraries other than glibc.

    With glibc's defaults, a freed tensor of some megabytes goes back to the kernel, and the next training step gets
    zeroed new pages (mallopt(3)). Without glibc nothing changes. Only the command line calls this function, before a
    run.

    CPU time falls to 0.80: 41.1 s of user and system time with this call, 51.7 s without it, means of two runs each of
    ``masksearch run --dataset mnist --model resnet20 --methods magnitude --epochs 1 --train-examples 1500
    --val-examples 400 --sparsity 0.9 --seeds 1 --threads 1 --device cpu``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
