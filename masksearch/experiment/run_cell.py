"""One cell: find the mask, look at the ticket untrained, retrain it, look again."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.data import Data
from masksearch.experiment.cells import Cell
from masksearch.experiment.dense import DenseNetwork, track_epoch
from masksearch.experiment.find import Found, find_mask
from masksearch.experiment.folder import RunFolder
from masksearch.experiment.watcher import Watcher
from masksearch.files import read_json, save_tensors, write_json
from masksearch.history import History
from masksearch.mask import Mask
from masksearch.models import build_model
from masksearch.searchers import Searcher
from masksearch.seeds import derive
from masksearch.spaces import NetworkSpace, weight_space
from masksearch.tracking import Tracker
from masksearch.training import EpochRow, evaluate, train
from masksearch.training.record import Weights
from masksearch.trial import Trial

__all__ = ["rewound_weights", "run_cell", "space_of"]

_POINTS = 1000  # of a curve in TensorBoard, about


def run_cell(
    cell: Cell, data: Data, dense: DenseNetwork, path: Path, device: torch.device, watcher: Watcher
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
        space = space_of(cell, model)
        found = _find(cell, model, space, data, dense, device, folder, tracker, watcher)
        found.mask.save(folder / "mask.safetensors")
        folder.enter("retrain")
        metrics = _retrain(cell, model, space, data, dense, device, found, folder, tracker, watcher)
        _compare_by(tracker, cell, metrics)
    finally:
        tracker.close()
    write_json(folder / "metrics.json", metrics)
    folder.enter("done")
    watcher.cell_ends(cell, metrics)
    return metrics


def space_of(cell: Cell, model: nn.Module) -> NetworkSpace:
    """The space of the cell's masks."""
    return weight_space(model, cell.settings.scoring.layers)


def rewound_weights(cell: Cell, data: Data, dense: DenseNetwork) -> Weights:
    """The weights that retraining starts from, equal for all methods of a seed."""
    rewind_to = cell.settings.sweep.rewind_to
    if rewind_to == "random":
        return build_model(cell.settings.sweep.model, data, seed=derive(cell.seed, "fresh weights")).state_dict()
    return dense.weights["end" if rewind_to == "none" else rewind_to]


def _find(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    dense: DenseNetwork,
    device: torch.device,
    folder: RunFolder,
    tracker: Tracker,
    watcher: Watcher,
) -> Found:
    curves = _SearchCurves(tracker, max(1, cell.settings.sweep.budget // _POINTS))

    def on_trial(trial: Trial, history: History, searcher: Searcher) -> None:
        curves.add(trial)
        watcher.trial(cell, trial)

    model.load_state_dict(dense.weights[cell.find_at])
    return find_mask(cell, model, space, data, dense.weights["0"], device, folder.path, on_trial)


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


def _retrain(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    dense: DenseNetwork,
    device: torch.device,
    found: Found,
    folder: RunFolder,
    tracker: Tracker,
    watcher: Watcher,
) -> dict[str, Any]:
    space.apply(model, found.mask)
    at_found = evaluate(model, data.test, device=device)
    model.load_state_dict(rewound_weights(cell, data, dense))
    space.apply(model, found.mask)
    untrained = evaluate(model, data.test, device=device)
    watcher.retraining_begins(cell, cell.retraining.epochs)

    def on_epoch(row: EpochRow) -> None:
        track_epoch(tracker, row)
        watcher.epoch(row)

    checkpoint = folder / "retraining.safetensors"
    training = train(
        model,
        data.train,
        cell.retraining,
        val=data.val,
        masks=space.parameter_masks(found.mask),
        seed=derive(cell.seed, "retrain"),
        device=device,
        augment=data.augment,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    trained = evaluate(model, data.test, device=device)
    save_tensors(folder / "retrained.safetensors", model.state_dict())
    checkpoint.unlink(missing_ok=True)
    epochs = [asdict(row) for row in training.epochs]
    return {
        "method": cell.method,
        "sparsity": cell.sparsity,
        "find_at": cell.find_at,
        "seed": cell.seed,
        "score": found.metrics,
        "found": {"test_accuracy": at_found.accuracy, "test_loss": at_found.loss},
        "untrained": {"test_accuracy": untrained.accuracy, "test_loss": untrained.loss},
        "trained": {
            "test_accuracy": trained.accuracy,
            "test_loss": trained.loss,
            "val_accuracy": epochs[-1]["val_accuracy"] if epochs else None,
            "best_val_epoch": training.best.epoch if training.best else None,
            "diverged": training.diverged,
        },
        "dense": {name: dense.metrics[name] for name in ("test_accuracy", "test_loss")},
        "mask": _describe(found.mask),
        "epochs": epochs,
        "seconds": {"search": found.seconds, "retrain": sum(row.seconds for row in training.epochs)},
    }


def _describe(mask: Mask) -> dict[str, Any]:
    return {
        "n_units": mask.space.n_units,
        "kept": mask.n_kept,
        "density": mask.density,
        "densities": mask.densities(),
        "empty_layers": mask.empty_layers(),
    }


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
    }
    tracker.hyperparameters(settings, final)
