"""How should a residual network's filters be shared out, and at which rate does it learn what it can?

    python -m benchmarks.width_profiles ROOT_OF_CIFAR10

The objective ``width`` is minus the sum over layers of n ** -p with p = 1, n the layer's width. Which widths are best
at a number of filters, or of MACs, depends on p; near 0 the sum goes by the number of paths through the network. For
some p the best widths, rounded, are trained as in the recipe ``search_filters``, with random filters, from
initialisation. Beside them stand uniform densities and some others, and for ResNet-20 optimizers and rates. Compared is
the validation loss of seeds from 100 on; no test images. Trainings that ``results/width_profiles.csv`` has are not
repeated; all of them take three hours.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

import masksearch as ms
from benchmarks.page import HERE
from benchmarks.rows import Row, read_csv, write_csv
from masksearch.spaces import FilterSpace

SETTINGS = ms.TrainSettings(epochs=15, weight_decay=5e-4, lr_schedule="cosine", batch_size=64)
PATH = HERE / "results" / "width_profiles.csv"

FILTERS, MACS, FEW_MACS = "20 % of the filters", "9 % of the MACs", "4 % of the MACs"
PROFILES: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    # What the three stages write, then what is within their blocks; or all layers in their order.
    ("resnet20", FILTERS): {
        "p = 1": (12, 12, 12, 6, 6, 6),
        "p = 1/4": (15, 16, 18, 4, 5, 5),
        "uniform": (3, 6, 13, 3, 6, 13),
        "wide early": (16, 12, 10, 8, 5, 4),
        "wide late": (8, 12, 16, 4, 6, 8),
        "wide within blocks": (9, 9, 10, 7, 7, 7),
        # The mean of what Taylor's criterion keeps, and the same with equal blocks; then blocks of three.
        "Taylor's": (11, 8, 5, 3, 6, 13, 4, 2, 6, 24, 6, 2),
        "Taylor's stages": (11, 13, 24, 5, 5, 4),
        "widest stages": (14, 17, 32, 3, 3, 3),
    },
    ("resnet20", MACS): {
        "p = 1": (6, 11, 18, 5, 8, 12),
        "p = 1/4": (6, 16, 35, 4, 6, 9),
        "uniform": (5, 10, 19, 5, 10, 19),
    },
    ("resnet20", FEW_MACS): {
        "p = 1": (4, 7, 12, 3, 5, 8),
        "p = 1/2": (4, 8, 16, 3, 4, 8),
        "uniform": (3, 6, 13, 3, 6, 13),
        "p = 1, trunks thrice": (3, 6, 12, 4, 6, 10),  # counted once for each addition
        "between": (3, 7, 16, 3, 5, 11),
    },
    ("basic_cnn", MACS): {"p = 1": (40, 34, 60, 102), "p = 1/4": (42, 27, 55, 171), "uniform": (19, 38, 77, 154)},
}
Rate = tuple[Literal["sgd", "adam"], float]
Case = tuple[str, str, str, Rate, int]  # network, kept, profile, rate, seed

TWO, THREE, SIX = (100, 101), (100, 101, 102), tuple(range(100, 106))
WANTED: dict[tuple[str, str, Rate], dict[str, tuple[int, ...]]] = {  # profiles and seeds
    ("resnet20", FILTERS, ("sgd", 0.05)): {
        "p = 1": THREE,
        "p = 1/4": THREE,
        "uniform": TWO,
        "wide early": (100, 101, 103),
        "wide late": (100, 101, 102, 103),
        "wide within blocks": TWO,
    },
    ("resnet20", MACS, ("sgd", 0.05)): {"p = 1": TWO, "p = 1/4": TWO, "uniform": (101, 102)},
    ("basic_cnn", MACS, ("adam", 1e-3)): {"p = 1": THREE, "p = 1/4": THREE, "uniform": THREE},
    ("resnet20", FILTERS, ("sgd", 0.02)): {"p = 1": THREE},
    ("resnet20", FILTERS, ("sgd", 0.15)): {"p = 1": THREE},
    ("resnet20", FILTERS, ("adam", 1e-3)): {"p = 1": (100,)},
    ("resnet20", FILTERS, ("adam", 4e-3)): {"p = 1": (101,)},
    ("resnet20", FILTERS, ("adam", 2e-2)): {"p = 1": (101,)},
    ("resnet20", FILTERS, ("adam", 1e-2)): {
        "p = 1": THREE,
        "p = 1/4": TWO,
        "wide late": TWO,
        "Taylor's": THREE,
        "Taylor's stages": THREE,
        "widest stages": THREE,
    },
    ("resnet20", MACS, ("adam", 1e-2)): {"uniform": (101,)},
    ("resnet20", FEW_MACS, ("adam", 1e-2)): {
        "p = 1": SIX,
        "p = 1/2": THREE,
        "p = 1, trunks thrice": (100, 103, 104, 105),
        "uniform": SIX,
        "between": SIX,
    },
}


def wanted() -> Iterator[Case]:
    """All trainings."""
    for (model, kept, rate), profiles in WANTED.items():
        for name, seeds in profiles.items():
            yield from ((model, kept, name, rate, seed) for seed in seeds)


def train(root: str) -> None:
    """Add the rows that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)] if PATH.exists() else []
    had = {_case(row) for row in rows}
    data = ms.load_data("cifar10", root, train_examples=5000, val_examples=3000, search_examples=1000)
    for case in wanted():
        if case in had:
            continue
        model, kept, name, (optimizer, lr), seed = case
        initial = ms.build_model(model, data, seed=seed)
        space = ms.filter_space(initial, data.search.images[:1])
        ranked = ms.criteria.random(initial, space, generator=torch.Generator().manual_seed(seed))
        filters = PROFILES[model, kept][name]
        network = ms.prune(initial, space, space.top_k(ranked, _densities(space, filters)))
        settings = replace(SETTINGS, optimizer=optimizer, lr=lr)
        last = ms.train(network, data.train, settings, val=data.val, seed=seed, augment=data.augment).epochs[-1]
        row: dict[str, Any] = {"model": model, "kept": kept, "profile": name, "optimizer": optimizer, "lr": lr}
        row |= {"seed": seed, "filters": " ".join(map(str, filters))}
        row |= {"val_loss": last.val_loss, "val_accuracy": last.val_accuracy}
        row |= {"macs": ms.cost.macs(network, data.search.images[:1]), "torch": torch.__version__}
        rows.append(row)
        write_csv(rows, PATH)


