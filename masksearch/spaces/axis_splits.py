"""Views that split channels into axes, (heads * head_dim) into (heads, head_dim), and the axis that is pruned.

A pruned network can only run such a view if the positions that stay form a rectangle: either whole heads go, or the
same positions of every head. The trace takes the last axis first, as a channel shuffle needs it. If all positions of
that axis turn out to be fixed, as in attention, the network is traced again with the next axis.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AxisSplit:
    """A view that splits channels into axes, such as heads and head_dim; masks can prune only one of these axes."""

    number: int  # among all runs of dimensions that views split, labelled or not
    owner: str  # name of the module whose forward calls the view
    sizes: tuple[int, ...]  # of the axes
    axis: int  # the axis that has labels
    labels: np.ndarray  # int64 (size of that axis,)
    source: np.ndarray  # int64 (product of sizes,), labels of the channels before the view


def next_axes(
    splits: Sequence[AxisSplit], fixed: Iterable[int], classes: np.ndarray, tried: Mapping[int, int]
) -> dict[int, int]:
    """Return the axes that masks may prune in the next trace: {number of a split such as (heads, head_dim): axis}.

    Parameters
    ----------
    splits : sequence of AxisSplit
        All splits of a trace, in the order in which they ran.
    fixed : iterable of int
        Classes of coupled labels that can't be removed.
    classes : int64 (n_labels,)
        Class of every label.
    tried : mapping
        Axes of this trace, {number of a split: axis}; splits without an entry have labels on their last axis. Axes are
        tried from the last to the first. If none is free, a negative number is taken, and not changed again.
    """
    unusable = np.array(sorted(fixed), dtype=np.int64)
    failing = [
        split for split in splits if tried.get(split.number, 0) >= 0 and np.isin(classes[split.labels], unusable).all()
    ]
    axes = dict(tried)
    for split in failing:
        later = [other for other in splits if other.number > split.number and np.isin(other.source, split.labels).all()]
        if later:  # the axes of the later splits go first: of (3 * heads * head_dim), 3 parts, then heads
            if not set(map(id, later)) & set(map(id, failing)):
                axes[split.number] = -1
        elif split.axis > 0:
            axes[split.number] = split.axis - 1
        else:  # mostly the axis of heads, not that of queries, keys and values, so that the reason is one for heads
            axes[split.number] = next((axis for axis, n in enumerate(split.sizes[:-1]) if n != 3), 0) - len(split.sizes)
    return axes
