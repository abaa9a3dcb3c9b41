"""Are masks more alike that annealing finds later in the training? LeNet-300-100, digits, 70 % sparse, one network.

    python benchmarks/moments.py

Five searches with other random numbers, of the same network after k epochs; 2,000 scorings of ``calibrated_loss`` each.
Prints the mean cosine similarity of their masks, pair by pair; that of random masks is their density.
"""

from itertools import combinations

import numpy as np
import torch

import masksearch as ms

EPOCHS, DENSITY, SEARCHES, SCORINGS = (0, 1, 3, 10), 0.3, 5, 2000


def main() -> None:
    """Print the table."""
    data = ms.load_data("digits")
    print(f"torch {torch.__version__}\n")
    print("| k, epochs | mean cosine similarity | lowest and highest pair | mean score |\n|---:|---:|---:|---:|")
    for epochs in EPOCHS:
        model = ms.build_model("lenet_300_100", data, seed=0)
        ms.train(model, data.train, ms.TrainSettings(epochs=epochs, lr=0.05))
        space = ms.weight_space(model)
        scorer = ms.Scorer(model, space, data.search, "calibrated_loss")
        best = [
            ms.search(space, ms.searchers.Annealing(), scorer, DENSITY, SCORINGS, seed=seed).best
            for seed in range(SEARCHES)
        ]
        kept = [trial.mask.bits for trial in best]
        # Masks have equally many kept units, so the cosine is the share of those that both keep.
        alike = [float((one & other).sum() / one.sum()) for one, other in combinations(kept, 2)]
        score = np.mean([trial.score.value for trial in best])
        print(f"| {epochs} | {np.mean(alike):.3f} | {min(alike):.3f} to {max(alike):.3f} | {score:.4f} |", flush=True)


if __name__ == "__main__":
    main()
