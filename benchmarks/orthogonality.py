"""Orthogonality scores of masks found at initialisation: thesis_mlp on MNIST, 70 % sparse as published, and 90 %.

python benchmarks/orthogonality.py ROOT_OF_MNIST
"""

import sys
from itertools import product

import torch

import masksearch as ms


def main(root: str) -> None:
    """Print a table over sparsities and seeds 0 to 2."""
    data = ms.load_data("mnist", root)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 3,000 scorings\n")
    print("| sparsity | seed | full | random | SNIP | annealing |\n|---:|---:|---:|---:|---:|---:|")
    for sparsity, seed in product((0.7, 0.9), range(3)):
        density = round(1 - sparsity, 12)
        model = ms.build_model("thesis_mlp", data, seed=seed)
        space = ms.weight_space(model)
        generator = torch.Generator().manual_seed(seed)
        batch = ms.criteria.balanced_batch(data.train, 10, generator)
        scorer = ms.Scorer(model, space, data.search, "calibrated_loss")
        found = ms.search(space, ms.searchers.Annealing(), scorer, density=density, budget=3000, seed=seed)
        masks = [None, space.random(density, generator=generator)]
        masks.append(ms.criteria.select("snip", model, space, [batch], density))
        scores = [ms.analysis.orthogonality_score(model, space, mask) for mask in [*masks, found.best.mask]]
        print(f"| {sparsity:.0%} | {seed} | " + " | ".join(f"{score:.5f}" for score in scores) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
