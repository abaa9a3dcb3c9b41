"""The dense network of a seed: trained once, shared by all cells and sweeps that need just this one."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.data import Data
from masksearch.duration import Duration
from masksearch.errors import InputError
from masksearch.experiment.cells import dense_identity, short_hash
from masksearch.experiment.costs import costs
from masksearch.experiment.folder import RunFolder, locked
from masksearch.experiment.settings import Settings
from masksearch.files import load_tensors, read_json, save_tensors, write_json
from masksearch.models import build_model
from masksearch.seeds import derive
from masksearch.tracking import Tracker
from masksearch.training import EpochRow, evaluate, train
from masksearch.training.record import Weights

__all__ = ["DenseNetwork", "dense_network"]


@dataclass(frozen=True)
class DenseNetwork:
    """The weights of one dense training at some moments, and how it went."""

    weights: dict[str, Weights]  # by moment: "0", "3ep", ..., "end"
    metrics: dict[str, Any]


def dense_network(
    settings: Settings,
    data: Data,
    seed: int,
    moments: Iterable[str],
    device: torch.device,
    on_epoch: Callable[[EpochRow], None],
) -> DenseNetwork:
    """Train the dense network of a seed, or read it where that was done before.

    It lies under ``runs/dense``, where every sweep finds it by the hash of what decides it. If a sweep asks for a
    moment that was not kept, the same training runs again, to the same weights.

    Parameters
    ----------
    moments : iterable of str
        Moments of the training at which weights are wanted, besides its beginning and its end.
    on_epoch : callable
        Gets every epoch's row.
    """
    wanted = {"0", *moments, "end"}
    identity = dense_identity(settings, seed)
    name = f"{settings.sweep.dataset}_{settings.sweep.model}_seed{seed}".replace("/", "-").replace(":", "-")
    path = Path(settings.run.runs) / "dense" / f"{name}_{short_hash(identity)}"
    with locked(path, wait=True):  # another sweep may be training just this network
        folder = RunFolder(path, identity)
        if not (folder.is_done and all((folder / _file(moment)).exists() for moment in wanted)):
            _train(settings, data, seed, wanted, device, folder, on_epoch)
        metrics = read_json(folder / "metrics.json")
        if metrics["diverged"]:
            raise InputError(
                f"dense network of seed {seed}: its loss was no number after epoch {len(metrics['epochs'])}; "
                f"--lr {settings.train.lr:g} may be too high"
            )
        weights = {moment: load_tensors(folder / _file(moment))[0] for moment in wanted}
        return DenseNetwork(weights, metrics)


def _train(
    settings: Settings,
    data: Data,
    seed: int,
    moments: set[str],
    device: torch.device,
    folder: RunFolder,
    on_epoch: Callable[[EpochRow], None],
) -> None:
    folder.enter("training")
    model: nn.Module = build_model(settings.sweep.model, data, seed=seed)
    tracker = Tracker(folder.path)

    def report(row: EpochRow) -> None:
        track_epoch(tracker, row)
        on_epoch(row)

    # Which moments are kept doesn't change the training, but a checkpoint is only good for those it has kept so far.
    checkpoint = folder / f"checkpoint_{short_hash({'moments': sorted(moments)})}.safetensors"
    training = train(
        model,
        data.train,
        settings.train,
        val=data.val,
        seed=derive(seed, "dense"),
        device=device,
        augment=data.augment,
        snapshots=[Duration.parse(moment) for moment in moments],
        checkpoint=checkpoint,
        on_epoch=report,
    )
    tracker.close()
    for moment, weights in training.snapshots.items():
        save_tensors(folder / _file(str(moment)), weights)
    test = evaluate(model, data.test, device=device)
    metrics = {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "best_val_epoch": training.best.epoch if training.best else None,
        "diverged": training.diverged,
        "cost": costs(model, {}, data.test.images[:1].to(device)),
        "epochs": [asdict(row) for row in training.epochs],
    }
    write_json(folder / "metrics.json", metrics)
    folder.enter("done")
    checkpoint.unlink(missing_ok=True)


def track_epoch(tracker: Tracker, row: EpochRow) -> None:
    """The curves of a training: ``train/...``, ``val/...``, ``lr``, over epochs."""
    nan = float("nan")
    tracker.scalars(
        {
            "train/loss": row.train_loss,
            "train/accuracy": nan if row.train_accuracy is None else row.train_accuracy,
            "val/loss": nan if row.val_loss is None else row.val_loss,
            "val/accuracy": nan if row.val_accuracy is None else row.val_accuracy,
            "train/lr": row.lr,
        },
        row.epoch,
    )


def _file(moment: str) -> str:
    return {"0": "init.safetensors", "end": "dense.safetensors"}.get(moment, f"weights_{moment}.safetensors")
