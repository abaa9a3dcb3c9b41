"""Data splits that are read when they are used: from a map-style data set, or from a loader."""

import hashlib
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset

from masksearch.data.in_memory_split import content_digest
from masksearch.data.preparation import own_tokens, prepared_inputs
from masksearch.tasks import CLASSIFICATION, Task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import as_nested, concatenate, describe, n_examples, take, tensors_of

__all__ = [
    "Collate",
    "LoaderSplit",
    "Normalisation",
    "StreamedSplit",
    "check_shared_examples",
    "collate_pairs",
]

Collate = Callable[[list[Any]], tuple[Any, Any]]
"""Function (items of a data set) -> (inputs, targets) of a batch: each a tensor, or a tuple or dict of tensors."""


Normalisation = tuple[Tensor, Tensor]
"""Mean and standard deviation (c,) of pixels in [0, 1]."""


def collate_pairs(items: list[Any]) -> tuple[Any, Any]:
    """Stack a list of (input, target) pairs into one batch (inputs, targets).

    An input or target is a tensor, array, number, image, or a tuple or dict of them.
    """
    for place, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"data set: item {place} is a {type(item).__name__}; allowed is (input, target); "
                "give collate= for items of another form"
            )
    inputs, targets = zip(*items, strict=True)
    return _stacked(inputs, "input"), None if all(target is None for target in targets) else _stacked(targets, "target")


