"""Trainer of dense, masked and pruned networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from masksearch.tasks import Task
from masksearch.training.averaging import Averaging
from masksearch.training.batches import Feed
from masksearch.training.checkpoint import (
    NO_EXAMPLES,
    Checkpoint,
    digest,
    examples_digest,
    locks_checkpoint,
    refusing_checkpoint,
)
from masksearch.training.data_parallel import DataParallel, check_sync_batchnorm, synchronised_norms
from masksearch.training.duration import Duration
from masksearch.training.epoch import EpochPass
from masksearch.training.evaluation import Evaluation, evaluate_feed
from masksearch.training.examples import Examples, Resident, Streamed, as_examples, optimizer_steps
from masksearch.training.input_check import InputCheck, Loss, check_inputs, mode_kept
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.optimisation import build_optimizer, learning_rate
from masksearch.training.optimizer_step import OptimizerStep
from masksearch.training.record import EpochRow, Training, copy_weights
from masksearch.training.slimming import Slimming
from masksearch.training.snapshots import SnapshotMoments
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_loss import TrainingLoss
from masksearch.utils.errors import InputError, check_type, check_whole, first_line
from masksearch.utils.nested import as_device, call_model, describe, to_device
from masksearch.utils.ranks import ranks
from masksearch.utils.seeds import seeded

CHECKPOINT_SECONDS = 5.0  # minimum time between two checkpoints, in seconds

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
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    snapshots: Sequence[Duration] = (),
    checkpoint: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Training:
    """Train a network in place; return the results of all epochs, snapshots of weights, and the best weights.

    Equal arguments give equal weights, bit for bit, even if the training was interrupted: order of the examples,
    augmentation and dropout derive from (seed, epoch). The global random state and the modes of the network's modules
    do not change.

    In a ``ms.distributed()`` block under torchrun, all processes train the network together: each batch is that of one
    device, and every process takes its share. Rank 0 alone writes the checkpoint.

    Parameters
    ----------
    model : nn.Module
        The network; it is moved to ``device``.
    split : Examples
        Training examples: a split such as ``data.train``, or any object with ``.inputs`` and ``.targets``. The
        network is called with ``model(x)``, ``model(*x)`` or ``model(**x)``.
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
        learning rate of the last one (``plateau`` continues).
    seed : int
        Seed of all random numbers.
    device : torch.device or str
        Device of the training.
    augment : bool
        Whether ``settings.augment`` = ``"auto"`` means crops and flips: ``Data.augment``.
    teacher : nn.Module, optional
        Dense network for distillation, used if ``settings.distill`` is above 0. It moves to ``device`` and does not
        change.
    loss : callable, optional
        (what the network returned, targets) -> mean loss, a scalar tensor. Default: the loss of the split's task.
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
        Rows, snapshots, best weights. With ``settings.ema``, validation, snapshots, best weights and, at the end, the
        network itself have the averaged weights. A loss that is not finite ends the training; then ``diverged`` is
        True.

    Raises
    ------
    InputError
        Before any work, if data, outputs, masks, moments or checkpoint don't fit.
    """
    device = as_device(device)
    check_whole("begin", begin)
    check_whole("seed", seed, -(2**63), 2**63)
    if until is not None:
        check_whole("until", until)
    if masks is not None:
        check_type("masks", masks, Mapping, "{name of a parameter: bool tensor}")
    until = settings.epochs if until is None else until
    given, split = split, as_examples(split, "train")
    _check_request(settings, split.task, val, teacher, loss, masks, remask, begin, until, device)
    steps = optimizer_steps(split, settings)
    moments = SnapshotMoments(snapshots, steps, begin, until, val is not None)
    model.to(device)
    checked = check_inputs(model, split, device, loss, "train")
    val_checked = None if val is None else check_inputs(model, val, device, loss, "val")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model: {type(model).__name__} has no parameter that requires a gradient; at least one is needed"
        )
    slimming = Slimming(model, settings.bn_l1)
    masks = {name: keep.clone() for name, keep in (masks or {}).items()} if remask is None else remask.masks
    together = ranks()
    together.copy_from_first([*model.state_dict().values(), *([] if remask else masks.values())])
    masking = Masking(model, masks)
    optimizer = build_optimizer(model.parameters(), settings, device)
    training = Training(model, metric_name=split.task.metric_name)
    teacher = teacher if settings.distill else None
    training_loss = TrainingLoss(
        checked.task,
        checked.loss_task,
        settings.label_smoothing,
        teacher,
        settings.distill,
        settings.distill_temperature,
    )
    if teacher is not None:
        together.copy_from_first(teacher.to(device).state_dict().values())
        _check_teacher(model, teacher, split, training_loss, device)
    cropped = augment if settings.augment == "auto" else settings.augment == "crop_flip"
    if cropped and not _are_images(split.sample(1)[0]):
        raise InputError(f"augment: crop_flip needs images (n, c, h, w), not {describe(split.sample(1)[0])}; set none")

    file, saved_step = None, None
    if checkpoint is not None:
        identity: dict[str, object] = asdict(settings) | {
            "seed": seed,
            "augment": cropped,
            "images": len(split),
            "task": split.task.identity,
            "data": split.identity,
            "content": examples_digest(given),
            "val": NO_EXAMPLES if val is None else examples_digest(val),
            "teacher": None if teacher is None else digest(teacher.state_dict()),
            "snapshots": sorted(map(str, snapshots)),
            "begin": begin,
            "until": until,
            "masks": digest(masks),
            "devices": together.size,
            "remask": None if remask is None else type(remask).__name__,
            "starting weights": digest(model.state_dict()),
        }
        file = Checkpoint(Path(checkpoint), identity, training, optimizer, remask)
        if together.from_first(file.path.exists):
            saved_step = file.load()
            if remask is not None:
                masking = Masking(model, remask.masks)
            if on_epoch:
                for row in training.epochs:
                    on_epoch(row)

    sample = split.sample(2) if together.size > 1 else (None, None)
    parallel = DataParallel(model, training_loss, together, tuple(to_device(part, device) for part in sample))
    averaging = Averaging(model, settings.ema) if settings.ema else None
    step = OptimizerStep(
        model,
        parallel,
        optimizer,
        settings,
        slimming,
        masking,
        remask,
        averaging,
        steps,
        lambda step: moments.after_step(training, step, averaging),
    )
    if file and saved_step is not None:
        with refusing_checkpoint(file.path):
            step.load_state_dict(saved_step)

    feed = Feed(split, device, checked.channels_last, check=checked.check_targets)
    validate = None
    if val is not None and val_checked is not None:
        validate = _validation(model, val, val_checked, parallel, averaging, device)
    epochs = EpochPass(
        model=model,
        feed=feed,
        batch_size=settings.batch_size,
        steps_per_epoch=steps,
        step=step,
        parallel=parallel,
        checked=checked,
        seed=seed,
        cropped=cropped,
        precision=settings.precision,
    )

    saved = monotonic()
    norms = synchronised_norms(model) if settings.sync_batchnorm else nullcontext()
    with mode_kept(model), norms, _evaluating(teacher):
        if not training.epochs:
            moments.after_step(training, begin * steps, averaging)
        while not training.over(until - begin):
            start, epoch = monotonic(), begin + len(training.epochs)
            lr = learning_rate(settings, epoch, [row.val_loss for row in training.epochs if row.val_loss is not None])
            train_loss, train_metric = epochs.run(epoch, lr)
            evaluation = validate() if validate else None
            row = EpochRow(
                epoch=epoch + 1,
                train_loss=train_loss,
                train_metric=train_metric,
                val_loss=evaluation.loss if evaluation else None,
                val_metric=evaluation.metric if evaluation else None,
                lr=step.lr,
                seconds=monotonic() - start,
                higher_is_better=split.task.higher_is_better,
            )
            row = together.from_first(partial(replace, row))  # all ranks decide by the same numbers
            training.add(row, averaging.weights if averaging else partial(copy_weights, model))
            waited = row.epoch - (training.best.epoch if training.best else begin)
            training.stopped = settings.stop_after is not None and waited >= settings.stop_after
            moments.after_epoch(training, row.epoch)
            if file and (training.over(until - begin) or monotonic() - saved >= CHECKPOINT_SECONDS):
                file.save(step)
                saved = monotonic()
            ends = bool(on_epoch and on_epoch(row))
            if together.from_first(partial(bool, ends)):
                training.stopped = True
                if file:
                    file.save(step)
    if averaging is not None:
        averaging.store()
    moments.at_end(training)
    return training


def _check_request(
    settings: TrainSettings,
    task: Task,
    val: Examples | None,
    teacher: nn.Module | None,
    loss: Loss | None,
    masks: Mapping[str, Tensor] | None,
    remask: MaskSchedule | None,
    begin: int,
    until: int,
    device: torch.device,
) -> None:
    if not 0 <= begin <= until:
        raise InputError(f"begin: {begin}; allowed is 0 to {until}, the epoch at which the training ends")
    if remask is not None and masks is not None:
        raise InputError("remask: has masks of its own; leave masks out")
    if settings.lr_schedule == "plateau" and val is None:
        raise InputError("lr_schedule: plateau needs the validation loss; pass val, or another schedule")
    if settings.label_smoothing and loss is not None:
        raise InputError(f"label_smoothing: {settings.label_smoothing}; it must be 0 with a loss of your own")
    if settings.label_smoothing and task.smoothed is None:
        raise InputError(f"label_smoothing: {settings.label_smoothing}; it must be 0 for task {task.name!r}")
    if settings.stop_after is not None and val is None:
        raise InputError(f"stop_after: {settings.stop_after}; early stopping needs validation examples; pass val")
    if settings.distill and teacher is None:
        raise InputError(f"distill: {settings.distill}; it needs the dense network; pass teacher, or set distill to 0")
    check_sync_batchnorm(settings, device)
    if settings.precision == "float16" and device.type not in ("cpu", "cuda"):
        raise InputError(f"precision: float16; it is for CPU and CUDA, not for {device.type}; choose float32")


def _validation(
    model: nn.Module,
    val: Examples,
    checked: InputCheck,
    parallel: DataParallel,
    averaging: Averaging | None,
    device: torch.device,
) -> Callable[[], Evaluation]:
    """Return a function that evaluates the network, with averaged weights if there are any, on all ranks together."""
    part = parallel.part_of(val)
    feed = Feed(part, device, checked.channels_last, check=checked.check_targets)

    def validate() -> Evaluation:
        with averaging.in_place() if averaging else nullcontext():
            evaluation = evaluate_feed(model, feed, checked)
        return evaluation if part is val else parallel.joined(evaluation, len(as_examples(val)))

    return validate


def _check_teacher(
    model: nn.Module, teacher: nn.Module, split: Resident | Streamed, loss: TrainingLoss, device: torch.device
) -> None:
    inputs, targets = (to_device(part, device) for part in split.sample(2))
    with mode_kept(model), _evaluating(teacher), seeded(0, device), torch.no_grad():
        model.eval()
        try:
            loss(call_model(model, inputs), inputs, targets)
        except Exception as error:
            raise InputError(
                f"teacher: {type(teacher).__name__} does not fit {type(model).__name__}: {first_line(error)}; both "
                "need the same inputs and outputs"
            ) from error


@contextmanager
def _evaluating(teacher: nn.Module | None) -> Iterator[None]:
    """Keep a teacher in eval mode within a block; then restore its modes."""
    if teacher is None:
        yield
        return
    with mode_kept(teacher):
        teacher.eval()
        yield


def _are_images(inputs: object) -> bool:
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()
