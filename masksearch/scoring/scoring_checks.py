"""Checks before masks are scored: weights, examples, and a forward pass of two examples."""

from typing import Any

import torch
from torch import Tensor, nn

from masksearch.tasks import Task
from masksearch.training.input_check import takes_channels_last
from masksearch.utils.errors import InputError, named_first_line
from masksearch.utils.nested import Nested, call_model, describe, tensors_of, to_device


def check_weights(model: nn.Module) -> None:
    """Raise an :class:`InputError` if a parameter of the network is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(f"weights: {name} has NaN or infinite values; all must be finite")


def check_examples(inputs: Nested, targets: Any, classes: int | None) -> None:
    """Raise an :class:`InputError` if inputs are NaN or infinite, or if labels lie outside 0 to ``classes`` - 1.

    Labels are not checked if ``classes`` is None.
    """
    if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in tensors_of(inputs)):
        raise InputError("inputs to score on: some are NaN or infinite; all must be finite")
    if classes is None:
        return
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= classes:
        hint = "; task='binary' takes one logit" if classes == 1 else ""
        raise InputError(f"labels: {lowest} to {highest}; the model has classes 0 to {classes - 1}{hint}")


class Probe:
    """Outputs of a network in a test run on two examples in eval mode, and checks of these outputs.

    Raises
    ------
    InputError
        If the network can't be run on the examples.
    """

    def __init__(self, model: nn.Module, task: Task, sample: tuple[Nested, Any], device: torch.device) -> None:
        self._model, self._task = model, task
        self.inputs: Nested = to_device(sample[0], device)
        self._targets = to_device(sample[1], device)
        self.channels_last = False  # whether images should have the memory format torch.channels_last
        self.classes: int | None = None  # number of classes, once check_logits has found it
        for tensor in tensors_of(self.inputs):
            if not len(tensor):
                raise InputError("examples to score on: there are none; at least one is needed")
        with torch.no_grad():
            try:
                self._outputs = call_model(model, self.inputs)
            except Exception as error:
                raise InputError(
                    f"model: {type(model).__name__} fails on inputs {describe(self.inputs)}: "
                    f"{named_first_line(error)}; the model must take the inputs of the split"
                ) from error
            if isinstance(self.inputs, Tensor) and self.inputs.ndim == 4 and self.inputs.is_floating_point():
                self.channels_last = takes_channels_last(model, self.inputs)

    @property
    def returns_logits(self) -> bool:
        """Whether the tested network returns one tensor of logits (n, classes), which the task's loss accepts."""
        return self._task.output is None and isinstance(self._outputs, Tensor) and self._outputs.ndim == 2

    def check_logits(self, objective: object) -> None:
        """Raise an :class:`InputError` unless the network's main output is a tensor of logits (n, classes)."""
        logits = self._task.read(self._outputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            what = f"tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"model: returns a {what}; objective {objective!r} needs logits (n, classes), "
                "or give loss= or a callable objective"
            )
        self.classes = logits.shape[1]

    def check_loss(self, *, needed: bool) -> None:
        """Raise an :class:`InputError` if the task's loss fails on the network's outputs, or returns no scalar.

        If there are no targets and the loss is not ``needed``, nothing is checked.
        """
        if self._targets is None and not needed:
            return
        try:
            with torch.no_grad():
                value = self._task.loss_of(self._outputs, self._targets)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"task {self._task.name!r}: its loss fails on what {type(self._model).__name__} returns: "
                f"{named_first_line(error)}; outputs and targets must fit the loss"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"loss: returned {found}; a scalar tensor is needed")
