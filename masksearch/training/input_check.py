"""Checks of network and data before a training: a split's tensors, and a forward pass of two examples."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.tasks import Loss, Task, with_loss
from masksearch.training.training_splits import Examples, Resident, as_examples
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.nested import call_model, describe, n_examples, tensors_of, to_device
from masksearch.utils.seeds import seeded

_FEW_FILTERS = 8  # width of a vector register; narrower layers were up to 1.8 times slower with innermost channels


@dataclass(frozen=True)
class InputCheck:
    """Result of a test run of a network on two examples: task, loss, and memory format of batches to train with."""

    task: Task  # task of the split
    loss_task: Task  # task with the loss to minimise: that of the split, or with the loss of the caller
    metered: bool  # whether the metrics of the task accept the network's outputs
    channels_last: bool  # whether batches should have the memory format torch.channels_last
    check_targets: Callable[[Any], None] | None  # raises an error for wrong targets of a streamed batch


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """Context manager that restores the mode (train or eval) of all modules of a network at its end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_inputs(
    model: nn.Module, split: Examples, device: torch.device, loss: Loss | None, name: str = "split"
) -> InputCheck:
    """Check a data split, and a network by a test run on two of the examples; return an :class:`InputCheck`.

    Raises
    ------
    InputError
        For no examples, values that aren't finite, targets that don't fit the task, labels outside the classes, a
        network that fails, and outputs that loss or metric of the task can't read.
    """
    examples = as_examples(split, name)
    task = examples.task
    if isinstance(examples, Resident):
        _check_resident(examples, name)
    elif not len(examples):
        raise InputError(f"{name}: 0 examples; at least one is needed")
    inputs, targets = (to_device(part, device) for part in examples.sample(2))
    if task.check is not None and not isinstance(examples, Resident):
        task.check(targets, name)
    with mode_kept(model), seeded(0, device), torch.no_grad():
        model.eval()
        channels_last = takes_channels_last(model, inputs)
        if channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        outputs = _outputs(model, inputs, name)
        logits = outputs if loss is not None else task.read(outputs)
        classifies = isinstance(logits, Tensor) and logits.ndim == 2 and logits.is_floating_point()
        if loss is not None:
            loss_task = with_loss(task, loss)
            _check_loss(loss_task, outputs, targets)
            metered = classifies if task.classifies else _takes_metrics(task, outputs, targets) is None
            return InputCheck(task, loss_task, metered, channels_last, None)
        if not task.classifies:
            _check_loss(task, outputs, targets)
            if (error := _takes_metrics(task, outputs, targets)) is not None:
                raise InputError(
                    f"metric: {task.metric_name} fails for outputs {_shown(logits)} of {type(model).__name__}: "
                    f"{error}; give the task another metric, or output="
                )
            return InputCheck(task, task, True, channels_last, None)
    if not classifies:
        raise InputError(
            f"model: {type(model).__name__} returns {_shown(outputs)}; {task.name} needs float logits (n, classes); "
            "give other outputs another task, or a loss of your own"
        )
    classes = logits.shape[1]

    def check_labels(labels: Tensor) -> None:
        if (largest := int(labels.max())) >= classes:
            hint = "; for one output per example, name the task binary" if classes == 1 else ""
            raise InputError(
                f"{name}: label {largest}; {type(model).__name__} has the classes 0 to {classes - 1}{hint}"
            )

    if isinstance(examples, Resident):
        check_labels(examples.targets)
    return InputCheck(task, task, True, channels_last, check_labels)


def takes_channels_last(model: nn.Module, images: Any) -> bool:
    """Return whether batches should have the memory format ``torch.channels_last``, for faster convolutions.

    They are faster on the CPU and in bfloat16. Convolutions of very few filters, as heavy pruning leaves, are not
    faster. A network that calls ``view`` on a convolution's output can't process this memory format. Weights keep their
    format.

    Parameters
    ----------
    model : nn.Module
        The network, in eval mode.
    images : Tensor (n, c, h, w)
        A small batch for a test run. The result is False for inputs of any other form.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        return False
    filters = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    if images.shape[1] == 1 or min(filters, default=0) < _FEW_FILTERS:
        return False
    try:
        model(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def _check_resident(examples: Resident, name: str) -> None:
    parts = tensors_of(examples.inputs)
    n, many = len(examples), [*parts, *tensors_of(examples.targets)]
    word = "images" if len(parts) == 1 and parts[0].ndim == 4 else "inputs"
    if not n:
        raise InputError(f"{name}: 0 {word}; at least one is needed")
    for part in parts:
        # The minimum or the maximum is NaN or infinite if any value is.
        if part.is_floating_point() and part.numel() and not all(value.isfinite() for value in part.aminmax()):
            raise InputError(f"{name}: {int((~part.isfinite()).sum())} values of its {word} aren't finite; all must be")
    if wrong := [part for part in many if len(part) != n]:
        raise InputError(f"{name}: {_shown(wrong[0])} for {n} {word}; inputs and targets need the same number")
    if examples.task.check is not None:
        examples.task.check(examples.targets, name)


def _outputs(model: nn.Module, inputs: Any, name: str) -> Any:
    try:
        return call_model(model, inputs)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"model: {type(model).__name__} fails for {n_examples(inputs)} examples of {name}, {describe(inputs)}: "
            f"{first_line(error)}; the network and the inputs must fit each other"
        ) from error


def _check_loss(task: Task, outputs: Any, targets: Any) -> None:
    try:
        value = task.loss_of(outputs, targets)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"loss: fails for outputs {_shown(outputs)} and targets {_shown(targets)}: {first_line(error)}; "
            "give the task a loss, or output=, that fits them"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InputError(f"loss: returned {_shown(value)}; a scalar tensor is needed")


def _takes_metrics(task: Task, outputs: Any, targets: Any) -> str | None:
    """The error of the metrics for a batch; None without one."""
    try:
        for meter in task.meters(main_only=True).values():
            if isinstance(meter, nn.Module):
                meter.to(tensors_of(task.read(outputs))[0].device)
            meter.update(*task.selected(outputs, targets))
    except Exception as error:
        return first_line(error)
    return None


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"
