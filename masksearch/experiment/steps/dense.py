"""The dense network of a seed: trained once, shared by all cells and sweeps that need just this one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.data import Data
from masksearch.experiment.cell import Cell, dense_identity, dense_training, short_hash
from masksearch.experiment.steps.early_bird_detector import Watch
from masksearch.experiment.steps.network_costs import costs
from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.experiment.store.weights_file import read_weights_file
from masksearch.experiment.tensorboard import Tracker
from masksearch.models import build_model
from masksearch.spaces import NetworkSpace
from masksearch.training import EpochRow, evaluate, train
from masksearch.training.duration import Duration
from masksearch.training.record import Weights, copy_weights
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json, save_tensors, write_json
from masksearch.utils.seeds import derive

__all__ = ["DenseNetwork", "dense_folder", "dense_network", "track_epoch"]


@dataclass(frozen=True)
class DenseNetwork:
    """The weights of one dense training at some moments, and how it went."""

    weights: dict[str, Weights]  # by moment: "0", "3ep", ..., "end", "best"
    metrics: dict[str, Any]
    watches: dict[str, Watch]  # of cells whose schedule watches the training, by what they watch


def dense_folder(cell: Cell) -> Path:
    """Where the dense network of a cell lies: under ``runs/dense``, named by the hash of what decides it."""
    sweep = cell.settings.sweep
    name = f"{sweep.dataset}_{sweep.model}_seed{cell.seed}".replace("/", "-").replace(":", "-")
    identity = dense_identity(cell.settings, cell.schedule, cell.seed)
    return Path(cell.settings.run.runs) / "dense" / f"{name}_{short_hash(identity)}"


def dense_network(
    cells: Sequence[Cell],
    data: Data,
    space: NetworkSpace,
    moments: Iterable[str],
    device: torch.device,
    on_epoch: Callable[[EpochRow], None],
) -> DenseNetwork:
    """Train the dense network that some cells share, or read it where that was done before.

    Every sweep finds it by the hash of what decides it. If a sweep asks for a moment that was not kept, or watches the
    training for something new, the same training runs again, to the same weights.

    Parameters
    ----------
    cells : sequence of Cell
        At least one; all of one dense network.
    moments : iterable of str
        Moments of the training at which weights are wanted, besides its beginning, its end and its best state.
    on_epoch : callable
        Gets every epoch's row.
    """
    first = cells[0]
    identity = dense_identity(first.settings, first.schedule, first.seed)
    path = dense_folder(first)
    with locked(path, wait=True):  # another sweep may be training just this network
        folder = RunFolder(path, identity)
        watching = [Watch(cell, data, space, path) for cell in cells if cell.row.detects]
        watches = {watch.name: watch for watch in watching}
        wanted = {"0", *moments, "end", "best"}
        # A watch keeps the weights of its own moment; those of one that is interrupted are no new wish.
        wanted |= {watch.moment for watch in watches.values() if not (folder / _file(watch.moment)).exists()}
        kept = all((folder / _file(moment)).exists() for moment in wanted)
        if not (folder.is_done and kept and all(watch.is_done for watch in watches.values())):
            if first.settings.sweep.dense == "auto":
                _train(first, data, wanted, watches.values(), device, folder, on_epoch)
            else:
                _take(first, data, device, folder)
        metrics = read_json(folder / "metrics.json")
        if metrics["diverged"]:
            raise InputError(
                f"dense network of seed {first.seed}: its loss was no number after epoch {len(metrics['epochs'])}; "
                f"--lr {first.settings.train.lr:g} may be too high"
            )
        wanted |= {watch.moment for watch in watches.values()}
        weights = {moment: load_tensors(folder / _file(moment))[0] for moment in wanted}
        return DenseNetwork(weights, metrics, watches)


def _train(
    cell: Cell,
    data: Data,
    moments: set[str],
    watches: Iterable[Watch],
    device: torch.device,
    folder: RunFolder,
    on_epoch: Callable[[EpochRow], None],
) -> None:
    folder.enter("training")
    model: nn.Module = build_model(cell.settings.sweep.model, data, seed=cell.seed)
    initial = copy_weights(model)
    tracker = Tracker(folder.path)

    def report(row: EpochRow) -> None:
        for watch in watches if row.finite else ():  # what has diverged can't be ranked
            if watch.see(row.epoch, model, initial, device):
                save_tensors(folder / _file(f"{row.epoch}ep"), copy_weights(model))
            watch.keep()
        track_epoch(tracker, row)
        on_epoch(row)

    # Which moments are kept doesn't change the training, but a checkpoint is only good for those it has kept so far.
    kept = {"moments": sorted(moments), "watches": sorted(watch.name for watch in watches)}
    checkpoint = folder / f"checkpoint_{short_hash(kept)}.safetensors"
    training = train(
        model,
        data.train,
        dense_training(cell.settings, cell.schedule),
        val=data.val,
        seed=derive(cell.seed, "dense"),
        device=device,
        augment=data.augment,
        snapshots=[Duration.parse(moment) for moment in moments],
        checkpoint=checkpoint,
        on_epoch=report,
    )
    tracker.close()
    for moment, weights in training.snapshots.items():
        save_tensors(folder / _file(str(moment)), weights)
    _describe(
        model,
        training.snapshots[Duration.parse("best")],
        data,
        device,
        folder,
        {
            "best_val_epoch": training.best.epoch if training.best else None,
            "diverged": training.diverged,
            "epochs": [asdict(row) for row in training.epochs],
        },
    )
    checkpoint.unlink(missing_ok=True)


def _take(cell: Cell, data: Data, device: torch.device, folder: RunFolder) -> None:
    """Take the weights of a file for those of the end of the training."""
    model = build_model(cell.settings.sweep.model, data, seed=cell.seed)
    save_tensors(folder / _file("0"), copy_weights(model))
    model.load_state_dict(read_weights_file(cell.settings.sweep.dense_file(cell.seed), model))
    for moment in ("end", "best"):
        save_tensors(folder / _file(moment), copy_weights(model))
    nothing: dict[str, Any] = {"best_val_epoch": None, "diverged": False, "epochs": []}
    _describe(model.to(device), copy_weights(model), data, device, folder, nothing)


def _describe(
    model: nn.Module, best: Weights, data: Data, device: torch.device, folder: RunFolder, course: dict[str, Any]
) -> None:
    """Write ``metrics.json``: the last and the best state on the test set, costs, and the training's course."""
    last = evaluate(model, data.test, device=device)
    cost = costs(model, {}, data.test.images[:1].to(device))
    model.load_state_dict(best)
    state = evaluate(model, data.test, device=device)
    metrics = {
        "test_accuracy": last.accuracy,
        "test_loss": last.loss,
        "best_test_accuracy": state.accuracy,  # of the best state by validation, not by test
        "best_test_loss": state.loss,
        "cost": cost,
        **course,
    }
    write_json(folder / "metrics.json", metrics)
    folder.enter("done")


def track_epoch(tracker: Tracker, row: EpochRow, prefix: str = "") -> None:
    """The curves of a training: ``train/...``, ``val/...``, ``lr``, over epochs."""
    nan = float("nan")
    tracker.scalars(
        {
            f"{prefix}train/loss": row.train_loss,
            f"{prefix}train/accuracy": nan if row.train_accuracy is None else row.train_accuracy,
            f"{prefix}val/loss": nan if row.val_loss is None else row.val_loss,
            f"{prefix}val/accuracy": nan if row.val_accuracy is None else row.val_accuracy,
            f"{prefix}train/lr": row.lr,
        },
        row.epoch,
    )


def _file(moment: str) -> str:
    named = {"0": "init.safetensors", "end": "dense.safetensors", "best": "best.safetensors"}
    return named.get(moment, f"weights_{moment.replace(':', '_')}.safetensors")
