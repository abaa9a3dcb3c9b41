"""Division of examples into the parts of a data set: training, validation and test, always the same way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masksearch.data import preparation
from masksearch.tasks import Task
from masksearch.utils.errors import InputError

__all__ = ["MAX_SEARCH", "MAX_VAL", "AnySplit", "Parts", "Sizes", "divided", "n_classes"]

AnySplit = Any
"""Data split of one of three classes with one protocol: Split (in memory), StreamedSplit, or LoaderSplit."""

MAX_VAL = 10_000
"""Default number of validation examples, or a fifth of the training examples if that is less."""
MAX_SEARCH = 2_000
"""Default number of search examples, or half of the validation examples if that is less."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of search, training and validation examples that a user asked for; None: the default number."""

    search: int | None
    train: int | None
    val: int | None

    def search_of(self, n_val: int) -> int:
        """Return how many of ``n_val`` validation examples are used for scoring masks in a search."""
        search = min(MAX_SEARCH, n_val // 2) if self.search is None else self.search
        _check_count("search_examples", search, n_val - 1, "one example of val has to be left for rest")
        return search


@dataclass(frozen=True)
class Parts:
    """Training, validation and test split of a data set, before images are normalised."""

    full: AnySplit  # the whole training set without val
    train: AnySplit
    val: AnySplit
    test: AnySplit


def divided(splits: Mapping[str, AnySplit], targets: Mapping[str, Any], task: Task, sizes: Sizes) -> Parts:
    """Divide given splits into training, validation and test examples; equal arguments give equal divisions.

    Parameters
    ----------
    splits : mapping
        ``train`` and ``test``, and ``val`` if it does not come from ``train``.
    targets : mapping
        Targets of the splits, by the same names.

    Raises
    ------
    InputError
        For more examples than there are, and for a training set of fewer than 10 examples without ``val``.
    """
    train, test, val = splits["train"], splits["test"], splits.get("val")
    order = preparation.fixed_order(targets["train"], len(train), task, "splits")
    if val is None:
        n_val = min(MAX_VAL, len(order) // 5)
        if n_val < 2:
            raise InputError(
                f"train has {len(order)} examples; at least 10 are needed, of which a fifth become val, or give val"
            )
        val, order = train[order[:n_val]], order[n_val:]
    else:
        # search is a prefix of val, so that val must not stay sorted by class.
        val = val[preparation.fixed_order(targets["val"], len(val), task, "val")]
    if sizes.val is not None:
        _check_count("val_examples", sizes.val, len(val), "the examples of the whole val")
        val = val[: sizes.val]
    sizes.search_of(len(val))
    full = train[order]
    n_train = len(full) if sizes.train is None else sizes.train
    _check_count("train_examples", n_train, len(full), "the training examples without those of val")
    return Parts(full, full[:n_train], val, test)


def n_classes(targets: Mapping[str, Any], task: Task, classes: int | None) -> int | None:
    """Return the number of classes of a classification task; for other tasks, return the argument ``classes``."""
    if task.classifies:
        return preparation.check_classes(targets, classes)
    return classes


def _check_count(what: str, count: int, most: int, why: str) -> None:
    if type(count) is not int or not 1 <= count <= most:
        raise InputError(f"{what} is {count}; allowed is 1 to {most} ({why})")