def _case(row: Row) -> Case:
    rate: Rate = ("sgd" if row["optimizer"] == "sgd" else "adam", float(row["lr"]))
    return str(row["model"]), str(row["kept"]), str(row["profile"]), rate, int(row["seed"])


def _densities(space: FilterSpace, filters: tuple[int, ...]) -> dict[str, float]:
    """Densities of the space's layers; of ResNet-20's from the widths of its stages and within their blocks."""
    if len(filters) == len(space.layers):
        return {layer.name: number / layer.size for layer, number in zip(space.layers, filters, strict=True)}
    stages = sorted({layer.size for layer in space.layers})
    places = [stages.index(layer.size) + len(stages) * layer.name.endswith("body.conv1") for layer in space.layers]
    return {layer.name: filters[place] / layer.size for layer, place in zip(space.layers, places, strict=True)}


def table() -> list[str]:
    """What the rows say, as lines of Markdown."""
    groups: dict[tuple[str, str, str, Rate], list[Row]] = {}
    for row in read_csv(PATH):
        groups.setdefault(_case(row)[:-1], []).append(row)
    lines = ["| network | kept | profile | filters | M MACs | optimizer, rate | seeds | validation loss | accuracy % |"]
    lines.append("|---|---|---|---|---:|---|---:|---:|---:|")
    for case in dict.fromkeys(case[:-1] for case in wanted()):
        if own := groups.get(case):
            loss, accuracy, macs = (
                [float(row[column]) for row in own] for column in ("val_loss", "val_accuracy", "macs")
            )
            model, kept, name, (optimizer, lr) = case
            lines.append(
                f"| {model} | {kept} | {name} | {own[0]['filters']} | {np.mean(macs) / 1e6:.1f} | {optimizer} {lr:g} "
                f"| {len(own)} | {np.mean(loss):.3f} | {100 * np.mean(accuracy):.1f} |"
            )
    return lines


def main(root: str) -> None:
    """Train what is missing, then print the table."""
    train(root)
    print(f"torch {torch.__version__}, seeds from 100 on\n")
    print("\n".join(table()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
