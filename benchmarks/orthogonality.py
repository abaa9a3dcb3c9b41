"""Orthogonality scores of masks found at initialisation: thesis_mlp on MNIST, 90 % sparse.

python benchmarks/orthogonality.py ROOT_OF_MNIST
"""

import sys

import torch

import masksearch as ms


def main(root: str) -> None:
    """Print a table over seeds 0 to 2."""
    data = ms.load_data("mnist", root)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 3,000 scorings\n")
    print("| seed | full | random | SNIP | annealing |\n|---|---:|---:|---:|---:|")
    for seed in range(3):
        model = ms.build_model("thesis_mlp", data, seed=seed)
        space = ms.weight_space(model)
        generator = torch.Generator().manual_seed(seed)
        batch = ms.criteria.balanced_batch(data.train, 10, generator)
        scorer = ms.Scorer(model, space, data.search, "calibrated_loss")
        found = ms.search(space, ms.searchers.Annealing(), scorer, density=0.1, budget=3000, seed=seed)
        masks = [None, space.random(0.1, generator=generator), ms.criteria.select("snip", model, space, [batch], 0.1)]
        scores = [ms.analysis.orthogonality_score(model, space, mask) for mask in [*masks, found.best.mask]]
        print(f"| {seed} | " + " | ".join(f"{score:.5f}" for score in scores) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
