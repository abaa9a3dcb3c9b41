"""What a score by the objective ``reconstructed`` costs beside a masked forward pass: ResNet-20, 1,000 images.

    python benchmarks/repair_speed.py [--masks 5] [--images 1000] [--sequential 0.3]

CPU seconds of one thread, measured in turn for every mask: the masked network of full size, the network without the
removed filters with folded BatchNorm, and the repair with its score, the first time (``new``: every layer is solved)
and again (``known``: solutions are cached). Ratios are medians over random masks of uniform densities. Weights are
random, which changes no time. ``--sequential SHARE`` times one score after independent and one after sequential repair
instead, of masks with that share of the MACs.
"""

import argparse
from statistics import median
from time import process_time

import torch

import masksearch as ms
from masksearch.data import Split
from masksearch.pruning.reconstruction import Reconstruction


def seconds(scorer: ms.Scorer, mask: ms.Mask) -> float:
    """CPU seconds of one score."""
    began = process_time()
    scorer(mask)
    return process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sequential", type=float, metavar="SHARE", help="time one score after sequential repair")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, calibration = torch.randn(2, given.images, 3, 32, 32)
    model = ms.build_model("resnet20", (3, 32, 32), seed=0)
    model.train()(images[:200])
    model.eval()
    space, split = ms.filter_space(model, images[:1]), Split(images, torch.randint(0, 10, (given.images,)))
    began = process_time()
    repair = Reconstruction(model, space, calibration)
    setup = process_time() - began
    scorers = {
        "masked": ms.Scorer(model, space, split, "loss", fast=False),
        "compact": ms.Scorer(model, space, split, "loss"),
        "repaired": ms.Scorer(model, space, split, "reconstructed", calibration=repair),
    }
    generator = torch.Generator().manual_seed(1)

    def draw(share: float) -> ms.Mask:
        return space.random(ms.Amount(share, hold="macs", scope="layerwise", on_empty="keep_one"), generator=generator)

    if given.sequential is not None:
        sequential = ms.Scorer(model, space, split, "reconstructed_sequential", calibration=repair)
        times = [seconds(scorer, draw(given.sequential)) for scorer in (scorers["repaired"], sequential)]
        print(f"{100 * given.sequential:g} % of the MACs: independent {times[0]:.1f} s, sequential {times[1]:.1f} s")
        return
    for scorer in scorers.values():
        scorer(draw(0.5))
    print(f"torch {torch.__version__}, 1 thread, CPU time; Gram matrices once: {setup:.1f} s\n")
    print("| MACs kept | masked, s | compact / masked | repaired / masked, new | repaired / masked, known |")
    print("|---:|---:|---:|---:|---:|")
    for share in (0.7, 0.5, 0.3, 0.15):
        rows = []
        for _ in range(given.masks):
            mask = draw(share)
            rows.append([seconds(scorers[name], mask) for name in ("masked", "compact", "repaired", "repaired")])
        masked = median(row[0] for row in rows)
        ratios = (median(row[place] / row[0] for row in rows) for place in (1, 2, 3))
        print(
            f"| {100 * share:.0f} % | {masked:.2f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
