"""Batches that criteria read: data splits or (inputs, targets) pairs, with the loss of a network on them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.tasks import Loss, Task, read_output
from masksearch.training.batch_feed import forward_batch
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, describe, n_examples, take, to_device

_SMALL = 64  # examples of a batch of inputs without targets
_LEAST_BATCHES = 4  # of inputs: least squares holds some of them out

Batches = Any  # Iterable[tuple[Any, Any]], or a split
"""A split, resident or streamed, or an iterable of (inputs, targets)."""


def is_split(batches: Batches) -> bool:
    """Return whether ``batches`` is a data split, which has its own task and loss, not (inputs, targets) pairs."""
    return isinstance(getattr(batches, "task", None), Task)


def first_inputs(batches: Batches, criterion: str) -> Nested:
    """Return the inputs of the first example in ``batches``, as a batch of size 1."""
    inputs = batches.sample(1)[0] if is_split(batches) else next((inputs for inputs, _ in batches), None)
    if inputs is None:
        raise InputError(f"batches: none; {criterion} needs one for the shape of its inputs")
    first: Nested = take(inputs, slice(1))
    return first


def input_batches(batches: Batches, criterion: str) -> list[Nested]:
    """Return the inputs of all batches as a list; one to three batches are cut into parts of at most 64 examples.

    The batches of a data split have 64 examples.
    """
    if is_split(batches):
        sizes = [min(_SMALL, len(batches) - start) for start in range(0, len(batches), _SMALL)]
        batches = batches.batches(None, sizes)
    found = [inputs for inputs, _ in batches]
    if not found:
        raise InputError(f"batches: none; {criterion} needs some hundred examples, without targets")
    if len(found) >= _LEAST_BATCHES:
        return found
    parts: list[Nested] = []
    for inputs in found:
        n = n_examples(inputs)
        size = max(1, min(_SMALL, n // _LEAST_BATCHES))
        parts += [take(inputs, slice(start, start + size)) for start in range(0, n - n % size, size)]
    return parts


@dataclass(frozen=True)
class BatchLoss:
    """Batches that can be read several times, and the loss that a pruning criterion computes on each of them."""

    batches: Callable[[], Iterable[tuple[Any, Any]]]
    of_outputs: Callable[[Any, Any], Tensor]  # (what the network returned, targets) -> scalar
    weight: Callable[[Any, int], float]  # (targets, examples) -> factor of the batch's loss

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        empty = True
        for batch in self.batches():
            empty = False
            yield batch
        if empty:
            raise InputError("batches: none; at least one (inputs, targets) is needed")

    def loss(self, network: nn.Module, batch: tuple[Any, Any], device: torch.device) -> Tensor:
        """Return a network's loss on a batch, a scalar tensor with gradients; small batches of a split weigh less."""
        inputs, targets = (to_device(part, device) for part in batch)
        value = self.of_outputs(call_model(network, inputs), targets)
        weight = self.weight(targets, n_examples(inputs))
        return value if weight == 1 else value * weight


def loss_batches(batches: Batches, loss: Loss | None, criterion: str, *, temperature: float | None = None) -> BatchLoss:
    """Return the batches with a loss function: ``loss`` if given, else that of the data split, else cross-entropy.

    The loss of a split is the mean over all examples, or tokens, times the number of its batches. Of plain batches, it
    is the sum of the batches' losses.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Examples.
    loss : callable, optional
        Loss in place of the default: that of the split's task, or the cross-entropy of integer classes.
    criterion : str
        Name in error messages.
    temperature : float, optional
        Divisor of the logits of classes before the default loss.
    """
    if is_split(batches):
        return _of_split(batches, loss, temperature)
    pairs = list(batches)

    def cross_entropy(outputs: Any, targets: Any) -> Tensor:
        logits = _checked(read_output(outputs), targets, criterion)
        return F.cross_entropy(logits if temperature is None else logits / temperature, targets.long())

    return BatchLoss(lambda: pairs, loss or cross_entropy, lambda targets, n: 1.0)


def _of_split(split: Any, loss: Loss | None, temperature: float | None) -> BatchLoss:
    task: Task = split.task
    size = forward_batch(torch.device("cpu"))

    def batches() -> Iterable[tuple[Any, Any]]:
        starts = range(0, len(split), size)
        if not split.resident:
            return split.batches(None, [min(size, len(split) - start) for start in starts])
        return ((take(split.inputs, slice(k, k + size)), take(split.targets, slice(k, k + size))) for k in starts)

    def softened(outputs: Any, targets: Any) -> Tensor:
        return task.loss(task.read(outputs) / temperature, targets)

    default = softened if temperature is not None and task.classifies else task.loss_of
    expected = min(size, len(split))
    return BatchLoss(batches, loss or default, lambda targets, n: task.n_parts(targets, n) / expected)


def _checked(logits: Any, targets: Any, criterion: str) -> Tensor:
    """Return logits that fit integer classes; raise an error that says what to give otherwise."""
    advice = "give loss=, or a Split of the task"
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        found = describe(targets) if targets is None or isinstance(targets, Tensor | dict | tuple) else type(targets)
        raise InputError(f"criterion {criterion!r}: targets are {found}, not integer classes; {advice}")
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise InputError(f"criterion {criterion!r}: outputs are no logits (n, classes); {advice}")
    counted = targets[targets != -100]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= logits.shape[1]):
        raise InputError(
            f"criterion {criterion!r}: classes {int(counted.min())} to {int(counted.max())}, and the model has "
            f"{logits.shape[1]}; {advice}"
        )
    return logits
