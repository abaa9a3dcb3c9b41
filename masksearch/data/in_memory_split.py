"""Splits of examples, raw images, and class-stratified orders and batches of examples."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from masksearch.tasks import CLASSIFICATION, Task, as_task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import as_nested, describe, n_examples, take, tensors_of

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


__all__ = ["RawImages", "Split", "balanced_batch", "content_digest", "stratified_order"]


@dataclass(frozen=True, eq=False)
class RawImages:
    """Published data set of images: pixels and labels of its training and test examples, not yet normalised."""

    train_images: Tensor  # uint8 (n, c, h, w)
    train_labels: Tensor  # int64 (n,)
    test_images: Tensor  # uint8 (m, c, h, w)
    test_labels: Tensor  # int64 (m,)
    classes: int  # number of classes
    val: tuple[Tensor, Tensor] | None = None  # validation images and labels, if they are published
    verified: bool = False  # whether the files were compared with published checksums


def stratified_order(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """Return a random order of examples, as indices (n,), in which the classes are mixed evenly from start to end.

    The first k examples of the order have the proportions of all examples, as nearly as k allows.

    The images of a class, in random order, are spread evenly over [0, 1): one image at a random position in each of n
    equal intervals. So every prefix has at most one image of a class too many or too few, and splits, search examples
    and smaller training sets are prefixes of such orders.

    scikit-learn's ``train_test_split(stratify=)`` would give other splits than those of the published measurements.

    Parameters
    ----------
    labels : Tensor
        Integers (n,).

    Returns
    -------
    Tensor
        Indices (n,), int64.
    """
    place = np.empty(len(labels))
    for label in labels.unique().tolist():
        members = np.flatnonzero((labels == label).numpy())
        ranks = generator.permutation(len(members))
        place[members] = (ranks + generator.random(len(members))) / len(members)
    return torch.from_numpy(np.argsort(place, kind="stable"))


@dataclass(frozen=True, eq=False)
class Split:
    """Data split in memory: inputs, targets and their task.

    Parameters
    ----------
    inputs : Tensor (n, ...), or a tuple or dict of such tensors
        A network is called with ``model(x)``, ``model(*x)`` or ``model(**x)``.
    targets : Tensor (n, ...), or a tuple or dict of such tensors, or None
        Integer classes are kept as int64. None suits losses without targets.
    task : Task or str
        Loss, metric and distance; a name in ``ms.tasks.TASKS``, or a task of your own.

    Raises
    ------
    InputError
        If there are no examples, inputs and targets differ in number, or the targets don't fit the task.
    """

    inputs: Any
    targets: Any
    task: Task = CLASSIFICATION
    resident: ClassVar[bool] = True  # whether inputs and targets are in memory
    own_order: ClassVar[bool] = False  # whether a DataLoader decides the order of batches; here the caller does
    identity: ClassVar[str | None] = None  # name of the data; examples in memory need none

    def __post_init__(self) -> None:
        inputs, task = as_nested(self.inputs, "inputs"), as_task(self.task)
        if any(not tensor.numel() for tensor in tensors_of(inputs)):
            raise InputError(f"inputs: {n_examples(inputs)} examples of {describe(inputs)}; none of the sizes may be 0")
        targets = None if self.targets is None else as_nested(self.targets, "targets")
        if targets is not None and n_examples(targets) != n_examples(inputs):
            raise InputError(
                f"targets: {n_examples(targets)} for {n_examples(inputs)} inputs; one target per input is needed"
            )
        if isinstance(targets, Tensor) and targets.dtype in _INTEGERS:
            targets = targets.long()
        if task.check is not None:
            task.check(targets, "split")
        for name, value in (("inputs", inputs), ("targets", targets), ("task", task)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Split({len(self)} examples, {describe(self.inputs)}, {self.task.name})"

    def __len__(self) -> int:
        return n_examples(self.inputs)

    def digest(self) -> str:
        """Return a SHA-256 digest of inputs and targets, 16 hex digits; it is computed anew if a tensor changes."""
        tensors = (*tensors_of(self.inputs), *tensors_of(self.targets))
        versions = tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)
        known: tuple[tuple[int, ...], str] | None = self.__dict__.get("_digest")
        if known is None or known[0] != versions:
            known = versions, content_digest(tensors)
            object.__setattr__(self, "_digest", known)
        return known[1]

    @property
    def images(self) -> Any:
        """Images of the split: another name for the attribute ``inputs``."""
        return self.inputs

    @property
    def labels(self) -> Any:
        """Class labels of the split: another name for the attribute ``targets``."""
        return self.targets

    def __getitem__(self, chosen: slice | Tensor) -> "Split":
        """Return the examples that a slice (views) or a tensor of indices (copies) selects."""
        return Split(take(self.inputs, chosen), take(self.targets, chosen), self.task)

    def sample(self, n: int) -> tuple[Any, Any]:
        """Return inputs and targets of the split's first ``n`` examples."""
        return take(self.inputs, slice(n)), take(self.targets, slice(n))

    def batches(self, order: Tensor | None, sizes: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Yield batches (inputs, targets) of the lengths ``sizes``, in the order of the examples' indices ``order``.

        None: in the order of the examples.
        """
        start = 0
        for size in sizes:
            chosen = slice(start, start + size) if order is None else order[start : start + size]
            yield take(self.inputs, chosen), take(self.targets, chosen)
            start += size


def content_digest(tensors: Iterable[Tensor]) -> str:
    """Return a SHA-256 digest of types, shapes and values of tensors, 16 hex digits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def balanced_batch(split: Split, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``per_class`` examples of each class without replacement; return their inputs and targets.

    Raises
    ------
    InputError
        If a class has fewer examples than ``per_class``.
    """
    chosen = []
    for label in split.targets.unique():
        members = (split.targets == label).nonzero().flatten()
        if len(members) < per_class:
            raise InputError(f"examples per class: {per_class}; class {int(label)} has only {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    index = torch.cat(chosen)
    index = index[torch.randperm(len(index), generator=generator)]
    return take(split.inputs, index), split.targets[index]
