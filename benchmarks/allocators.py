"""How many filters of each layer? Allocators on one small trained network, with two rankings of filters.

    python -m benchmarks.allocators [--budget 60] [--seeds 0 1 2]

A ResNet-20 is trained on the digits of scikit-learn for 12 epochs. Every allocator keeps at most 30 % of its MACs, with
filters of a layer ranked by L1 norms and by FPGM. Searches score masks by ``bn_recalibrated`` on the search images.
Then BatchNorm statistics are computed anew on training images, and the smaller network is fine-tuned for 3 epochs.
Written down are the score, the accuracies before and after fine-tuning on validation images that no search has seen,
the share of the MACs and the seconds of the search; no test images. ``results/allocators.csv`` gets the rows; rows that
are there are not repeated.
"""

import argparse
import copy
import time
from typing import Any

import numpy as np
import torch
from torch import nn

import masksearch as ms
from benchmarks.page import HERE, write_block
from benchmarks.problems import searcher_of
from benchmarks.rows import read_csv, write_csv
from masksearch.analysis import Estimate

PATH = HERE / "results" / "allocators.csv"
MACS = 0.3
RANKINGS = ("filter_l1", "fpgm")
SCOPES = ("layerwise", "global", "knapsack")
SEARCHES = {
    "dynamic programme, prior (SPDY without search)": ("spdy", 1),
    "dynamic programme, lost saliency (ZipLM without search)": ("ziplm", 1),
    "spdy": ("spdy", None),
    "ziplm": ("ziplm", None),
    "legr": ("legr", None),
    "evopress": ("evopress:levels=20", None),
    "fastnas": ("fastnas", None),
    "random densities (EagleEye)": ("optuna_random", None),
    "annealing over densities": ("annealing:densities=True", None),
    "optuna_cmaes": ("optuna_cmaes", None),
}
"""Name in the table -> searcher with settings, and its scorings; None: the budget."""
TRAINED = ms.TrainSettings(epochs=12, lr=0.05, lr_schedule="cosine", batch_size=64)
FINE_TUNED = ms.TrainSettings(epochs=3, lr=0.02, lr_schedule="cosine", batch_size=64)


def accuracy(network: nn.Module, split: Any) -> float:
    """Share of a split's images that a network classifies correctly."""
    network.eval()
    with torch.no_grad():
        return float((network(split.images).argmax(1) == split.labels).double().mean())


def norms_anew(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """A copy with BatchNorm statistics of these images."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network(images)
    return network.eval()


def collect(seeds: list[int], budget: int) -> None:
    """Add the rows that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)]
    had = {(row["allocator"], row["ranking"], int(row["seed"]), int(row["budget"])) for row in rows}
    for seed in seeds:
        names = [(name, ranking) for name in (*SCOPES, *SEARCHES) for ranking in RANKINGS]
        missing = [case for case in names if (*case, seed, budget) not in had]
        if not missing:
            continue
        data = ms.load_data("digits", search_examples=150)
        dense = ms.build_model("resnet20", data, seed=seed)
        ms.train(dense, data.train, TRAINED, seed=seed)
        space = ms.filter_space(dense, data.search.images[:1])
        scorer = ms.Scorer(dense, space, data.search, "bn_recalibrated")
        whole = accuracy(dense, data.rest)
        print(f"seed {seed}: dense {100 * whole:.2f} %, {space.n_units} filters", flush=True)
        for name, ranking in missing:
            saliency = getattr(ms.criteria, ranking)(dense, space)
            amount = ms.Amount(MACS, hold="macs", on_empty="keep_one")
            began, scorings = time.perf_counter(), 0
            if name in SCOPES:
                mask = space.top_k(saliency, amount.across(name))
            else:
                text, own = SEARCHES[name]
                found = ms.search(
                    space, searcher_of(text), scorer, amount, own or budget, seed, saliencies={ranking: saliency}
                )
                mask, scorings = found.best_mask, len(found)
            seconds = time.perf_counter() - began
            network = norms_anew(ms.prune(dense, space, mask), data.train.images)
            row: dict[str, Any] = {"allocator": name, "ranking": ranking, "seed": seed, "budget": budget}
            row |= {"scorings": scorings, "seconds": f"{seconds:.2f}", "macs": f"{space.share(mask, 'macs'):.4f}"}
            row |= {"params": f"{space.share(mask, 'params'):.4f}", "score": f"{scorer(mask).value:.4f}"}
            row |= {"dense": f"{whole:.4f}", "before": f"{accuracy(network, data.rest):.4f}"}
            ms.train(network, data.train, FINE_TUNED, seed=seed)
            row["after"] = f"{accuracy(network, data.rest):.4f}"
            row["kept"] = " ".join(map(str, mask.kept_per_layer().values()))
            rows.append(row)
            write_csv(rows, PATH)
            print(row, flush=True)


def table() -> list[str]:
    """Means over the seeds with 95 % intervals, as lines of Markdown."""
    lines = [
        "| allocator | ranking | seeds | score | before % | after % | MACs % | parameters % | scorings | seconds |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read_csv(PATH):
        groups.setdefault((row["allocator"], row["ranking"]), []).append(row)
    for (name, ranking), own in groups.items():
        values = {column: [float(row[column]) for row in own] for column in own[0] if column not in _TEXTS}
        cells = [Estimate.of(values["score"]).text(digits=3)]
        cells += [Estimate.of(values[column]).text(100.0, 1) for column in ("before", "after")]
        cells += [f"{100 * np.mean(values[column]):.1f}" for column in ("macs", "params")]
        cells += [f"{np.mean(values['scorings']):.0f}", f"{np.mean(values['seconds']):.1f}"]
        lines.append(f"| {name} | {ranking} | {len(own)} | {' | '.join(cells)} |")
    return lines


_TEXTS = ("allocator", "ranking", "kept")


def main() -> None:
    """Collect missing rows, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=60, help="scorings of a search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", choices=["allocators"], help="also write the table to its place on the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    collect(given.seeds, given.budget)
    print("\n".join(table()))
    if given.write:
        write_block(given.write, "\n".join(table()) + "\n")


if __name__ == "__main__":
    main()
