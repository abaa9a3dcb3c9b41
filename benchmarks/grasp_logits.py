"""How large are the logits under masks at initialisation? conv2:0.25 on CIFAR-10, half of the weights, seeds 0 to 2.

    python benchmarks/grasp_logits.py ROOT_OF_CIFAR10

Prints the standard deviation of the untrained network's outputs on 1,000 validation images.
"""

import sys

import torch

import masksearch as ms


def main(root: str) -> None:
    """Print a table over seeds."""
    data = ms.load_data("cifar10", root, train_examples=5000, val_examples=2000)
    images = data.val.images[:1000]
    print(f"torch {torch.__version__}\n")
    print("| seed | dense | random | SNIP | GraSP |\n|---:|---:|---:|---:|---:|")
    for seed in range(3):
        model = ms.build_model("conv2:0.25", data, seed=seed)
        space = ms.weight_space(model)
        generator = torch.Generator().manual_seed(seed)
        batch = ms.criteria.balanced_batch(data.train, 10, generator)
        masks = [space.random(1.0), space.random(0.5, generator=generator)]
        masks += [ms.criteria.select(name, model, space, [batch], 0.5) for name in ("snip", "grasp")]
        deviations = []
        for mask in masks:
            with torch.no_grad(), space.applied(model, mask):
                deviations.append(float(model(images).std()))
        print(f"| {seed} | " + " | ".join(f"{deviation:.2f}" for deviation in deviations) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
