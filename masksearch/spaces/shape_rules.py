"""Rules that follow channels through operations that change a tensor's shape or strides and keep its entries."""

from math import prod

import numpy as np

from masksearch.spaces.aten_call import Call, unknown
from masksearch.spaces.coupling_labels import Coupling, Labels


def same_shape(coupling: Coupling, call: Call) -> None:
    """Coupling rule for operations that leave every entry in place, such as a copy: the channels are the same."""
    coupling.write(call.result, coupling.labels(call.inputs[0]))
    coupling.mark_view(call.result, call.inputs[0])


def as_strided(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``as_strided``: the result has the same channels if shape and strides do not change."""
    source, result = call.inputs[0], call.result
    same = source.shape == result.shape and source.storage_offset() == result.storage_offset()
    if same and all(
        size <= 1 or old == new for size, old, new in zip(source.shape, source.stride(), result.stride(), strict=True)
    ):
        same_shape(coupling, call)
    else:
        unknown(coupling, call)


def new_tensor(coupling: Coupling, call: Call) -> None:
    """Coupling rule for an empty tensor: its channels are removed with those that are copied into it later."""
    coupling.write(call.result, [coupling.new_labels(size) for size in call.result.shape])


def permute(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a permutation of dimensions: the result has the same channels, in other dimensions."""
    arguments, ndim = call.arguments, call.result.ndim
    if "dims" in arguments:
        order = [dim % ndim for dim in arguments["dims"]]
    else:
        order = list(range(ndim))
        first, second = (arguments["dim0"], arguments["dim1"]) if "dim0" in arguments else (0, ndim - 1)  # aten::t
        if ndim:
            order[first], order[second] = order[second], order[first]
    labels = coupling.labels(call.inputs[0])
    coupling.write(call.result, [labels[dim] for dim in order])
    coupling.mark_view(call.result, call.inputs[0])


def view(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a reshape: each run of dimensions that changes is flattened first, then unflattened.

    Both shapes are cut into the shortest runs of equal product.
    A view keeps the order of the entries, so that runs of equal product hold the same entries and can be treated one
    by one: (2, 8, 3, 3) -> (2, 72) is the run (2) -> (2) and the run (8, 3, 3) -> (72).
    """
    source, result = call.inputs[0], call.result
    reason = f"{call.described} mixes channels with other positions"
    source_labels = coupling.labels(source)
    if source.numel() == 0:
        return unknown(coupling, call)
    labels: list[Labels] = [None] * result.ndim
    source_dims = [dim for dim, size in enumerate(source.shape) if size > 1]
    result_dims = [dim for dim, size in enumerate(result.shape) if size > 1]
    while source_dims:
        before, after = [source_dims.pop(0)], [result_dims.pop(0)]
        while (left := prod(source.shape[d] for d in before)) != (right := prod(result.shape[d] for d in after)):
            if left < right:
                before.append(source_dims.pop(0))
            else:
                after.append(result_dims.pop(0))
        flat = _flatten(coupling, [source.shape[d] for d in before], [source_labels[d] for d in before], reason)
        sizes = [result.shape[d] for d in after]
        # Features (n, c * h * w) -> (n, c, h, w); three parts are mostly queries, keys and values.
        to_maps = source.ndim == 2 and result.ndim > 3 and after[0] == 1 and sizes[0] != 3
        axes = _unflatten(coupling, call, sizes, flat, reason, to_maps)
        for dim, dim_labels in zip(after, axes, strict=True):
            labels[dim] = dim_labels
    coupling.write(result, labels)
    coupling.mark_view(result, source)
    return None


def _flatten(coupling: Coupling, sizes: list[int], labels: list[Labels], reason: str) -> Labels:
    """Repeat the labels of the one labelled dimension over the entries of the others.

    Two labelled dimensions are fixed: each entry would have two labels, and there is space for one.
    """
    labelled = [axis for axis, axis_labels in enumerate(labels) if axis_labels is not None]
    if len(labelled) > 1:  # axes that can't shrink anyway need no labels, and all copies of a channel go with it
        labelled = [axis for axis in labelled if not coupling.all_fixed(labels[axis])]
        if len(made := [axis for axis in labelled if not coupling.is_free(labels[axis])]) == 1:
            for axis in set(labelled) - set(made):
                coupling.fix(labels[axis], reason)
            labelled = made
    if len(labelled) != 1:
        for axis_labels in labels:
            coupling.fix(axis_labels, reason)
        return None
    shape = [size if axis == labelled[0] else 1 for axis, size in enumerate(sizes)]
    return np.broadcast_to(labels[labelled[0]].reshape(shape), sizes).flatten()  # type: ignore[union-attr]


def _unflatten(
    coupling: Coupling, call: Call, sizes: list[int], labels: Labels, reason: str, to_maps: bool
) -> list[Labels]:
    """Give the labels to the axis whose positions each hold one label; without such an axis, tie groups of channels.

    Groups of channels occur in a channel shuffle, (n, groups * c) -> (n, groups, c). There, all groups must lose the
    same positions, because only then do the entries that stay form a rectangle. In attention, whole groups go, the
    heads: see :mod:`masksearch.spaces.axis_splits`. With ``to_maps``, the first axis is that of the channels, and all
    features of one channel are tied.
    """
    coupling.views += 1
    if labels is None:
        return [None] * len(sizes)
    block = labels.reshape(sizes)
    result: list[Labels] = [None] * len(sizes)
    for axis in range(len(sizes)):
        rows = np.moveaxis(block, axis, 0).reshape(sizes[axis], -1)
        if (rows == rows[:, :1]).all():
            result[axis] = rows[:, 0]
            return result
    if to_maps:
        result[0] = coupling.tie(list(block.reshape(sizes[0], -1).T), reason)
        return result
    return coupling.split(call.running[-1][0] if call.running else "", sizes, labels, reason)


def expand(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``expand``: a copy is removed with the positions that later operations combine with it."""
    source, result = call.inputs[0], call.result
    new = result.ndim - source.ndim
    labels = [None] * new + coupling.labels(source)
    for dim, size in enumerate(result.shape):
        if size > 1 and (dim < new or source.shape[dim - new] == 1):
            labels[dim] = coupling.free(size)  # copies of one position
    coupling.write(result, labels)
    coupling.mark_view(result, source)


def constant_tensor(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a tensor of equal entries: each is removed with what later operations combine with it."""
    coupling.write(call.result, [coupling.free(size) if size > 1 else None for size in call.result.shape])


def unsqueeze(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``unsqueeze``: nothing can be removed from the new dimension of size 1."""
    labels = coupling.labels(call.inputs[0])
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)
    coupling.mark_view(call.result, call.inputs[0])


def squeeze(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``squeeze``, which drops dimensions of size 1: the other dimensions keep their channels."""
    source = call.inputs[0]
    removed = {dim for dim in call.dims("dim", source.ndim) if source.shape[dim] == 1}
    coupling.write(call.result, [labels for dim, labels in enumerate(coupling.labels(source)) if dim not in removed])
    coupling.mark_view(call.result, source)


def repeat(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``repeat``: all copies of a dimension lose the same positions."""
    source, repeats = call.inputs[0], call.arguments["repeats"]
    labels: list[Labels] = [*[None] * (len(repeats) - source.ndim), *coupling.labels(source)]
    coupling.write(
        call.result, [None if each is None else np.tile(each, n) for each, n in zip(labels, repeats, strict=True)]
    )
    coupling.mark_view(call.result, source)
