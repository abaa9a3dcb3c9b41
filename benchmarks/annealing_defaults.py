"""Settings of annealing side by side: thesis_mlp at 90 %, weights at initialisation, on validation images alone.

    python benchmarks/annealing_defaults.py DATA_ROOT [SCORINGS]

Prints a Markdown table: the search score, accuracy on the search images, and accuracy on the rest of the validation
images, by which settings are to be chosen.
"""

import sys

import torch

import masksearch as ms

SETTINGS = [
    {},
    {"radius_start": 0.05, "radius_end": 0.0002, "accept_start": 0.2, "accept_end": 0.005},
    {"radius_start": 0.02, "radius_end": 0.0002, "accept_start": 0.05, "accept_end": 0.005},
    {"radius_start": 0.1, "radius_end": 0.001, "accept_start": 0.05, "accept_end": 0.005},
    {"radius_start": 0.005, "radius_end": 0.0002, "accept_start": 0.05, "accept_end": 0.005},
    {"radius_start": 0.01, "radius_end": 0.00004},
    {"accept_start": 0.2, "accept_end": 0.02},
    {"accept_start": 0.02, "accept_end": 0.001},
]


def main(root: str, scorings: int) -> None:
    """Search once with every settings and print a row."""
    data = ms.load_data("mnist", root)
    model = ms.build_model("thesis_mlp", data, seed=0)
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, data.search, objective="calibrated_loss")
    on_search, on_rest = ms.Scorer(model, space, data.search), ms.Scorer(model, space, data.rest)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {scorings} scorings, seed 0\n")
    print("| radius | share accepted | score | search accuracy | rest accuracy | ms per scoring |")
    print("|---|---|---:|---:|---:|---:|")
    for settings in SETTINGS:
        annealing = ms.searchers.Annealing(**settings)
        history = ms.search(space, annealing, scorer, density=0.1, budget=scorings, seed=0)
        best = history.best
        print(
            f"| {annealing.radius_start:g} to {annealing.radius_end:g} | {annealing.accept_start:g} to "
            f"{annealing.accept_end:g} | {best.score.value:.4f} | {100 * on_search(best.mask).value:.2f} | "
            f"{100 * on_rest(best.mask).value:.2f} | {1e3 * history.seconds / len(history):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 3000)
