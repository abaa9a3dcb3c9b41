"""Trainer of dense, masked and pruned networks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from masksearch.training.averaging import Averaging
from masksearch.training.batch_feed import Feed
from masksearch.training.checkpoint import Checkpoint, locks_checkpoint
from masksearch.training.data_parallel import DataParallel, synchronised_norms
from masksearch.training.epoch import EpochPass
from masksearch.training.input_check import Loss, check_inputs, mode_kept
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.optimisation import build_optimizer
from masksearch.training.optimizer_step import OptimizerStep
from masksearch.training.record import Training
from masksearch.training.request import TrainingRequest
from masksearch.training.slimming import Slimming
from masksearch.training.snapshots import SnapshotMoments
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_loop import OnEpoch, TrainingLoop
from masksearch.training.training_loss import TrainingLoss
from masksearch.training.training_moment import TrainingMoment
from masksearch.training.training_splits import Examples, Resident, Streamed, optimizer_steps
from masksearch.training.validation import Validation
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.nested import as_device, call_model, to_device
from masksearch.utils.ranks import ranks
from masksearch.utils.seeds import seeded


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
    snapshots: Sequence[TrainingMoment] = (),
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
    snapshots : sequence of TrainingMoment
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
    device, teacher = as_device(device), teacher if settings.distill else None
    until = settings.epochs if until is None else until
    request = TrainingRequest(
        split, settings, val, masks, remask, begin, until, seed, device, augment, teacher, loss, snapshots
    )
    request.check()
    steps = optimizer_steps(request.examples, settings)
    moments = SnapshotMoments(snapshots, steps, begin, until, val is not None)

    # Network and examples are checked on the device; torchrun's processes start with the weights and masks of rank 0.
    model.to(device)
    checked = check_inputs(model, request.examples, device, loss, "train")
    val_checked = None if val is None else check_inputs(model, val, device, loss, "val")
    _check_trainable(model)
    slimming = Slimming(model, settings.bn_l1)
    masks = {name: keep.clone() for name, keep in (masks or {}).items()} if remask is None else remask.masks
    together = ranks()
    together.copy_from_first([*model.state_dict().values(), *([] if remask else masks.values())])
    masking = Masking(model, masks)
    optimizer = build_optimizer(model.parameters(), settings, device)
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
        _check_teacher(model, teacher, request.examples, training_loss, device)
    request.check_crops()

    # A checkpoint restores network, optimiser, masks and record; averages and ranks begin with the restored weights.
    training = Training(model, metric_name=request.examples.task.metric_name)
    file = saved_step = None
    if checkpoint is not None:
        file = Checkpoint(Path(checkpoint), request.identity(model, masks), training, optimizer, remask)
        saved_step = file.load()
        if remask is not None:
            masking = Masking(model, remask.masks)
        if on_epoch is not None:
            for row in training.epochs:
                on_epoch(row)
    sample = request.examples.sample(2) if together.size > 1 else (None, None)
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
    if file is not None and saved_step is not None:
        file.restore_step(step, saved_step)

    epochs = EpochPass(
        model=model,
        feed=Feed(request.examples, device, checked.channels_last, check=checked.check_targets),
        batch_size=settings.batch_size,
        steps_per_epoch=steps,
        step=step,
        parallel=parallel,
        checked=checked,
        seed=seed,
        cropped=request.cropped,
        precision=settings.precision,
    )
    validation = None
    if val is not None and val_checked is not None:
        validation = Validation(model, val, val_checked, parallel, averaging, device)
    norms = synchronised_norms(model) if settings.sync_batchnorm else nullcontext()
    with mode_kept(model), norms, _evaluating(teacher):
        TrainingLoop(request, training, epochs, validation, moments, averaging, file, on_epoch).run()
    if averaging is not None:
        averaging.store()
    moments.at_end(training)
    return training


def _check_trainable(model: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model: {type(model).__name__} has no parameter that requires a gradient; at least one is needed"
        )


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
