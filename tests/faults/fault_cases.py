"""Small sweeps and searches, and Python subprocesses, for tests of faults."""

import os
import subprocess
import sys
from pathlib import Path

import masksearch as ms
from masksearch.experiment import Settings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SMALL = {
    "model": "lenet_300_100:0.05",
    "methods": ["magnitude"],
    "sparsity": [0.8],
    "seeds": 1,
    "epochs": 2,
    "budget": 6,
    "train_examples": 100,
    "val_examples": 40,
    "threads": 1,
    "latency_seconds": 0.0,
}


def settings_in(folder, **flat):
    return Settings().updated(SMALL | {"runs": str(folder)} | flat, "test")


def python(code, *args, **options):
    words = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(words, env=ENVIRONMENT, text=True, **options)


class HashScorer:
    """Gives every mask a score from its hash."""

    def score(self, proposals):
        return [ms.Score(float(proposal.mask.hash % 1000)) for proposal in proposals]


SPACE = ms.core.space.MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


def searched(folder, budget=30):
    return ms.search(SPACE, "annealing", HashScorer(), 0.5, budget, folder=folder)
