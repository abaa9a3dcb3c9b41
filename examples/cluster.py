"""One seed per job, then one table: run `python examples/cluster.py SEED` for each seed, then without SEED."""

import sys
from pathlib import Path

from masksearch.analysis import summarise
from masksearch.cli import main as masksearch
from masksearch.experiment import read_sweep
from masksearch.report import markdown_table


def job(seed: int, runs: str = "runs", epochs: int = 10, budget: int = 300) -> int:
    """Run all methods for one seed: a sweep of its own, in a folder that all machines see."""
    flags = f"--methods annealing magnitude random --sparsity 0.9 --first-seed {seed} --seeds 1 --threads 1"
    sizes = f"--epochs {epochs} --budget {budget} --runs {runs} --name seed{seed}"
    return masksearch(["run", *flags.split(), *sizes.split()])


def table(runs: str = "runs") -> str:
    """Print the means over the seeds of all jobs."""
    sweeps = [read_sweep(folder) for folder in sorted(Path(runs).glob("seed*"))]
    cells = [cell for sweep in sweeps for cell in sweep.cells]
    text = markdown_table(summarise(cells, [network for sweep in sweeps for network in sweep.dense]))
    print(text)
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        job(int(sys.argv[1]))
    else:
        table()
