"""Data of an experiment: examples in disjoint splits for training, validation and test."""

import hashlib
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from masksearch.data import preparation
from masksearch.data.dataset_reading import estimated_bytes, free_memory, pass_over, read_all, streamed_split
from masksearch.data.in_memory_split import Split
from masksearch.data.streamed_splits import (
    Collate,
    LoaderSplit,
    Normalisation,
    check_shared_examples,
)
from masksearch.data.train_val_test import AnySplit, Sizes, divided, n_classes
from masksearch.tasks import CLASSIFICATION, Task, as_task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import concatenate, describe, tensors_of

__all__ = ["Data"]

_MEMORY_SHARE = 0.5  # share of free memory that data sets may take to be read as a whole


@dataclass(frozen=True, eq=False)
class Data:
    """Data set for a task: training, validation and test examples, on the CPU.

    ``train``, ``val`` and ``test`` are disjoint. ``val`` has two parts: scorers use ``search``; the difference to
    ``rest`` shows how far a search has overfitted. Made by :func:`~masksearch.data.load_data`, :meth:`from_tensors`,
    :meth:`from_datasets` or :meth:`from_loaders`.
    """

    name: str
    train: AnySplit
    val: AnySplit
    test: AnySplit
    search_examples: int  # number of examples at the beginning of val that make up search
    classes: int | None  # number of classes; None for tasks other than classification
    mean: Tensor | None  # (c,), mean of training pixels in [0, 1], subtracted from images; None for other inputs
    std: Tensor | None  # (c,), standard deviation of training pixels, by which images were divided
    augment: bool  # whether random crops and horizontal flips suit the inputs
    task: Task = CLASSIFICATION
    own_search: LoaderSplit | None = None  # loader of the search examples; then rest is all of val
    content: str = ""  # digest of the examples of a named data set, as read; empty: those that were published

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.val)} val ({len(self.search)} search), {len(self.test)} test"
        kind = f"{self.classes} classes" if self.classes is not None else self.task.name
        form = describe(self.example(1)).removeprefix("float32 ")
        return f"Data({self.name!r}, {form}, {kind}: {sizes}{', streamed' if self.streamed else ''})"

    @property
    def streamed(self) -> bool:
        """Whether examples of any split are read when they are used, instead of being held in memory."""
        return not (self.train.resident and self.val.resident and self.test.resident)

    @property
    def search(self) -> AnySplit:
        """Validation examples on which a search scores masks; the other validation examples are in ``rest``."""
        if self.own_search is not None:
            return self.own_search
        return self.val[: self.search_examples]

    @property
    def rest(self) -> AnySplit:
        """Validation examples on which a search scores no masks: all that :attr:`search` does not have."""
        if isinstance(self.val, LoaderSplit):
            return self.val
        return self.val[self.search_examples :]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, such as (channels, height, width); raises an InputError if an input isn't one tensor."""
        inputs = self.example(1)
        if not isinstance(inputs, Tensor):
            raise InputError(f"data {self.name!r}: inputs are {describe(inputs)}, and only one tensor has a shape")
        return tuple(inputs.shape[1:])

    def example(self, n: int = 1) -> Any:
        """Return the inputs of the first ``n`` test examples."""
        return self.test.sample(n)[0]

    def digest(self) -> str:
        """Return a SHA-256 digest of all inputs and targets of the data set.

        Of a streamed split it covers the length, the first examples and the identity.
        """
        sha = hashlib.sha256(self.task.name.encode())
        for split in (self.train, self.val, self.test):
            if not isinstance(split, Split):
                sha.update(split.digest().encode())
                continue
            for tensor in (*tensors_of(split.inputs), *tensors_of(split.targets)):
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return sha.hexdigest()

    @classmethod
    def from_tensors(
        cls,
        name: str,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        val: tuple[Any, Any] | None = None,
        *,
        task: str | Task = CLASSIFICATION,
        classes: int | None = None,
        augment: bool = False,
        search_examples: int | None = None,
        train_examples: int | None = None,
        val_examples: int | None = None,
    ) -> "Data":
        """Build a data set from inputs and targets in memory: split them, and normalise images.

        Parameters
        ----------
        name : str
            Name of the data set, for reports.
        train, test : (inputs, targets)
            Inputs are a tensor (n, ...), or a tuple or dict of such tensors. ``uint8`` images (n, c, h, w) are divided
            by 255 and normalised per channel, with mean and standard deviation of the training images without those of
            ``val``. Floating-point inputs become float32 and are not normalised. Targets are a tensor (n, ...), a tuple
            or dict of tensors, or None; a language model without targets predicts its own tokens, without padding
            (``attention_mask`` 0).
        val : (inputs, targets), optional
            Default: a fifth of ``train``, at most 10,000 examples, always the same ones; class-stratified in
            classification.
        task : str or Task
            A name in ``ms.tasks.TASKS``, or a task of your own.
        classes : int, optional
            Labels are 0 to ``classes`` - 1. Default: as many as the training labels have.
        augment : bool
            Whether random crops and horizontal flips suit the inputs.
        search_examples : int, optional
            Number of examples of ``val`` for searching. Default: half of them, at most 2,000.
        train_examples : int, optional
            Number of training examples, a fixed choice. Default: all. The other splits do not change.
        val_examples : int, optional
            Number of validation examples, the first ones of ``val``. Default: all. The others are not used.

        Raises
        ------
        InputError
            For targets that don't fit the task, labels with a gap or outside the classes, inputs that are not finite or
            differ in form between splits, splits without examples, and more examples than there are.
        """
        task = as_task(task)
        pairs = {"train": train, "test": test} | ({} if val is None else {"val": val})
        splits = {part: preparation.check_pair(part, pair, task) for part, pair in pairs.items()}
        for part, split in splits.items():
            preparation.check_alike(part, split.inputs, splits["train"].inputs)
        classes = n_classes({part: split.targets for part, split in splits.items()}, task, classes)
        sizes = Sizes(search_examples, train_examples, val_examples)
        parts = divided(splits, {part: split.targets for part, split in splits.items()}, task, sizes)

        mean = std = None
        full = parts.full.inputs
        if preparation.is_pixels(full):
            mean, std = preparation.statistics_of(*preparation.image_statistics(full))
        elif isinstance(full, Tensor) and full.ndim == 4:
            mean, std = torch.zeros(full.shape[1]), torch.ones(full.shape[1])

        def prepared(split: Split) -> Split:
            return Split(preparation.prepared_inputs(split.inputs, mean, std), split.targets, task)

        return cls(
            name,
            prepared(parts.train),
            prepared(parts.val),
            prepared(parts.test),
            search_examples=sizes.search_of(len(parts.val)),
            classes=classes,
            mean=mean,
            std=std,
            augment=augment,
            task=task,
        )

    @classmethod
    def from_datasets(
        cls,
        name: str,
        train: Dataset,
        test: Dataset,
        val: Dataset | None = None,
        *,
        task: str | Task = CLASSIFICATION,
        collate: Collate | None = None,
        stream: bool | None = None,
        workers: int = 0,
        identity: str | None = None,
        classes: int | None = None,
        augment: bool = False,
        search_examples: int | None = None,
        train_examples: int | None = None,
        val_examples: int | None = None,
    ) -> "Data":
        """Build a data set from map-style :class:`torch.utils.data.Dataset` objects, in memory or streamed.

        Items are (input, target) pairs, or whatever ``collate`` takes. Data sets are read into memory if they take less
        than half of the free memory, estimated from the first items; otherwise they are streamed: examples are read
        when they are used, and one pass over the training set finds its classes and pixel statistics.
        ``data.streamed`` says which. Both give equal results, unless the data set has random transforms: these are
        drawn once if it is read into memory, and anew at every pass if it is streamed.

        Parameters
        ----------
        train, test, val : Dataset
            Data sets with a length and items by number.
        task : str or Task
            As in :meth:`from_tensors`.
        collate : callable, optional
            List of items -> (inputs, targets). Default: stack tensors, arrays, PIL images and numbers, in tuples and
            dicts.
        stream : bool, optional
            Whether to stream. Default: only if memory is short.
        workers : int
            Processes that read items of streamed data sets.
        identity : str, optional
            Name and version of streamed data, part of what decides a run. Without it, a warning says that changes of
            the data go unnoticed.

        Other parameters and errors are those of :meth:`from_tensors`.
        """
        task = as_task(task)
        sets = {"train": train, "test": test} | ({} if val is None else {"val": val})
        splits = {part: streamed_split(part, one, collate, task, workers, identity) for part, one in sets.items()}
        if stream is None:
            stream = sum(map(estimated_bytes, splits.values())) > _MEMORY_SHARE * free_memory()
        if not stream:
            pairs = {part: read_all(split) for part, split in splits.items()}
            return cls.from_tensors(
                name,
                pairs["train"],
                pairs["test"],
                pairs.get("val"),
                task=task,
                classes=classes,
                augment=augment,
                search_examples=search_examples,
                train_examples=train_examples,
                val_examples=val_examples,
            )
        _warn_without(identity, name)
        passes = {part: pass_over(split) for part, split in splits.items()}
        classes = n_classes({part: one.targets for part, one in passes.items()}, task, classes)
        sizes = Sizes(search_examples, train_examples, val_examples)
        parts = divided(splits, {part: one.targets for part, one in passes.items()}, task, sizes)
        normalisation: Normalisation | None = None
        mean = std = None
        if (statistics := passes["train"].statistics) is not None:
            chosen = parts.full.indices
            mean, std = normalisation = preparation.statistics_of(*(one[chosen] for one in statistics))
        return cls(
            name,
            parts.train.normalised(normalisation),
            parts.val.normalised(normalisation),
            parts.test.normalised(normalisation),
            search_examples=sizes.search_of(len(parts.val)),
            classes=classes,
            mean=mean,
            std=std,
            augment=augment,
            task=task,
        )

    @classmethod
    def from_loaders(
        cls,
        name: str,
        train: DataLoader,
        test: DataLoader,
        val: DataLoader,
        search: DataLoader,
        *,
        task: str | Task = CLASSIFICATION,
        classes: int | None = None,
        identity: str | None = None,
    ) -> "Data":
        """Build a data set from DataLoaders; training and scoring then use the loaders' batches, in the loaders' order.

        Parameters
        ----------
        train, test, val, search : DataLoader
            Loaders that yield (inputs, targets). Only ``train`` may shuffle. ``search`` has the examples that scorers
            use. No example may be in two of the loaders.
        task : str or Task
            As in :meth:`from_tensors`.
        classes : int, optional
            Labels are 0 to ``classes`` - 1. Default: one pass over ``train`` finds the labels, which have no gap.
        identity : str, optional
            Name and version of the data, part of what decides a run. Without it, a warning says that changes of the
            data go unnoticed.

        Raises
        ------
        InputError
            For loaders without a length, loaders other than ``train`` that shuffle, loaders that share items of one
            data set, and labels with a gap.
        """
        task = as_task(task)
        loaders = {"train": train, "test": test, "val": val, "search": search}
        splits = {part: LoaderSplit(loader, task, identity) for part, loader in loaders.items()}
        for part, split in splits.items():
            if part != "train" and split.shuffles:
                raise InputError(f"{part}: its loader shuffles, and scores need one order; give shuffle=False")
        for one, other in combinations(("train", "val", "search", "test"), 2):
            check_shared_examples(loaders[one], loaders[other], f"{one} and {other}")
        _warn_without(identity, name)
        if task.classifies and classes is None:
            with torch.random.fork_rng(devices=[]):
                labels = concatenate([targets for _, targets in splits["train"].batches(None, ())])
            assert task.check is not None, "tasks of classes check their targets"
            task.check(labels, "train")
            classes = n_classes({"train": labels}, task, None)
        return cls(
            name,
            splits["train"],
            splits["val"],
            splits["test"],
            search_examples=len(splits["search"]),
            classes=classes if task.classifies else None,
            mean=None,
            std=None,
            augment=False,
            task=task,
            own_search=splits["search"],
        )


def _warn_without(identity: str | None, name: str) -> None:
    if identity is None:
        warnings.warn(
            f"data {name!r} is streamed without identity=: a sweep does not see if they change, and keeps results "
            'of the old data; name their version, for example identity="version 1"',
            stacklevel=3,
        )
