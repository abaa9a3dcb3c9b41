"""Seconds of equal cells by executor and number of workers: speed-up over one worker, and overhead per cell.

    python -m benchmarks.executors [--cells 24] [--workers 1 2] [--epochs 40] [--executors processes ray]

All cells prune one dense network at other sparsities and retrain it for the same number of epochs. Seconds are those
from the first cell's begin to the last cell's end. Overhead is the time of all workers in which no cell runs, per cell;
``start`` is the time before the first cell, with the training of the dense network.
"""

import argparse
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from masksearch.experiment import Settings, SweepCallback, run_sweep


@dataclass
class Times(SweepCallback):
    """Times at which cells begin and end, in seconds from the construction."""

    since: float = field(default_factory=perf_counter)
    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def cell_begins(self, cell):
        self.begun[cell.folder] = perf_counter() - self.since

    def cell_ends(self, cell, result):
        self.ended[cell.folder] = perf_counter() - self.since


def timed(executor: str, cells: int, epochs: int, folder: Path) -> Times:
    """Run the sweep and return the times of its cells."""
    flat = {
        "model": "lenet_300_100",
        "methods": ["random"],
        "sparsity": [round(0.5 + 0.4 * place / cells, 6) for place in range(cells)],
        "seeds": 1,
        "epochs": epochs,
        "runs": str(folder),
        "device": "cpu",
        "threads": 1,
        "latency_seconds": 0.0,
        "executor": executor,
    }
    times = Times()
    assert len(run_sweep(Settings().updated(flat, "benchmark"), times).cells) == cells
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--executors", nargs="+", choices=("processes", "ray"), default=["processes"])
    given = parser.parse_args()
    print(f"{given.cells} cells of {given.epochs} epochs, load of the machine {os.getloadavg()[0]:.1f}\n")
    print("| executor | workers | start, s | cells, s | s per cell | speed-up | overhead per cell, s |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for executor in given.executors:
        first = None
        for workers in given.workers:
            with tempfile.TemporaryDirectory() as scratch:
                times = timed(_named(executor, workers), given.cells, given.epochs, Path(scratch))
            begin, end = min(times.begun.values()), max(times.ended.values())
            lengths = [times.ended[cell] - times.begun[cell] for cell in times.ended]
            first = first or end - begin
            idle = (workers * (end - begin) - sum(lengths)) / given.cells
            figures = (begin, end - begin, sum(lengths) / given.cells, first / (end - begin), idle)
            print(f"| {executor} | {workers} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)


def _named(executor: str, workers: int) -> str:
    """The value of the setting ``executor``; for Ray, connect to a Ray with that number of CPUs."""
    if executor == "processes":
        return f"processes:{workers}"
    import ray

    ray.shutdown()
    context = ray.init(num_cpus=workers, include_dashboard=False, address="local", log_to_driver=False)
    return f"ray:{context.address_info['address']}"


if __name__ == "__main__":
    main()
