"""Can a short training tell how filters should be shared out? BasicCNN on 5,000 images of CIFAR-10, 192 of 960 filters.

    python -m benchmarks.filter_profiles ROOT_OF_CIFAR10

Each profile is a number of filters per layer; those are kept that Taylor's criterion ranks highest in their layer, and
the smaller network is trained from initialisation for 15 epochs, as in the recipe ``search_filters``. Its validation
loss afterwards is compared with scores that a search would go by. Some profiles are trained four times, in other orders
of the images, to see how far that loss depends on the profile at all. One seed, 100; no test images. Trainings that
``results/filter_profiles.csv`` has are not repeated; all of them take an hour.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import masksearch as ms
from benchmarks.page import HERE
from benchmarks.rows import Row, read_csv, write_csv

SEED = 100
REPEATED = ((42, 40, 36, 74), (48, 48, 48, 48), (64, 43, 43, 42))  # Taylor's own, equal widths, ERK's
ONCE = (
    *((24, 40, 64, 64), (32, 48, 56, 56), (40, 56, 48, 48), (48, 64, 48, 32), (32, 64, 64, 32), (20, 36, 68, 68)),
    *((56, 72, 40, 24), (16, 48, 80, 48), (40, 80, 48, 24), (24, 56, 72, 40), (32, 40, 50, 70), (60, 60, 40, 32)),
    *((28, 72, 60, 32), (40, 64, 56, 32), (36, 52, 64, 40)),
)
ORDERS = (SEED, 1, 2, 3)  # seeds of the retraining
SCORES = ((50, 1), (79, 1), (100, 1), (150, 1), (200, 1), (50, 3), (100, 3))  # steps, times the learning rate
SETTINGS = ms.TrainSettings(
    epochs=15, optimizer="adam", lr=1e-3, weight_decay=5e-4, lr_schedule="cosine", batch_size=64
)


PATH = HERE / "results" / "filter_profiles.csv"


def column(steps: int, factor: int) -> str:
    """Of a score, in the rows."""
    return f"score.{steps}x{factor}"


def train(root: str) -> None:
    """Add the rows that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)]
    wanted = [(profile, order) for order in ORDERS for profile in (REPEATED if order != SEED else REPEATED + ONCE)]
    missing = [
        one for one in wanted if (str(one[0]), str(one[1])) not in {(row["filters"], row["order"]) for row in rows}
    ]
    if not missing:
        return
    data = ms.load_data("cifar10", root, train_images=5000, val_images=3000, search_images=1000)
    initial = ms.build_model("basic_cnn", data, seed=SEED)
    space = ms.filter_space(initial, data.search.images[:1])
    dense = ms.build_model("basic_cnn", data, seed=SEED)
    ms.train(dense, data.train, SETTINGS, seed=SEED, augment=data.augment)
    batches = [(data.train.images[i : i + 250], data.train.labels[i : i + 250]) for i in range(0, 1000, 250)]
    saliency = ms.criteria.taylor(dense, space, batches)
    for profile, order in missing:
        density = {layer.name: kept / layer.size for layer, kept in zip(space.layers, profile, strict=True)}
        mask = space.top_k(saliency, density)
        network = ms.prune(initial, space, mask)
        last = ms.train(network, data.train, SETTINGS, val=data.val, seed=order, augment=data.augment).epochs[-1]
        row = {"filters": str(profile), "order": order, "val_loss": last.val_loss, "val_accuracy": last.val_accuracy}
        row["macs"] = ms.cost.macs(network, data.search.images[:1])
        if order == SEED:
            for steps, factor in SCORES:
                settings = replace(SETTINGS, lr=factor * SETTINGS.lr)
                scorer = ms.ShortTraining(initial, space, data.train, data.search, settings, steps=steps)
                row[column(steps, factor)] = scorer(mask).value
        rows.append(row)
        write_csv(rows, PATH)


def table() -> list[str]:
    """What the rows say, as lines of Markdown."""
    rows = read_csv(PATH)
    first = [row for row in rows if row["order"] == str(SEED)]
    losses, accuracies = (np.array([float(row[name]) for row in first]) for name in ("val_loss", "val_accuracy"))
    best = 100 * accuracies.max()
    lines = ["| score | rank correlation with the loss | chosen % | best % |", "|---|---:|---:|---:|"]
    for steps, factor in SCORES:
        scores = np.array([float(row[column(steps, factor)]) for row in first])
        correlation, chosen = spearmanr(scores, -losses).statistic, 100 * accuracies[scores.argmax()]
        rate = factor * SETTINGS.lr
        lines.append(f"| {steps} steps at {rate:g} | {correlation:.2f} | {chosen:.2f} | {best:.2f} |")
    lines += ["", "| filters | trainings | validation loss | its deviation | accuracy % |", "|---|---:|---:|---:|---:|"]
    for profile in REPEATED:
        own = [row for row in rows if row["filters"] == str(profile)]
        lines.append(spread(" ".join(map(str, profile)), own))
    lines.append(spread(f"{len(first)} profiles", first))
    return lines


def spread(name: str, rows: Sequence[Row]) -> str:
    """How far several trainings come, on average, and how far from each other."""
    losses, accuracies = ([float(row[column]) for row in rows] for column in ("val_loss", "val_accuracy"))
    deviation = np.std(losses, ddof=1) if len(losses) > 1 else np.nan
    mean = 100 * np.mean(accuracies)
    return f"| {name} | {len(rows)} | {np.mean(losses):.4f} | {deviation:.4f} | {mean:.2f} |"


def main(root: str) -> None:
    """Train what is missing, then print the tables."""
    train(root)
    print(f"torch {torch.__version__}, seed {SEED}\n")
    print("\n".join(table()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
