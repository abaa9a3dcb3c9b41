"""The dense (unpruned) network of a seed: trained once, shared by all cells and sweeps that need it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from masksearch.data import Data
from masksearch.experiment.cell import Cell, dense_training
from masksearch.experiment.cell_results import DenseResult
from masksearch.experiment.context import CellContext, DenseNetwork
from masksearch.experiment.identity import short_hash
from masksearch.experiment.steps.early_bird_masks import EarlyBirdDetector
from masksearch.experiment.steps.network_costs import network_cost
from masksearch.experiment.store.run_folder import RunFolder, locked, remove_checkpoints
from masksearch.experiment.store.state_dict_file import read_weights_file
from masksearch.experiment.tensorboard import Tracker
from masksearch.models import build_model
from masksearch.spaces import NetworkSpace
from masksearch.training import EpochRow, Training, evaluate, train
from masksearch.training.checkpoint import completed_epochs, remove_checkpoint
from masksearch.training.own_loop import train_by_function
from masksearch.training.record import Weights, copy_weights
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.integrity import check_object, check_tensors, folder_remedy
from masksearch.utils.nested import to_device
from masksearch.utils.ranks import ranks
from masksearch.utils.seeds import derive
from masksearch.utils.user_functions import import_function

__all__ = ["dense_folder", "dense_network"]


def dense_folder(cell: Cell) -> Path:
    """Return the folder of a run's dense network: in ``runs/dense``, with a hash of what decides its weights."""
    return cell.settings.run.folder / "dense" / cell.dense_folder


def dense_network(
    cells: Sequence[Cell],
    data: Data,
    space: NetworkSpace,
    moments: Iterable[str],
    device: torch.device,
    on_epoch: Callable[[EpochRow], None],
) -> DenseNetwork:
    """Return the dense (unpruned) network that several runs of a sweep prune: trained now, or read from disk.

    If a cell needs a moment that was not kept, or has a new early-bird detector, the same training runs again, to the
    same weights.

    Parameters
    ----------
    cells : sequence of Cell
        At least one; all of one dense network.
    moments : iterable of str
        Moments of the training whose weights are needed, besides its beginning, its end and its best state.

    Raises
    ------
    InputError
        If the training diverged.
    """
    first, path = cells[0], dense_folder(cells[0])
    with locked(path, wait=True):  # another sweep may be training this network
        folder = RunFolder(path, first.dense_identity)
        found = (EarlyBirdDetector(cell, space, path) for cell in cells if cell.row.detects)
        detectors = {detector.name: detector for detector in found}
        needed = {"0", *moments, "end", "best"}
        # The detector saves the weights at its own moment; after an interruption they must not be requested again.
        needed |= {one.moment for one in detectors.values() if not (folder / _file(one.moment)).exists()}
        kept = all((folder / _file(moment)).exists() for moment in needed)
        finished = folder.is_done and kept and all(detector.is_done for detector in detectors.values())
        ranks().agree(f"dense network {path.name}: {'read from disk' if finished else 'to be trained'}")
        if not finished:
            task = _DenseTask(first, data, space, device, folder)
            if first.settings.sweep.dense != "auto":
                task.take_from_file()
            elif first.settings.sweep.train_fn is not None:
                task.train_by_function(first.settings.sweep.train_fn, on_epoch)
            else:
                task.train(needed, list(detectors.values()), on_epoch)
        else:  # an interruption may have left a checkpoint of the finished training
            remove_checkpoints(path, "checkpoint_*.safetensors")
        result = DenseResult.load(folder.path)
        needed |= {detector.moment for detector in detectors.values()}
        _check_result(result, first, folder, needed)
        model = build_model(first.settings.sweep.model, data, seed=first.seed)
        weights = {moment: _load(folder, moment, model) for moment in needed}
        return DenseNetwork(weights, result, {name: detector.masks for name, detector in detectors.items()})


def _check_result(result: DenseResult, cell: Cell, folder: RunFolder, moments: set[str]) -> None:
    """Raise an InputError for a result of another seed, a loss that is not finite, and moments without weights."""
    if result.seed != cell.seed:
        raise InputError(
            f"{folder / 'metrics.json'} belongs to seed {result.seed}, not {cell.seed}; {folder_remedy(folder.path)}"
        )
    if result.diverged:
        settings = cell.settings.train
        cause = f"--lr {settings.lr:g} or --weight-decay {settings.weight_decay:g}"
        if cell.settings.sweep.train_fn is not None:
            cause = "its learning rate"
        raise InputError(
            f"dense network of seed {cell.seed}: its loss was not finite after epoch {result.epochs[-1].epoch}; "
            f"{cause} may be too high"
        )
    for moment in sorted(moments):
        if not (folder / _file(moment)).exists():
            raise InputError(
                f"find_at, rewind_to or save_at: {moment}; early stopping ended the dense training of seed "
                f"{cell.seed} after {len(result.epochs)} epochs; give an earlier moment or a larger stop_after"
            )


def _save(folder: RunFolder, moment: str, weights: Weights) -> None:
    """Write the weights of a moment, with the hash of the network's identity, so that they belong to their folder."""
    about = {"moment": moment, "network": short_hash(folder.identity)}
    save_tensors(folder / _file(moment), weights, about)