def _stacked(values: Sequence[Any], what: str) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {name: _stacked([value[name] for value in values], f"{what} {name!r}") for name in first}
    if isinstance(first, tuple | list) and any(isinstance(part, Tensor | np.ndarray | Image.Image) for part in first):
        return tuple(_stacked([value[place] for value in values], what) for place in range(len(first)))
    tensors = [_tensor(value) for value in values]
    for place, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise InputError(
                f"{what} {place} has shape {tuple(tensor.shape)}, and {what} 0 has {tuple(tensors[0].shape)}; "
                "all need one shape; give collate= to pad or crop"
            )
    return torch.stack(tensors)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Image.Image):
        return torch.as_tensor(value)
    pixels = torch.from_numpy(np.array(value))  # (h, w) or (h, w, c)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _prepared(batch: tuple[Any, Any], task: Task, what: str, normalisation: Normalisation | None) -> tuple[Any, Any]:
    """Inputs and targets of a batch in the types that networks and losses need; images are normalised."""
    inputs, targets = as_nested(batch[0], f"{what}: inputs"), batch[1]
    if targets is None:
        targets = own_tokens(inputs) if task.name == "language_model" else None
    else:
        targets = as_nested(targets, f"{what}: targets")
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        targets = targets.long()
    return prepared_inputs(inputs, *(normalisation or (None, None))), targets


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Data split of a map-style data set that reads examples when they are used, batch by batch.

    Parameters
    ----------
    dataset : Dataset
        Data set with a length and items by number.
    indices : int64 tensor (n,)
        Items of the split, in order.
    collate : callable
        Items -> (inputs, targets).
    task : Task
        Loss, metric and distance.
    workers : int
        Number of processes that read items ahead; 0: this process reads them.
    identity : str, optional
        Name of the data, part of what decides results; None: changes of the data go unnoticed.
    """

    dataset: Dataset
    indices: Tensor
    collate: Collate = collate_pairs
    task: Task = CLASSIFICATION
    workers: int = 0
    identity: str | None = None
    normalisation: Normalisation | None = None  # mean and standard deviation for uint8 images
    raw: bool = False  # whether batches keep the types and values of the data set
    resident: ClassVar[bool] = False
    own_order: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"StreamedSplit({len(self)} examples, {describe(self.sample(1)[0])}, {self.task.name})"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: slice | Tensor) -> "StreamedSplit":
        """Return the split of the examples that a slice or a tensor of indices selects; nothing is read."""
        return replace(self, indices=self.indices[chosen])

    def normalised(self, normalisation: Normalisation | None) -> "StreamedSplit":
        """Return a copy of the split whose batches have the types that networks need, with images normalised."""
        return replace(self, normalisation=normalisation, raw=False)

    def sample(self, n: int) -> tuple[Any, Any]:
        """Return inputs and targets of the split's first ``n`` examples; the global random state does not change."""
        with torch.random.fork_rng(devices=[]):
            items = [self.dataset[int(place)] for place in self.indices[:n]]
        return self._ready(self.collate(items))

    def _ready(self, batch: Any) -> tuple[Any, Any]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(f"collate: returned a {type(batch).__name__}; allowed is (inputs, targets)")
        if self.raw:
            return batch[0], batch[1]
        return _prepared((batch[0], batch[1]), self.task, type(self.dataset).__name__, self.normalisation)

    def digest(self) -> str:
        """Return a digest (16 hex digits) of the split: length, first examples, and the user's name for the data."""
        return _first_digest(self)

    def batches(self, order: Tensor | None, sizes: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Yield batches (inputs, targets) of the lengths ``sizes``, in the order of the examples' indices ``order``.

        None: in the order of the examples.
        """
        places = self.indices if order is None else self.indices[order]
        groups = [part.tolist() for part in places[: sum(sizes)].split(list(sizes))]
        loader = DataLoader(self.dataset, batch_sampler=groups, collate_fn=self.collate, num_workers=self.workers)
        for batch in loader:
            yield self._ready(batch)


@dataclass(frozen=True, eq=False)
class LoaderSplit:
    """Data split whose examples come from a DataLoader, in the batches and the order of the loader.

    Parameters
    ----------
    loader : DataLoader
        Loader that yields (inputs, targets). Its data set has a length.
    task : Task
        Loss, metric and distance.
    identity : str, optional
        Name of the data, part of what decides results; None: changes of the data go unnoticed.
    """

    loader: DataLoader
    task: Task = CLASSIFICATION
    identity: str | None = None
    resident: ClassVar[bool] = False
    own_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        dataset = getattr(self.loader, "dataset", None)
        if not isinstance(self.loader, DataLoader) or not isinstance(dataset, Sized) or not len(self.loader):
            raise InputError(
                f"loader: a {type(self.loader).__name__} without batches or without a length; allowed is a DataLoader "
                "of a map-style data set, or of an iterable data set with __len__"
            )

    def __repr__(self) -> str:
        return f"LoaderSplit({len(self)} examples in {self.n_batches} batches, {self.task.name})"

    def __len__(self) -> int:
        size, sampler = self.loader.batch_size, self.loader.sampler
        n = len(sampler) if isinstance(sampler, Sized) else len(self.loader.dataset)  # type: ignore[arg-type]
        return n // size * size if self.loader.drop_last and size else n

    @property
    def n_batches(self) -> int:
        """Number of batches in one pass over the loader."""
        return len(self.loader)

    @property
    def shuffles(self) -> bool:
        """Whether the loader shuffles, so that two passes may have different orders."""
        sampler = self.loader.sampler if self.loader.batch_size is not None else None
        batch_sampler = getattr(self.loader, "batch_sampler", None)
        inner = getattr(batch_sampler, "sampler", sampler)
        return isinstance(inner, RandomSampler) or "random" in type(inner).__name__.lower()

    def sample(self, n: int) -> tuple[Any, Any]:
        """Return inputs and targets of the split's first ``n`` examples, or of all if there are fewer."""
        parts, count = [], 0
        for batch in self.batches(None, ()):
            parts.append(batch)
            count += n_examples(batch[0])
            if count >= n:
                break
        inputs, targets = (concatenate([part[side] for part in parts]) for side in (0, 1))
        return take(inputs, slice(n)), take(targets, slice(n))

    def digest(self) -> str:
        """Return a digest (16 hex digits) of the split: length, first examples, and the user's name for the data."""
        return _first_digest(self)

    def batches(self, order: Tensor | None, sizes: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """Yield the DataLoader's batches (inputs, targets); the arguments ``order`` and ``sizes`` have no effect."""
        for batch in self.loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise InputError(
                    f"loader: yields a {type(batch).__name__}; allowed is (inputs, targets); give it a collate_fn"
                )
            yield _prepared((batch[0], batch[1]), self.task, "loader", None)


def check_shared_examples(one: DataLoader, other: DataLoader, what: str) -> None:
    """Raise an :class:`InputError` if two DataLoaders, say for train and test, read the same items of a data set."""
    (first, first_items), (second, second_items) = (_items(loader.dataset) for loader in (one, other))
    if first is second and (shared := first_items & second_items):
        raise InputError(
            f"{what}: the loaders share {len(shared)} items of one data set; give disjoint ones, for example Subsets"
        )


def _items(dataset: Any) -> tuple[Any, set[int]]:
    """The data set under Subsets, and the numbers of its items."""
    items = list(range(len(dataset)))
    while isinstance(dataset, Subset):
        items = [int(dataset.indices[place]) for place in items]
        dataset = dataset.dataset
    return dataset, set(items)


def _first_digest(split: StreamedSplit | LoaderSplit) -> str:
    """Digest of a streamed split's length, its first examples and its identity; of random examples, without them."""
    sha = hashlib.sha256(f"{len(split)}|{split.identity}".encode())
    if not (isinstance(split, LoaderSplit) and split.shuffles):
        once, again = _sample_digest(split), _sample_digest(split)
        sha.update(once.encode() if once == again else b"random transforms")
    return sha.hexdigest()[:16]


def _sample_digest(split: StreamedSplit | LoaderSplit) -> str:
    """Digest of the first 8 examples; torch's random transforms draw from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        inputs, targets = split.sample(8)
    return content_digest((*tensors_of(inputs), *tensors_of(targets)))
