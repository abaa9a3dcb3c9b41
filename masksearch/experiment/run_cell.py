"""One cell: find the mask, look at the ticket untrained, retrain it, look again."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from masksearch.data import Data
from masksearch.experiment.cells import Cell
from masksearch.experiment.costs import costs, latencies
from masksearch.experiment.dense import DenseNetwork, track_epoch
from masksearch.experiment.find import Found, find_mask
from masksearch.experiment.folder import RunFolder
from masksearch.experiment.ticket import Ticket, draw_ticket, rewound_weights
from masksearch.experiment.watcher import Watcher
from masksearch.files import read_json, save_tensors, write_json
from masksearch.history import History
from masksearch.mask import Mask
from masksearch.models import build_model
from masksearch.pruning import save_pruned
from masksearch.searchers import Searcher
from masksearch.seeds import derive
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.tracking import Tracker
from masksearch.training import EpochRow, Evaluation, Training, evaluate, train
from masksearch.trial import Trial

__all__ = ["run_cell"]

_POINTS = 1000  # of a curve in TensorBoard, about


def run_cell(
    cell: Cell,
    data: Data,
    space: NetworkSpace,
    dense: DenseNetwork,
    path: Path,
    device: torch.device,
    watcher: Watcher,
) -> dict[str, Any]:
    """Run a cell, or what is left of it, in its folder under ``path``; return its metrics.

    Every stage begins from what the one before left on disk, so that a cell that was killed ends with the same files.
    """
    folder = RunFolder(path / cell.folder, cell.identity)
    if folder.is_done:
        return read_json(folder / "metrics.json")
    watcher.cell_begins(cell)
    tracker = Tracker(folder.path)
    try:
        folder.enter("search")
        model = build_model(cell.settings.sweep.model, data, seed=cell.seed)
        model.load_state_dict(dense.weights[cell.find_at])
        on_trial = _trial_watcher(cell, tracker, watcher)
        found = find_mask(cell, model, space, data, dense.weights["0"], device, folder.path, on_trial)
        found.mask.save(folder / "mask.safetensors")
        at_found = evaluate(
            draw_ticket(model, space, found.mask, dense.weights[cell.find_at]).network, data.test, device=device
        )

        folder.enter("retrain")
        ticket = draw_ticket(model, space, found.mask, rewound_weights(cell, data, dense))
        untrained = evaluate(ticket.network, data.test, device=device)
        watcher.retraining_begins(cell, cell.retraining.epochs)
        training = _retrain(cell, ticket, data, device, folder, tracker, watcher)
        trained = evaluate(ticket.network, data.test, device=device)
        save_tensors(folder / "retrained.safetensors", ticket.network.state_dict())
        if ticket.pruned and isinstance(space, FilterSpace):
            save_pruned(folder / "pruned", ticket.network, space, found.mask)

        metrics = {
            "method": cell.method,
            "sparsity": cell.sparsity,
            "find_at": cell.find_at,
            "seed": cell.seed,
            "score": found.metrics,
            "found": _accuracy(at_found),
            "untrained": _accuracy(untrained),
            "trained": _accuracy(trained) | _course(training),
            "dense": {name: dense.metrics[name] for name in ("test_accuracy", "test_loss", "cost")},
            "cost": costs(ticket.network, ticket.masks, data.test.images[:1].to(device)),
            "mask": _describe(found.mask),
            "epochs": [asdict(row) for row in training.epochs],
            "seconds": _seconds(cell, found, training, ticket, data, device),
        }
        _compare_by(tracker, cell, metrics)
    finally:
        tracker.close()
    write_json(folder / "metrics.json", metrics)
    folder.enter("done")
    (folder / "retraining.safetensors").unlink(missing_ok=True)
    watcher.cell_ends(cell, metrics)
    return metrics


def _retrain(
    cell: Cell,
    ticket: Ticket,
    data: Data,
    device: torch.device,
    folder: RunFolder,
    tracker: Tracker,
    watcher: Watcher,
) -> Training:
    def on_epoch(row: EpochRow) -> None:
        track_epoch(tracker, row)
        watcher.epoch(row)

    return train(
        ticket.network,
        data.train,
        cell.retraining,
        val=data.val,
        masks=ticket.masks,
        seed=derive(cell.seed, "retrain"),  # the same for every method: same batches, in the same order
        device=device,
        augment=data.augment,
        checkpoint=folder / "retraining.safetensors",
        on_epoch=on_epoch,
    )


def _accuracy(evaluation: Evaluation) -> dict[str, Any]:
    return {"test_accuracy": evaluation.accuracy, "test_loss": evaluation.loss}


def _course(training: Training) -> dict[str, Any]:
    return {
        "val_accuracy": training.epochs[-1].val_accuracy if training.epochs else None,
        "best_val_epoch": training.best.epoch if training.best else None,
        "diverged": training.diverged,
    }


def _describe(mask: Mask) -> dict[str, Any]:
    return {
        "granularity": mask.space.granularity,
        "n_units": mask.space.n_units,
        "kept": mask.n_kept,
        "density": mask.density,
        "densities": mask.densities(),
        "empty_layers": mask.empty_layers(),
    }


def _seconds(
    cell: Cell, found: Found, training: Training, ticket: Ticket, data: Data, device: torch.device
) -> dict[str, float]:
    """Everything that depends on the machine's mood: how long stages took, and latencies."""
    full = build_model(cell.settings.sweep.model, data, seed=cell.seed).to(device)
    example = data.test.images[:1].to(device)
    return {
        "search": found.seconds,
        "retrain": sum(row.seconds for row in training.epochs),
        **latencies(copy.deepcopy(ticket.network), full, example),
    }


def _trial_watcher(cell: Cell, tracker: Tracker, watcher: Watcher) -> Callable[[Trial, History, Searcher], None]:
    curves = _SearchCurves(tracker, max(1, cell.settings.sweep.budget // _POINTS))

    def on_trial(trial: Trial, history: History, searcher: Searcher) -> None:
        curves.add(trial)
        watcher.trial(cell, trial)

    return on_trial


class _SearchCurves:
    """The curves of a search over its trials: one in ``stride``, and those at which the loop took a closer look."""

    def __init__(self, tracker: Tracker, stride: int) -> None:
        self._tracker, self._stride = tracker, stride
        self._best, self._seconds = math.nan, 0.0

    def add(self, trial: Trial) -> None:
        if trial.is_best:
            self._best = trial.score.value
        self._seconds += trial.score.seconds
        if trial.number % self._stride and "hamming_best" not in trial.metrics:
            return
        curves = {name if "/" in name else f"search/{name}": value for name, value in trial.metrics.items()}
        curves |= {"search/score": trial.score.value, "search/best": self._best}
        if self._seconds:
            curves["search/scorings_per_second"] = (trial.number + 1) / self._seconds
        self._tracker.scalars(curves, trial.number)


def _compare_by(tracker: Tracker, cell: Cell, metrics: dict[str, Any]) -> None:
    """The cell's row in the hparams tab."""
    settings: dict[str, bool | str | float | int] = {
        "method": cell.method,
        "sparsity": cell.sparsity,
        "find_at": cell.find_at,
        "seed": cell.seed,
    }
    final = {
        "final/untrained_test_accuracy": metrics["untrained"]["test_accuracy"],
        "final/trained_test_accuracy": metrics["trained"]["test_accuracy"],
        "final/search_score": metrics["score"]["search_score"],
        "final/optimism_gap": metrics["score"]["accuracy_gap"],
        "final/effective_macs": metrics["cost"]["effective_macs"],
    }
    tracker.hyperparameters(settings, final)
