"""Which repair ranks masks as fine-tuning does: layers on dense inputs, or on those of the network repaired so far?

    python -m benchmarks.repair_ranking [--networks lenet_300_100 resnet20:0.25] [--seeds 0 1 2] [--masks 24]

A network is trained on the digits of scikit-learn. Masks of equal MACs (2 % of LeNet-300-100's, 30 % of ResNet-20's)
have random widths, and four criteria choose the units in turn. Every mask is scored by minus the divergence from the
dense network's outputs on validation images: of the masked network, and of the network after independent and after
sequential repair on training images. Then the smaller network, repaired independently, is fine-tuned for two epochs
with two seeds. ``results/repair_ranking.csv`` gets a row per mask; masks that are there are not repeated. No test
images are used.
"""

import argparse
import copy
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import masksearch as ms
from benchmarks.allocators import TRAINED, accuracy
from benchmarks.page import HERE, write_block
from benchmarks.rows import read_csv, write_csv
from masksearch.analysis import Estimate
from masksearch.pruning.reconstruction import Reconstruction

PATH = HERE / "results" / "repair_ranking.csv"
MACS = {"lenet_300_100": 0.02, "resnet20:0.25": 0.3}
CRITERIA = ("filter_l1", "fpgm", "taylor", "energy")
SCORES = ("masked", "independent", "sequential")
FINE_TUNED = ms.TrainSettings(epochs=2, lr=0.02, lr_schedule="cosine", batch_size=64)
CALIBRATION = 512  # training images


def agreement(network: nn.Module, images: Tensor, wanted: Tensor) -> float:
    """Minus the mean KL(dense || network) on images; ``wanted`` are the dense network's log-probabilities."""
    with torch.no_grad():
        found = F.log_softmax(network.eval()(images), 1)
    return -float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))


def random_widths(space: ms.FilterSpace, saliency: Tensor, share: float, generator: torch.Generator) -> ms.Mask:
    """Mask of the highest saliencies of every layer, with random widths, at a share of the MACs."""
    values = torch.empty(space.n_units)
    for layer in space.layers:
        ranks = saliency[layer.slice].argsort().argsort() / layer.size
        values[layer.slice] = ranks + torch.rand((), generator=generator)
    return space.top_k(values, ms.Amount(share, hold="macs", scope="global", on_empty="keep_one"))


def collect(model: str, seed: int, n: int) -> None:
    """Add the rows of a network's masks that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)] if PATH.exists() else []
    done = sum((row["network"], int(row["seed"])) == (model, seed) for row in rows)
    if done >= n:
        return
    data = ms.load_data("digits", search_examples=150)
    images = torch.cat([data.search.images, data.rest.images])
    dense = ms.build_model(model, data, seed=seed)
    ms.train(dense, data.train, TRAINED, seed=seed)
    space, calibration = ms.filter_space(dense, images[:1]), data.train.images[:CALIBRATION]
    with torch.no_grad():
        wanted = F.log_softmax(dense.eval()(images), 1)
    repair = Reconstruction(dense, space, calibration)
    labelled = (data.train.images[:100], data.train.labels[:100])
    saliencies = {
        "filter_l1": ms.criteria.filter_l1(dense, space),
        "fpgm": ms.criteria.fpgm(dense, space),
        "taylor": ms.criteria.taylor(dense, space, [labelled]),
        "energy": ms.repair_energy(dense, space, calibration).saliency(),
    }
    generator = torch.Generator().manual_seed(seed)
    for number in range(n):
        criterion = CRITERIA[number % len(CRITERIA)]
        mask = random_widths(space, saliencies[criterion], MACS[model], generator)
        if number < done:
            continue
        masked = copy.deepcopy(dense)
        space.apply(masked, mask)
        row: dict[str, Any] = {"network": model, "seed": seed, "mask": number, "criterion": criterion}
        row["kept"] = " ".join(map(str, mask.kept_per_layer().values()))
        row["masked"] = f"{agreement(masked, images, wanted):.5f}"
        began = time.process_time()
        repaired = repair(mask)
        row["independent"] = f"{agreement(repaired, images, wanted):.5f}"
        row["independent_seconds"] = f"{time.process_time() - began:.3f}"
        began = time.process_time()
        again = ms.reconstruct(dense, space, mask, calibration, sequential=True)
        row["sequential"] = f"{agreement(again, images, wanted):.5f}"
        row["sequential_seconds"] = f"{time.process_time() - began:.3f}"
        val = ms.Split(images, torch.cat([data.search.labels, data.rest.labels]))
        tuned = []
        for again_seed in (0, 1):
            network = ms.prune(repaired, space, mask)
            ms.train(network, data.train, FINE_TUNED, seed=again_seed)
            tuned.append(accuracy(network, val))
        row["fine_tuned"] = f"{np.mean(tuned):.5f}"
        rows.append(row)
        write_csv(rows, PATH)
    print(f"{model}, seed {seed}: {n} masks", flush=True)


def table() -> list[str]:
    """Rank correlations of scores and fine-tuned accuracies, means over the seeds, as lines of Markdown."""
    lines = [f"| network | MACs | seeds | masks | {' | '.join(SCORES)} | sequential minus independent | seconds |"]
    lines.append("|---|---:|---:|---:|" + "---:|" * (len(SCORES) + 2))
    for model, share in MACS.items():
        by_seed: dict[str, list[dict[str, str]]] = {}
        for row in read_csv(PATH):
            if row["network"] == model:
                by_seed.setdefault(row["seed"], []).append(row)
        if not by_seed:
            continue
        found: dict[str, list[float]] = {score: [] for score in SCORES}
        for own in by_seed.values():
            after = [float(row["fine_tuned"]) for row in own]
            for score in SCORES:
                found[score].append(float(spearmanr([float(row[score]) for row in own], after).statistic))
        gain = Estimate.of_differences(zip(found["sequential"], found["independent"], strict=True))
        texts = [Estimate.of(found[score]).text() for score in SCORES] + [gain.text(sign="+")]
        every = [row for own in by_seed.values() for row in own]
        times = [np.median([float(row[f"{score}_seconds"]) for row in every]) for score in SCORES[1:]]
        masks = min(map(len, by_seed.values()))
        lines.append(
            f"| {model} | {100 * share:.0f} % | {len(by_seed)} | {masks} | {' | '.join(texts)} | "
            f"{times[0]:.2f}, {times[1]:.2f} |"
        )
    return lines


def main() -> None:
    """Collect missing rows, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(MACS), default=list(MACS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--masks", type=int, default=24, help="masks of every network and seed")
    parser.add_argument("--write", choices=["repair_ranking"], help="also write the table to its place on the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.networks:
        for seed in given.seeds:
            collect(model, seed, given.masks)
    print("\n".join(table()))
    if given.write:
        write_block(given.write, "\n".join(table()) + "\n")


if __name__ == "__main__":
    main()
