"""Seconds and memory of planning, resuming, showing and reporting a sweep with many cells.

    python -m benchmarks.large_sweep --cells 10000 [--seeds 10] [--profile show]

The cells are made from one real cell of each method: other sparsities, seeds and accuracies, written by the functions
that write real results. Every step runs in a process of its own, whose peak memory is printed.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

from masksearch.cli import main as masksearch
from masksearch.experiment import Cell, Settings, SweepCallback, SweepResult, grid, read_sweep, run_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.experiment.steps.dense import dense_folder
from masksearch.experiment.store.run_folder import RunFolder

METHODS = ("magnitude", "random", "snip", "grasp", "synflow")


def settings(folder: Path, cells: int, seeds: int) -> Settings:
    """Settings of a sweep with about ``cells`` cells."""
    sparsities = max(1, round(cells / len(METHODS) / seeds))
    flat = {
        "methods": list(METHODS),
        "sparsity": [round(0.5 + 0.49 * place / sparsities, 6) for place in range(sparsities)],
        "seeds": seeds,
        "model": "lenet_300_100:0.05",
        "epochs": 2,
        "train_examples": 150,
        "val_examples": 60,
        "runs": str(folder),
        "name": "large",
        "device": "cpu",
        "threads": 1,
        "latency_seconds": 0.0,
    }
    return Settings().updated(flat, "benchmark")


def make(part: Settings) -> None:
    """Write the folders of all cells and dense networks as if they had run."""
    os.fsync = lambda handle: None  # nothing here must survive a power failure
    small = replace(part.sweep, sparsity=part.sweep.sparsity[:1], seeds=1)
    real = run_sweep(replace(part, sweep=small, run=replace(part.run, name="real")))
    models = {cell.method: (cell, folder) for cell, folder in zip(real.cells, real.folders, strict=True)}
    rng, path, known = random.Random(0), Path(part.run.runs) / part.run.name, set()
    for cell in grid(part):
        dense = dense_folder(cell)
        if dense not in known:
            known.add(dense)
            _write_dense(cell, dense, real)
        folder = RunFolder(path / cell.folder, cell.identity, cell.deciding_settings())
        model, files = models[cell.method]
        _result(model, cell, rng).save(folder.path)
        folder.set_status("done")
        (folder / "mask.safetensors").write_bytes((files / "mask.safetensors").read_bytes())


def _write_dense(cell: Cell, dense: Path, real: SweepResult) -> None:
    if not dense.exists():
        folder = RunFolder(dense, cell.dense_identity)
        replace(real.dense[0], seed=cell.seed).save(dense)
        folder.set_status("done")


def _result(model: CellResult, cell: Cell, rng: random.Random) -> CellResult:
    trained = replace(model.last.trained, test_accuracy=rng.random(), val_accuracy=rng.random())
    rounds = [*model.rounds[:-1], replace(model.last, trained=trained)]
    return replace(model, sparsity=cell.sparsity, seed=cell.seed, rounds=rounds)


class _PlannedError(Exception):
    """Ends a sweep before its first cell."""


class _Planning(SweepCallback):
    def sweep_begins(self, cells, to_do):
        raise _PlannedError


def plan(part: Settings) -> None:
    """Plan all cells in a folder where none is finished."""
    try:
        run_sweep(replace(part, run=replace(part.run, name="planned")), _Planning())
    except _PlannedError:
        return


def resume(part: Settings) -> None:
    """Run the sweep, in which all cells are finished."""
    assert len(run_sweep(part).cells) == len(grid(part))


def show(part: Settings) -> None:
    """Print the tables of ``masksearch show``."""
    with redirect_stdout(io.StringIO()):
        assert masksearch(["show", str(Path(part.run.runs) / part.run.name)]) == 0


def report(part: Settings) -> None:
    """Write the report with its tables and figures."""
    from masksearch.report import write_report

    write_report(read_sweep(Path(part.run.runs) / part.run.name))


STEPS: Mapping[str, Callable[[Settings], None]] = {"plan": plan, "resume": resume, "show": show, "report": report}


def main() -> None:
    """Make the sweep and print a table of seconds and memory by step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="folder to write to and keep; if not given, a temporary one")
    parser.add_argument("--profile", choices=STEPS, help="print the slowest functions of a step")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        part, begun = settings(given.folder, given.cells, given.seeds), perf_counter()
        STEPS[given.step](part)
        seconds, cpu = perf_counter() - begun, process_time()
        print(json.dumps([seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        part = settings(folder, given.cells, given.seeds)
        if not (folder / part.run.name).exists():
            make(part)
        if given.profile:
            profile = cProfile.Profile()
            profile.runcall(STEPS[given.profile], part)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
            return
        print(f"{len(grid(part)):,} cells, {given.seeds} seeds\n\n| step | seconds | CPU seconds | peak GiB |")
        print("|---|---:|---:|---:|")
        for step in STEPS:
            words = ["--cells", str(given.cells), "--seeds", str(given.seeds), "--folder", str(folder), "--step", step]
            ended = subprocess.run(
                [sys.executable, "-m", "benchmarks.large_sweep", *words], capture_output=True, text=True, check=True
            )
            seconds, cpu, memory = json.loads(ended.stdout.splitlines()[-1])
            print(f"| {step} | {seconds:.1f} | {cpu:.1f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
