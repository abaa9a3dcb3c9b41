"""Preparation of examples: checks of inputs and targets, normalisation of images, and fixed splits."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masksearch.data.in_memory_split import Split, stratified_order
from masksearch.tasks import Task
from masksearch.utils.errors import InputError
from masksearch.utils.nested import describe, map_tensors, tensors_of
from masksearch.utils.seeds import numpy_generator

__all__ = [
    "SPLIT_SEED",
    "check_alike",
    "check_classes",
    "check_pair",
    "fixed_order",
    "image_statistics",
    "is_pixels",
    "own_tokens",
    "prepared_inputs",
    "statistics_of",
]

SPLIT_SEED = 0  # seed of all splits, a constant: results are comparable only on equal splits


def check_pair(part: str, pair: Any, task: Task) -> Split:
    """Check one argument, such as ``train``, that must be a pair (inputs, targets); return it as a data split.

    Raises
    ------
    InputError
        If it is no pair, inputs and targets differ in number, inputs are not finite, or targets don't fit the task.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(
            f"{part}: a {type(pair).__name__}; allowed is (inputs, targets); "
            "Data.from_datasets takes data sets, Data.from_loaders loaders"
        )
    inputs, targets = pair
    try:
        split = Split(
            inputs, own_tokens(inputs) if targets is None and task.name == "language_model" else targets, task
        )
    except InputError as error:
        raise InputError(f"{part}: {str(error).removeprefix('split: ')}") from None
    for tensor in tensors_of(split.inputs):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{part}: inputs hold NaN or infinity; allowed are finite numbers")
        if tensor.is_complex():
            raise InputError(f"{part}: inputs are {tensor.dtype}; allowed are real numbers")
    return split


def own_tokens(inputs: Any) -> Any:
    """Return a language model's targets: the input tokens themselves, with -100 where the attention mask is 0."""
    if isinstance(inputs, dict):
        tokens = inputs.get("input_ids")
        if tokens is None:
            raise InputError(f"targets: none, and inputs have {', '.join(inputs)}; 'input_ids' are needed")
        mask = inputs.get("attention_mask")
        return tokens.long() if mask is None else tokens.long().masked_fill(mask == 0, -100)
    return inputs


def check_classes(splits: Mapping[str, Tensor], classes: int | None) -> int:
    """Return the number of classes in the labels (n,) of all splits; raise an InputError for unsuitable labels.

    A class with one training example gives a warning: no split can hold it beside the training set.

    Parameters
    ----------
    splits : mapping
        Name of a split -> its classes, ``train`` among them.
    classes : int, optional
        Their number; without it, the training labels must be 0 to their maximum, without a gap.

    Raises
    ------
    InputError
        For gaps, fewer than two classes, labels outside the classes, and labels that no training example has.
    """
    known = splits["train"].unique().tolist()
    if classes is None:
        classes = max(known) + 1
        if missing := sorted(set(range(classes)) - set(known)):
            shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"train: labels run from {min(known)} to {max(known)} and none is {shown}; "
                "number the classes from 0 without gaps, or give classes="
            )
    if classes < 2:
        raise InputError(f"classes is {classes}; allowed is 2 or more")
    for part, labels in splits.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"{part}: labels run from {low} to {high}; allowed with {classes} classes is 0 to {classes - 1}"
            )
        if unknown := sorted(set(labels.unique().tolist()) - set(known)):
            raise InputError(f"{part}: labels {unknown} belong to classes that no training example has")
    single = (splits["train"].bincount(minlength=classes) == 1).nonzero().flatten().tolist()
    if single:
        warnings.warn(
            f"train has one example of class {', '.join(map(str, single[:5]))}: it is in one split only", stacklevel=4
        )
    return classes


def fixed_order(targets: Any, n: int, task: Task, name: str) -> Tensor:
    """Return a random order of ``n`` examples, the same at every call; for classification, classes are evenly mixed."""
    generator = numpy_generator(SPLIT_SEED, name)
    if task.classifies:
        return stratified_order(targets, generator)
    return torch.from_numpy(generator.permutation(n))


def is_pixels(inputs: Any) -> bool:
    """Return whether inputs are uint8 images (n, c, h, w), which need normalisation."""
    return isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 4


def image_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's variance and mean of pixels, per channel: float32 (n, c) each, for pixels in [0, 1]."""
    parts = [torch.var_mean(chunk.float().div_(255), dim=(2, 3), correction=0) for chunk in images.split(4096)]
    variances, means = (torch.cat([part[side] for part in parts]) for side in (0, 1))
    return variances, means


def statistics_of(variances: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, (c,), of all images' pixels, from each image's variance and mean.

    By the law of total variance: the result does not depend on the number of threads, and no float copy of the whole
    set is needed. A constant channel has deviation 1, so that it is only centred.
    """
    variances, means = variances.double(), means.double()
    std = (variances.mean(0) + means.var(0, correction=0)).sqrt().float()
    return means.mean(0).float(), torch.where(std > 1e-6, std, torch.ones_like(std))


def prepared_inputs(inputs: Any, mean: Tensor | None, std: Tensor | None) -> Any:
    """Return inputs in the form that networks need: normalised images, floats as float32, small integers as int64."""
    if is_pixels(inputs) and mean is not None and std is not None:
        return inputs.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
    return map_tensors(_in_usual_type, inputs)


def _in_usual_type(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.float()
    return tensor.long() if tensor.dtype in (torch.uint8, torch.int8, torch.int16) else tensor


def check_alike(part: str, inputs: Any, train_inputs: Any) -> None:
    """Raise an :class:`InputError` if a split's inputs differ from the training inputs in structure, shape or type."""
    kind, needed = describe(inputs), describe(train_inputs)
    if kind != needed:
        raise InputError(f"{part}: inputs are {kind}; {needed} is needed, as in train")
