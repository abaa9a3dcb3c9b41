"""Trainer of dense, masked and pruned networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from masksearch.training.batches import Examples, Feed, steps_per_epoch
from masksearch.training.checkpoint import digest, load_checkpoint, locks_checkpoint, save_checkpoint
from masksearch.training.duration import Duration
from masksearch.training.epoch import EpochPass
from masksearch.training.evaluation import evaluate_feed
from masksearch.training.input_check import Loss, check_inputs, cross_entropy, mode_kept
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.optimisation import build_optimizer, learning_rate
from masksearch.training.record import Best, EpochRow, Training, copy_weights
from masksearch.training.slimming import Slimming
from masksearch.training.snapshots import SnapshotMoments
from masksearch.training.train_settings import TrainSettings
from masksearch.utils.errors import InputError

__all__ = ["train"]

CHECKPOINT_SECONDS = 5.0  # minimum time between two checkpoints

OnEpoch = Callable[[EpochRow], bool | None]


@locks_checkpoint
def train(
    model: nn.Module,
    split: Examples,
    settings: TrainSettings,
    *,
    val: Examples | None = None,
    masks: Mapping[str, Tensor] | None = None,
    remask: MaskSchedule | None = None,
    begin: int = 0,
    until: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: bool = False,
    loss: Loss | None = None,
    snapshots: Sequence[Duration] = (),
    checkpoint: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Training:
    """Train a network in place.

    Equal arguments give equal weights, bit for bit, even if the training was interrupted: order of the examples,
    augmentation and dropout derive from (seed, epoch). The global random state and the modes of the network's modules
    do not change.

    Parameters
    ----------
    model : nn.Module
        Moved to ``device``.
    split : Examples
        Training examples: ``.inputs`` float (n, c, h, w) and ``.targets`` int64 (n,).
    settings : TrainSettings
        Settings of the training.
    val : Examples, optional
        Validation examples, evaluated after every epoch; ``best`` and the plateau schedule need them.
    masks : mapping, optional
        Parameter name -> bool tensor of its shape, True = kept. Pruned weights are exactly zero from the start.
    remask : MaskSchedule, optional
        Masks that change during the training, instead of ``masks``. To resume a training, pass a new object.
    begin : int
        Completed epochs of the schedule: learning rates, random numbers and the rows' numbers continue there. The
        optimiser's state and the validation losses for ``plateau`` and ``best`` begin anew.
    until : int, optional
        Epoch after which the training ends. Default: ``settings.epochs``. Epochs beyond ``settings.epochs`` keep the
        learning rate of the last one (``plateau`` goes on).
    seed : int
        Seed of all random numbers.
    device : torch.device or str
        Device of the training.
    augment : bool
        Whether ``settings.augment`` = ``"auto"`` means crops and flips: ``Data.augment``.
    loss : callable, optional
        (outputs, targets (b,)) -> mean loss, a scalar tensor. Default: cross-entropy.
    snapshots : sequence of Duration
        Moments at which to copy the weights, counted from epoch 0 of the schedule, none before ``begin``. ``end`` is
        the end of this training, and ``best`` the best of its epochs.
    checkpoint : str or Path, optional
        File that is written after epochs, at most every 5 seconds, and at the end. If the file exists, the training
        continues from it; a finished training returns at once.
    on_epoch : callable, optional
        Called with the row of every completed epoch, first those of the checkpoint; returning True ends the training.

    Returns
    -------
    Training
        Rows, snapshots, best weights. A loss that is not finite ends the training; then ``diverged`` is True.

    Raises
    ------
    InputError
        Before any work, if data, outputs, masks, moments or checkpoint don't fit.
    """
    device = torch.device(device)
    until = settings.epochs if until is None else until
    _check_request(settings, val, loss, masks, remask, begin, until)
    steps = steps_per_epoch(len(split.inputs), settings.batch_size)
    moments = SnapshotMoments(snapshots, steps, begin, until, val is not None)
    model.to(device)
    checked = check_inputs(model, split, device, loss, "train")
    if val is not None:
        check_inputs(model, val, device, loss, "val")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model: {type(model).__name__} has no parameter that requires a gradient; at least one is needed"
        )
    slimming = Slimming(model, settings.bn_l1)
    masks = (masks or {}) if remask is None else remask.masks
    masking = Masking(model, masks)
    optimizer = build_optimizer(model.parameters(), settings, device)
    training = Training(model)
    cropped = augment if settings.augment == "auto" else settings.augment == "crop_flip"

    path = None if checkpoint is None else Path(checkpoint)
    identity: dict[str, object] = {}
    if path:
        identity = asdict(settings) | {
            "seed": seed,
            "augment": cropped,
            "images": len(split.inputs),
            "snapshots": sorted(map(str, snapshots)),
            "begin": begin,
            "until": until,
            "masks": digest(masks),
            "remask": None if remask is None else type(remask).__name__,
            "starting weights": digest(model.state_dict()),
        }
        if path.exists():
            load_checkpoint(path, identity, training, optimizer, remask)
            if remask is not None:
                masking = Masking(model, remask.masks)
            if on_epoch:
                for row in training.epochs:
                    on_epoch(row)

    feed = Feed(split, device, checked.channels_last)
    val_feed = None if val is None else Feed(val, device, checked.channels_last)
    epochs = EpochPass(
        model=model,
        feed=feed,
        batch_size=settings.batch_size,
        optimizer=optimizer,
        slimming=slimming,
        masking=masking,
        remask=remask,
        loss=loss or partial(cross_entropy, label_smoothing=settings.label_smoothing),
        seed=seed,
        cropped=cropped,
        bfloat16=settings.precision == "bfloat16",
        classifies=checked.classifies,
    )

    def after_step(step: int) -> None:
        moments.after_step(training, step)

    saved = monotonic()
    with mode_kept(model):
        if not training.epochs:
            moments.after_step(training, begin * steps)
        while not training.over(until - begin):
            start, epoch = monotonic(), begin + len(training.epochs)
            lr = learning_rate(settings, epoch, [row.val_loss for row in training.epochs if row.val_loss is not None])
            train_loss, train_accuracy = epochs.run(epoch, lr, after_step)
            evaluation = None
            if val_feed is not None:
                evaluation = evaluate_feed(model, val_feed, loss or cross_entropy, checked.classifies)
            row = EpochRow(
                epoch=epoch + 1,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                val_loss=evaluation.loss if evaluation else None,
                val_accuracy=evaluation.accuracy if evaluation else None,
                lr=lr,
                seconds=monotonic() - start,
            )
            training.epochs.append(row)
            if evaluation and row.finite and (training.best is None or row.better_than(training.best.row)):
                training.best = Best(row, copy_weights(model))
            moments.after_epoch(training, row.epoch)
            if path and (training.over(until - begin) or monotonic() - saved >= CHECKPOINT_SECONDS):
                save_checkpoint(path, identity, training, optimizer, remask)
                saved = monotonic()
            if on_epoch and on_epoch(row):
                training.stopped = True
                if path:
                    save_checkpoint(path, identity, training, optimizer, remask)
    moments.at_end(training)
    return training


def _check_request(
    settings: TrainSettings,
    val: Examples | None,
    loss: Loss | None,
    masks: Mapping[str, Tensor] | None,
    remask: MaskSchedule | None,
    begin: int,
    until: int,
) -> None:
    if not 0 <= begin <= until:
        raise InputError(f"begin: {begin}; allowed is 0 to {until}, the epoch at which the training ends")
    if remask is not None and masks is not None:
        raise InputError("remask: has masks of its own; leave masks out")
    if settings.lr_schedule == "plateau" and val is None:
        raise InputError("lr_schedule: plateau needs the validation loss; pass val, or another schedule")
    if settings.label_smoothing and loss is not None:
        raise InputError(f"label_smoothing: {settings.label_smoothing}; it must be 0 with a loss of your own")
