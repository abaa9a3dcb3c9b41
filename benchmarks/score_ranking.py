"""Which score of a mask ranks masks as fine-tuning does? Filter masks of the trained networks that a sweep has left.

    python -m benchmarks.score_ranking runs/post_training_pilot_uniform [--masks 24] [--epochs 3] [--lr 0.03]

The dense networks, data, calibration images and settings of training are those of the sweep. Masks of its first
sparsity have random widths, and four criteria choose the filters in turn. Every mask is scored on the search images by
seven objectives (``distance`` is the divergence from the dense outputs as masked), by ``distance_bn``, the same with
BatchNorm statistics computed anew, and by its parameters and its energy; higher is better. Then the smaller network is
fine-tuned twice: from weights after sequential repair, and from masked weights with BatchNorm statistics anew. The
table has Spearman's correlation of each score with both accuracies on validation images that no score has seen. Rows go
to ``results/score_ranking.csv``, one per mask; finished masks are not repeated. No test images are used.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import masksearch as ms
from benchmarks.page import HERE, write_block
from benchmarks.repair_ranking import CRITERIA, agreement, random_widths
from benchmarks.rows import Row, read_csv, write_csv
from masksearch.analysis import Estimate
from masksearch.experiment import read_sweep
from masksearch.experiment.context import CellContext
from masksearch.experiment.dense_group import data_digest, load_part, part_space
from masksearch.experiment.process_setup import prepare
from masksearch.experiment.steps.cell_scorer import cell_scorer
from masksearch.experiment.steps.criterion import cell_energy, criterion_saliency
from masksearch.experiment.steps.dense import dense_folder, dense_network
from masksearch.experiment.steps.retraining import calibration_of, training_plan
from masksearch.experiment.store.run_folder import is_done
from masksearch.experiment.sweep_grid import grid
from masksearch.pruning.gram_matrices import calibration_batches
from masksearch.pruning.reconstruction import recalibrate
from masksearch.spaces import FilterSpace
from masksearch.training import evaluate, train
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["main", "table"]

PATH = HERE / "results" / "score_ranking.csv"
OBJECTIVES = (
    "loss", "bn_recalibrated", "distance", "reconstructed", "reconstructed_sequential", "width", "training_loss",
)  # fmt: skip
SCORES = (*OBJECTIVES, "distance_bn", "parameters", "energy")
AFTER = ("repaired", "unrepaired")


class Trained:
    """A dense network of a sweep, and everything that scores masks of it or fine-tunes under them."""

    def __init__(self, context: CellContext, space: FilterSpace) -> None:
        self.context, self.space = context, space
        self.model = context.build()
        self.model.load_state_dict(context.dense.weights["end"])
        self.model.to(context.device).eval()
        self.calibration = calibration_batches(calibration_of(context), context.device)
        self.images = context.data.search.inputs.to(context.device)
        with torch.no_grad():
            self.wanted = F.log_softmax(self.model(self.images), 1)
        self.energy = cell_energy(context, self.model)
        search = context.data.search
        self.scorers = {name: cell_scorer(context, self.model, search, objective=name) for name in OBJECTIVES}

    def saliencies(self) -> dict[str, Tensor]:
        """Return the saliencies that choose the filters of masks, by criterion."""
        return {name: criterion_saliency(self.context, self.model, name) for name in CRITERIA}

    def scores(self, mask: ms.Mask) -> dict[str, float]:
        """Return the scores of a mask by name; higher is better."""
        found = {name: scorer.score([mask])[0].value for name, scorer in self.scorers.items()}
        found["distance_bn"] = agreement(self.unrepaired(mask), self.images, self.wanted)
        return found | {"parameters": self.space.share(mask, "params"), "energy": -self.energy(mask)}

    def unrepaired(self, mask: ms.Mask) -> nn.Module:
        """Return a copy of the network under a mask, with BatchNorm statistics computed anew."""
        network = copy_network(self.model)
        self.space.apply(network, mask)
        recalibrate(network, self.calibration)
        return network

    def repaired(self, mask: ms.Mask) -> nn.Module:
        """Return a copy of the network under a mask, after sequential repair."""
        return ms.reconstruct(self.model, self.space, mask, self.calibration, sequential=True)

    def fine_tuned(self, network: nn.Module, mask: ms.Mask, epochs: int) -> tuple[float, float]:
        """Return the accuracies on unseen validation images before and after the fine-tuning of a masked network."""
        context, data = self.context, self.context.data
        small = ms.prune(network, self.space, mask)
        before = evaluate(small, data.rest, device=context.device).metric
        plan = training_plan(context, "end", epochs)
        own = {"begin": plan.begin, "until": plan.until, "seed": derive(context.cell.seed, "retrain")}
        train(small, data.train, plan.settings, augment=data.augment, device=context.device, **own)
        return before, evaluate(small, data.rest, device=context.device).metric


def trained_networks(folder: Path, lr: float) -> Iterator[Trained]:
    """Yield the finished dense networks of a sweep, one per seed, with a cell that is fine-tuned at the rate ``lr``."""
    settings = read_sweep(folder).settings[0]
    settings = replace(settings, run=replace(settings.run, runs=str(folder.parent)))
    data = load_part(settings)
    space = part_space(settings, data)
    if not isinstance(space, FilterSpace):
        raise InputError(f"{folder}: masks of {settings.sweep.granularity}s; a sweep of filter masks is needed")
    digest = data_digest(settings, data)
    for seed in settings.sweep.seed_range:
        cell = next(cell for cell in grid(settings) if cell.seed == seed)
        cell = replace(cell, retrain_lr=lr, data_digest=digest)
        if not is_done(dense_folder(cell)):
            print(f"seed {seed}: no dense network in {dense_folder(cell)}", flush=True)
            continue
        device = prepare(settings.run)
        dense = dense_network([cell], data, space, {"end"}, device, lambda row: None)
        yield Trained(CellContext(cell, space, data, dense, device), space)


def collect(folder: Path, n: int, epochs: int, lr: float, path: Path) -> None:
    """Add the rows of masks that are missing."""
    rows: list[dict[str, Any]] = [*read_csv(path)]
    for trained in trained_networks(folder, lr):
        cell = trained.context.cell
        case = {"network": cell.settings.sweep.model, "dense": cell.dense_folder, "seed": str(cell.seed)}
        case |= {"share": f"{cell.density:g}", "epochs": str(epochs), "lr": f"{lr:g}"}
        done = sum(all(row[name] == value for name, value in case.items()) for row in rows)
        saliencies = trained.saliencies() if done < n else {}
        generator = torch_generator(cell.seed, "score ranking")
        for number in range(n if done < n else 0):
            criterion = CRITERIA[number % len(CRITERIA)]
            mask = random_widths(trained.space, saliencies[criterion], cell.density, generator)
            if number < done:
                continue
            row: dict[str, Any] = case | {"mask": number, "criterion": criterion}
            row |= {name: f"{value:.6g}" for name, value in trained.scores(mask).items()}
            for name, network in (("repaired", trained.repaired(mask)), ("unrepaired", trained.unrepaired(mask))):
                before, after = trained.fine_tuned(network, mask, epochs)
                row |= {f"{name}_before": f"{before:.5f}", f"{name}_after": f"{after:.5f}"}
            rows.append(row | {"kept": " ".join(map(str, mask.kept_per_layer().values()))})
            write_csv(rows, path)
            print(f"seed {cell.seed}, mask {number}: {row}", flush=True)


def table(rows: Sequence[Row]) -> list[str]:
    """Return the mean rank correlations over seeds, as lines of Markdown, one table for each case."""
    cases: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        case = tuple(row[name] for name in ("network", "share", "epochs", "lr"))
        cases.setdefault(case, {}).setdefault(row["dense"], []).append(row)
    lines = []
    for (network, share, epochs, lr), by_seed in cases.items():
        masks = min(map(len, by_seed.values()))
        lines += [
            f"| {network}, {100 * float(share):g} % of the MACs, {epochs} epochs at {lr} | seeds | masks | "
            + " | ".join(f"after, {name}" for name in AFTER)
            + " |",
            "|---|---:|---:|---:|---:|",
        ]
        for score in SCORES:
            texts = []
            for name in AFTER:
                pairs = [
                    ([float(row[score]) for row in own], [float(row[f"{name}_after"]) for row in own])
                    for own in by_seed.values()
                ]
                texts.append(Estimate.of(float(spearmanr(*pair).statistic) for pair in pairs).text())
            lines.append(f"| {score} | {len(by_seed)} | {masks} | {' | '.join(texts)} |")
        lines.append("")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect missing rows, then print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a sweep of filter masks whose dense networks are finished")
    parser.add_argument("--masks", type=int, default=24, help="masks of every dense network")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of fine-tuning")
    parser.add_argument("--lr", type=float, default=0.03, help="peak rate of fine-tuning")
    parser.add_argument("--rows", type=Path, default=PATH, help="file of the rows")
    parser.add_argument("--write", choices=["score_ranking"], help="also write the table to its place on the page")
    given = parser.parse_args(arguments)
    try:
        collect(given.folder, given.masks, given.epochs, given.lr, given.rows)
    except InputError as error:
        print(f"score_ranking: {error}", file=sys.stderr)
        return 2
    text = "\n".join(table(read_csv(given.rows)))
    print(text)
    if given.write:
        write_block(given.write, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
