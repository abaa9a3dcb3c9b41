"""Which score tells how filters should be shared out? BasicCNN on 5,000 images of CIFAR-10, 192 of 960 filters.

    python -m benchmarks.filter_profiles ROOT_OF_CIFAR10

Each profile is a number of filters per layer; those are kept that a criterion (Taylor's, if no other is named) ranks
highest in their layer, and the smaller network is trained from initialisation for 15 epochs, as in the recipe
``search_filters``. Its validation loss afterwards is compared with scores that a search would go by: short trainings,
and proxies that look at the untrained network; three of the proxies were removed after commit 0aa3cbb, and their scores
are those of the committed rows. The same again for profiles that cost about as many MACs as uniform ones of 192
filters. Some profiles are trained four times, in other orders of the images, to see how far that loss depends on the
profile at all, and one with the filters of other criteria. One seed, 100; no test images. Trainings that
``results/filter_profiles.csv`` has are not repeated; all of them take an hour and a half.
"""

import math
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
from masksearch.utils.number_text import number_text

SEED = 100
REPEATED = ((42, 40, 36, 74), (48, 48, 48, 48), (64, 43, 43, 42))  # Taylor's own, equal widths, ERK's
ONCE = (
    *((24, 40, 64, 64), (32, 48, 56, 56), (40, 56, 48, 48), (48, 64, 48, 32), (32, 64, 64, 32), (20, 36, 68, 68)),
    *((56, 72, 40, 24), (16, 48, 80, 48), (40, 80, 48, 24), (24, 56, 72, 40), (32, 40, 50, 70), (60, 60, 40, 32)),
    *((28, 72, 60, 32), (40, 64, 56, 32), (36, 52, 64, 40)),
)
EQUAL_MACS = (
    *((13, 26, 51, 102), (19, 23, 42, 116), (21, 26, 34, 107), (21, 19, 42, 127), (28, 23, 35, 70), (12, 20, 61, 102)),
    *((9, 21, 53, 141), (16, 30, 10, 512), (26, 22, 39, 67)),
)  # the first are uniform
CRITERIA = ("bn_scale", "fpgm", "filter_l1", "random")  # beside Taylor's; equal widths, the first two orders
ORDERS = (SEED, 1, 2, 3)  # seeds of the retraining
SHORT = ((50, 1), (79, 1), (100, 1), (150, 1), (200, 1), (50, 3), (100, 3))  # steps, times the learning rate
SETTINGS = ms.TrainSettings(
    epochs=15, optimizer="adam", lr=1e-3, weight_decay=5e-4, lr_schedule="cosine", batch_size=64
)


POWERS = (0.5, 0.25)  # beside the 1 of the objective
REMOVED = ("synflow_flow", "ntk_condition", "gradient_flow")  # objectives that only the committed rows have
PROXIES = ("width", *REMOVED)  # of the untrained network
PATH = HERE / "results" / "filter_profiles.csv"


def scores() -> dict[str, str]:
    """What a search would go by, and its column in the rows."""
    short = {f"{steps} steps at {factor * SETTINGS.lr:g}": f"score.{steps}x{factor}" for steps, factor in SHORT}
    return {name: f"score.{name}" for name in PROXIES} | short


def wanted() -> list[tuple[str, str, str]]:
    """Filters, criterion and order of all trainings."""
    once = (*REPEATED, *ONCE, *EQUAL_MACS)
    cases = [(profile, "taylor", order) for order in ORDERS for profile in (once if order == SEED else REPEATED)]
    cases += [((48, 48, 48, 48), name, order) for name in CRITERIA for order in ORDERS[:2]]
    return [(str(profile), name, str(order)) for profile, name, order in cases]


