"""Class-balanced batches, for criteria that look at few images."""

import torch
from torch import Tensor

from masksearch.data import Split
from masksearch.utils.errors import InputError

__all__ = ["balanced_batch"]


def balanced_batch(split: Split, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``per_class`` images of every class, drawn without replacement: images (k, c, h, w) and labels (k,).

    Raises
    ------
    InputError
        If a class has fewer images than that.
    """
    chosen = []
    for label in split.targets.unique():
        members = (split.targets == label).nonzero().flatten()
        if len(members) < per_class:
            raise InputError(f"images per class: {per_class}, but class {int(label)} has only {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    index = torch.cat(chosen)
    index = index[torch.randperm(len(index), generator=generator)]
    return split.inputs[index], split.targets[index]
