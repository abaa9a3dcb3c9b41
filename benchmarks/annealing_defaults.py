"""Settings of annealing side by side, on validation images alone.

    python benchmarks/annealing_defaults.py DATA_ROOT schedules
    python benchmarks/annealing_defaults.py DATA_ROOT additions
    python benchmarks/annealing_defaults.py DATA_ROOT densities

``schedules`` and ``additions``: thesis_mlp at 90 %, weights at initialisation; what the radius and the share of
accepted moves begin and end with, and everything that the defaults leave out. ``densities``: lenet_300_100 after an
epoch of training, its weights as they are, 95 and 98 % pruned; the layers' densities alone, units ranked by magnitude,
beside other searches that start from global magnitude.

Prints a Markdown table of means over seeds: the search score, accuracy on the search images, and accuracy on the rest
of the validation images, by which settings are to be chosen, with its standard deviation.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import masksearch as ms
from masksearch.searchers import Annealing, OptunaSearch, Searcher

SEEDS = range(3)
PARTS = ("schedules", "additions", "densities")
SCORINGS = {"schedules": 3000, "additions": 3000, "densities": 300}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "schedules": [
        {},
        {"radius_start": 0.05, "radius_end": 0.0002, "accept_start": 0.2, "accept_end": 0.005},
        {"radius_start": 0.02, "radius_end": 0.0002, "accept_start": 0.05, "accept_end": 0.005},
        {"radius_start": 0.1, "radius_end": 0.001, "accept_start": 0.05, "accept_end": 0.005},
        {"radius_start": 0.005, "radius_end": 0.0002, "accept_start": 0.05, "accept_end": 0.005},
        {"radius_end": 0.00004},
        {"accept_start": 0.2, "accept_end": 0.02},
        {"accept_start": 0.02, "accept_end": 0.001},
    ],
    "additions": [
        {},
        {"scope": "erk"},
        {"within": 0.5},
        {"within": 1.0, "scope": "erk"},
        {"within": 0.5, "scope": "erk"},
        {"chains": 4},
    ],
}


def untrained(data: ms.Data, part: str) -> Iterator[str]:
    """The table of searches among the masks of an untrained network."""
    yield "| settings | score | search accuracy | rest accuracy | ms per scoring |\n|---|---:|---:|---:|---:|"
    for settings in SETTINGS[part]:
        rows = []
        for seed in SEEDS:
            model = ms.build_model("thesis_mlp", data, seed=seed)
            rows.append(_searched(model, Annealing(**settings), SCORINGS[part], 0.1, seed, data))
        yield _row(", ".join(f"{name} {value}" for name, value in settings.items()) or "defaults", rows)


def densities(data: ms.Data) -> Iterator[str]:
    """The table of searches that start from the magnitudes of a trained network."""
    searchers: dict[str, Searcher | None] = {
        "global magnitude": None,
        "annealing": Annealing(),
        "annealing, densities": Annealing(densities=True),
        "annealing, densities, 4 chains": Annealing(densities=True, chains=4),
        "optuna_tpe, layers": OptunaSearch.tpe(),
    }
    yield "| search | density | score | search accuracy | rest accuracy | ms per scoring |"
    yield "|---|---:|---:|---:|---:|---:|"
    for density in (0.05, 0.02):
        rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in searchers}
        for seed in SEEDS:
            model = ms.build_model("lenet_300_100", data, seed=seed)
            ms.train(model, data.train, ms.TrainSettings(epochs=1), seed=seed)
            for name, searcher in searchers.items():
                found = _searched(model, searcher, SCORINGS["densities"], density, seed, data)
                rows[name].append(found)
        for name, of_seeds in rows.items():
            yield _row(f"{name} | {density}", of_seeds)


def _searched(
    model: Any,
    searcher: Searcher | None,
    scorings: int,
    density: float,
    seed: int,
    data: ms.Data,
) -> tuple[float, ...]:
    """Score, accuracy on the search images and on the rest, milliseconds per scoring."""
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, data.search, "calibrated_loss")
    magnitude = ms.criteria.magnitude(model, space) if density < 0.1 else None
    given = {} if magnitude is None else {"start": magnitude, "saliencies": {"magnitude": magnitude}}
    trials = 1 if searcher is None else scorings
    history = ms.search(space, searcher or Annealing(), scorer, density, trials, seed=seed, on_empty="allow", **given)
    best = history.best
    accuracies = [100 * ms.Scorer(model, space, images)(best.mask).value for images in (data.search, data.rest)]
    return best.score.value, *accuracies, 1e3 * history.seconds / len(history)


def _row(name: str, rows: list[tuple[float, ...]]) -> str:
    score, search, rest, ms_per_scoring = np.mean(rows, axis=0)
    spread = f" ± {np.std(rows, axis=0, ddof=1)[2]:.2f}" if len(rows) > 1 else ""
    return f"| {name} | {score:.4f} | {search:.2f} | {rest:.2f}{spread} | {ms_per_scoring:.2f} |"


def main(root: str, part: str) -> None:
    """Print one part's table, row by row."""
    data = ms.load_data("mnist", root)
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{machine}, {SCORINGS[part]} scorings, seeds 0 to {SEEDS[-1]}\n")
    for line in densities(data) if part == "densities" else untrained(data, part):
        print(line, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in PARTS:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