def train(root: str) -> None:
    """Add the rows that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)]
    had = {(row["filters"], row["criterion"], row["order"]) for row in rows}
    missing = [case for case in wanted() if case not in had]
    if not missing:
        return
    data = ms.load_data("cifar10", root, train_examples=5000, val_examples=3000, search_examples=1000)
    initial = ms.build_model("basic_cnn", data, seed=SEED)
    space = ms.filter_space(initial, data.search.images[:1])
    dense = ms.build_model("basic_cnn", data, seed=SEED)
    ms.train(dense, data.train, SETTINGS, seed=SEED, augment=data.augment)
    batches = [(data.train.images[i : i + 250], data.train.labels[i : i + 250]) for i in range(0, 1000, 250)]
    generator = torch.Generator().manual_seed(SEED)
    saliencies = {
        "taylor": ms.criteria.taylor(dense, space, batches),
        "bn_scale": ms.criteria.bn_scale(dense, space),
        "fpgm": ms.criteria.fpgm(dense, space),
        "filter_l1": ms.criteria.filter_l1(dense, space),
        "random": ms.criteria.random(dense, space, generator=generator),
    }
    for profile, criterion, order in missing:
        kept = map(int, profile.strip("()").split(","))
        density = {layer.name: number / layer.size for layer, number in zip(space.layers, kept, strict=True)}
        mask = space.top_k(saliencies[criterion], density)
        network = ms.prune(initial, space, mask)
        last = ms.train(network, data.train, SETTINGS, val=data.val, seed=int(order), augment=data.augment).epochs[-1]
        row = {"filters": profile, "criterion": criterion, "order": order}
        row |= {"val_loss": last.val_loss, "val_accuracy": last.val_accuracy}
        row["macs"] = ms.cost.macs(network, data.search.images[:1])
        if (criterion, order) == ("taylor", str(SEED)):
            row["score.width"] = ms.Scorer(initial, space, data.search, "width")(mask).value
            row |= {f"score.{name}": math.nan for name in REMOVED}
            for steps, factor in SHORT:
                settings = replace(SETTINGS, lr=factor * SETTINGS.lr)
                scorer = ms.ShortTraining(initial, space, data.train, data.search, settings, steps=steps)
                row[f"score.{steps}x{factor}"] = scorer(mask).value
        rows.append(row)
        write_csv(rows, PATH)


def values(row: Row) -> dict[str, float]:
    """What each score says of a profile, those of ``width`` with other powers among them."""
    widths = [int(number) for number in row["filters"].strip("()").split(",")]
    powers = {f"width, n ** -{power:g}": -sum(width**-power for width in widths) for power in POWERS}
    return {name: float(row[column]) for name, column in scores().items()} | powers


def table() -> list[str]:
    """What the rows say, as lines of Markdown."""
    rows = read_csv(PATH)
    first = [row for row in rows if row["order"] == str(SEED) and row["criterion"] == "taylor"]
    profiles = {"as many filters": [*REPEATED, *ONCE], "as many MACs": EQUAL_MACS}
    groups = {name: [row for row in first if row["filters"] in map(str, own)] for name, own in profiles.items()}
    lines = [f"| score | {' | '.join(f'{name}: rank correlation | chosen %' for name in groups)} |"]
    lines.append(f"|---|{'---:|' * 2 * len(groups)}")
    for score in values(first[0]):
        cells = []
        for own in groups.values():
            found = np.array([values(row)[score] for row in own])
            losses = np.array([float(row["val_loss"]) for row in own])
            chosen = 100 * float(own[found.argmax()]["val_accuracy"])
            cells += [number_text(spearmanr(found, -losses).statistic, ".2f"), f"{chosen:.2f}"]
        lines.append(f"| {score} | {' | '.join(cells)} |")
    lines += ["", "| filters | trainings | validation loss | its deviation | accuracy % |", "|---|---:|---:|---:|---:|"]
    for profile in REPEATED:
        lines.append(spread(" ".join(map(str, profile)), _trained(rows, profile, "taylor")))
    for criterion in CRITERIA:
        lines.append(spread(f"48 48 48 48 by {criterion}", _trained(rows, (48, 48, 48, 48), criterion)))
    lines += [spread(f"{len(own)} profiles of {name}", own) for name, own in groups.items()]
    return lines


def _trained(rows: Sequence[Row], profile: tuple[int, ...], criterion: str) -> list[Row]:
    return [row for row in rows if (row["filters"], row["criterion"]) == (str(profile), criterion)]


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