def _load(folder: RunFolder, moment: str, model: nn.Module) -> Weights:
    path, remedy = folder / _file(moment), folder_remedy(folder.path)
    tensors, about = load_tensors(path, remedy)
    if about is not None:  # files of version 1.0 and before have none
        check_object(about, path, {"moment": str, "network": str}, remedy)
        if (about["moment"], about["network"]) != (moment, short_hash(folder.identity)):
            raise InputError(f"{path} has the weights of another network or another moment; {remedy}")
    return check_tensors(tensors, model.state_dict(), path, remedy)


class _DenseTask:
    """Makes the files of one dense network."""

    def __init__(self, cell: Cell, data: Data, space: NetworkSpace, device: torch.device, folder: RunFolder) -> None:
        self.cell, self.data, self.space, self.device, self.folder = cell, data, space, device, folder

    def train(
        self, moments: set[str], detectors: Sequence[EarlyBirdDetector], on_epoch: Callable[[EpochRow], None]
    ) -> None:
        """Train the dense network; if a training was interrupted, continue it from its checkpoint."""
        cell, data, folder = self.cell, self.data, self.folder
        folder.set_status("training")
        model: nn.Module = build_model(cell.settings.sweep.model, data, seed=cell.seed)
        initial = DenseNetwork({"0": copy_weights(model)})
        tracker = Tracker(folder.path, data.task.metric_name)

        def report(row: EpochRow) -> None:
            for detector in detectors if row.finite else ():  # weights that diverged can't be ranked
                context = CellContext(detector.cell, self.space, data, initial, self.device)
                if detector.add(row.epoch, model, context):
                    _save(folder, f"{row.epoch}ep", copy_weights(model))
                detector.save()
            tracker.epoch(row)
            on_epoch(row)

        # The kept moments do not change the training, but a checkpoint holds only those that were asked for.
        kept = {"moments": sorted(moments), "watches": sorted(detector.name for detector in detectors)}
        checkpoint = folder / f"checkpoint_{short_hash(kept)}.safetensors"
        # After an interruption, the last epoch's mask may be missing. Earlier ones need the weights of their epochs.
        if detectors and any(len(one.masks) < completed_epochs(checkpoint) - 1 for one in detectors):
            remove_checkpoint(checkpoint)
        training = train(
            model,
            data.train,
            dense_training(cell.settings, cell.schedule),
            val=data.val,
            seed=derive(cell.seed, "dense"),
            device=self.device,
            augment=data.augment,
            snapshots=[TrainingMoment.parse(moment) for moment in moments],
            checkpoint=checkpoint,
            on_epoch=report,
        )
        tracker.close()
        for moment, weights in training.snapshots.items():
            _save(folder, str(moment), weights)
        self._finish(model, training.snapshots[TrainingMoment.parse("best")], training)
        remove_checkpoint(checkpoint)

    def take_from_file(self) -> None:
        """Read the dense network's weights from a file of the user, and store them as the weights after training."""
        model = self._initial_network()
        model.load_state_dict(read_weights_file(self.cell.settings.sweep.dense_file(self.cell.seed), model))
        self._finish_at_end(model, None)

    def train_by_function(self, function: str, on_epoch: Callable[[EpochRow], None]) -> None:
        """Train the dense network by the user's loop ``function``; after an interruption, train from the beginning."""
        model = self._initial_network()
        training = train_by_function(
            import_function(function, "train_fn"),
            model,
            self.data,
            masks={},
            epochs=self.cell.settings.train.epochs,
            seed=derive(self.cell.seed, "dense"),
            device=self.device,
        )
        for row in training.epochs:
            on_epoch(row)
        self._finish_at_end(model, training)

    def _initial_network(self) -> nn.Module:
        """Return the network before its training, and save its weights."""
        model: nn.Module = build_model(self.cell.settings.sweep.model, self.data, seed=self.cell.seed)
        _save(self.folder, "0", copy_weights(model))
        return model

    def _finish_at_end(self, model: nn.Module, training: Training | None) -> None:
        """Save the weights of a training without moments: its end is also its best state."""
        for moment in ("end", "best"):
            _save(self.folder, moment, copy_weights(model))
        self._finish(model.to(self.device), copy_weights(model), training)

    def _finish(self, model: nn.Module, best: Weights, training: Training | None) -> None:
        """Write ``metrics.json``: the last and the best state on the test set, costs, and the training's epochs."""
        last = evaluate(model, self.data.test, device=self.device)
        cost = network_cost(model, {}, to_device(self.data.example(1), self.device))
        model.load_state_dict(best)
        state = evaluate(model, self.data.test, device=self.device)
        DenseResult(
            test_accuracy=last.metric,
            test_loss=last.loss,
            best_test_accuracy=state.metric,
            best_test_loss=state.loss,
            cost=cost,
            best_val_epoch=training.best.epoch if training and training.best else None,
            diverged=bool(training and training.diverged),
            epochs=list(training.epochs) if training else [],
            seed=self.cell.seed,
            metric_name=self.data.task.metric_name,
            higher_is_better=self.data.task.higher_is_better,
        ).save(self.folder.path)
        self.folder.set_status("done")


def _file(moment: str) -> str:
    named = {"0": "init.safetensors", "end": "dense.safetensors", "best": "best.safetensors"}
    return named.get(moment, f"weights_{moment.replace(':', '_')}.safetensors")
