"""Rules that follow channels through tensor operations: which are removed together, and which can't be removed.

torch decomposes all its functions and modules into ATen operations; one table maps the operations to the rules. An
operation that is not in the table fixes all labels of its inputs, so that a missing rule costs units, never exactness.
"""

from math import prod

import numpy as np
import torch

from masksearch.spaces import attention_rules as attention
from masksearch.spaces.coupling import Coupling, Labels, filled_labels
from masksearch.spaces.coupling_call import Call, Rule, unknown
from masksearch.spaces.coupling_products import convolution, matrix_product
from masksearch.spaces.coupling_resampling import fourier, pad, pixel_shuffle, pixel_unshuffle, pool
from masksearch.spaces.norm_rules import group_norm, repeat
from masksearch.spaces.recurrent_rules import pack
from masksearch.spaces.size_attributes import holds_sizes

__all__ = ["Call", "rule_of"]


# Operations that keep positions apart. Entries of one position must not depend on other positions of the same
# dimension: then masked and pruned networks compute the same values at the positions that stay.


def _elementwise(coupling: Coupling, call: Call) -> None:
    """Tie the inputs position by position; dimensions are matched from the last one, as in broadcasting."""
    result = call.outputs[0]
    labels: list[Labels] = []
    for dim, size in enumerate(result.shape):
        meeting = []
        for tensor in call.inputs:
            matched = dim - (result.ndim - tensor.ndim)
            if matched >= 0 and tensor.shape[matched] == size > 1:  # else the tensor is broadcast along this dimension
                meeting.append(coupling.labels(tensor)[matched])
        labels.append(
            coupling.tie(meeting, f"{call.name} in {call.where} joins channels to others that can't be removed")
        )
    coupling.write(result, labels)


def _same(coupling: Coupling, call: Call) -> None:
    coupling.write(call.result, coupling.labels(call.inputs[0]))
    coupling.mark_view(call.result, call.inputs[0])


def _as_strided(coupling: Coupling, call: Call) -> None:
    """Pass labels on if the result has the positions and strides of the source, as for channels_last tensors."""
    source, result = call.inputs[0], call.result
    same = source.shape == result.shape and source.storage_offset() == result.storage_offset()
    if same and all(
        size <= 1 or old == new for size, old, new in zip(source.shape, source.stride(), result.stride(), strict=True)
    ):
        _same(coupling, call)
    else:
        unknown(coupling, call)


def _new(coupling: Coupling, call: Call) -> None:
    """Give an empty tensor new labels: what is copied into parts of it, in circular padding for example, ties them."""
    coupling.write(call.result, [coupling.new_labels(size) for size in call.result.shape])


def _permute(coupling: Coupling, call: Call) -> None:
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


def _view(coupling: Coupling, call: Call) -> None:
    """Reshape: cut both shapes into the shortest runs of equal product; within a run, flatten, then unflatten.

    A view keeps the order of the entries, so that runs of equal product hold the same entries and can be treated one
    by one: (2, 8, 3, 3) -> (2, 72) is the run (2) -> (2) and the run (8, 3, 3) -> (72).
    """
    source, result = call.inputs[0], call.result
    reason = f"{call.name} in {call.where} mixes channels with other positions"
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


def _expand(coupling: Coupling, call: Call) -> None:
    source, result = call.inputs[0], call.result
    new = result.ndim - source.ndim
    labels = [None] * new + coupling.labels(source)
    for dim, size in enumerate(result.shape):
        if size > 1 and (dim < new or source.shape[dim - new] == 1):
            labels[dim] = coupling.free(size)  # copies of one position
    coupling.write(result, labels)
    coupling.mark_view(result, source)


def _constant(coupling: Coupling, call: Call) -> None:
    """A tensor of equal entries: any of its positions can go with the channels that it is joined to."""
    coupling.write(call.result, [coupling.free(size) if size > 1 else None for size in call.result.shape])


def _unsqueeze(coupling: Coupling, call: Call) -> None:
    labels = coupling.labels(call.inputs[0])
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)
    coupling.mark_view(call.result, call.inputs[0])


def _squeeze(coupling: Coupling, call: Call) -> None:
    source = call.inputs[0]
    removed = {dim for dim in call.dims("dim", source.ndim) if source.shape[dim] == 1}
    coupling.write(call.result, [labels for dim, labels in enumerate(coupling.labels(source)) if dim not in removed])
    coupling.mark_view(call.result, source)


# Operations that address positions by number. A smaller network would find other channels at the same numbers, so
# that the dimension is fixed, or, where equal parts must stay equal, the parts are tied to each other.


def _index(coupling: Coupling, call: Call) -> None:
    """Slices, selections and rolls: fix the dimensions that they name; a slice of everything changes nothing."""
    source = call.inputs[0]
    indexed, labels = call.dims("dim" if "dim" in call.arguments else "dims", source.ndim), coupling.labels(source)
    if call.outputs[0].shape == source.shape and call.name == "slice":
        return _same(coupling, call)
    if call.name == "slice" and source.ndim == 1 and 3 * call.result.numel() == source.numel():
        return attention.third(coupling, call)
    for dim in indexed:
        coupling.fix(labels[dim], f"{call.name} in {call.where} selects channels by number")
        labels[dim] = None
    for result in call.outputs:
        coupling.write(result, labels if result.ndim == source.ndim else _without(indexed, labels))
    return None


def _select(coupling: Coupling, call: Call) -> None:
    """Pass on the labels of one layer of a stack of states, which need not be tied to those of the other layers."""
    part = (
        coupling.part(call.inputs[0], call.arguments["index"]) if call.dims("dim", call.inputs[0].ndim) == {0} else None
    )
    if part is None:
        return _index(coupling, call)
    return coupling.write(call.result, part)


def _without(dims: set[int], labels: list[Labels]) -> list[Labels]:
    return [dim_labels for dim, dim_labels in enumerate(labels) if dim not in dims]


def _split(coupling: Coupling, call: Call) -> None:
    """Tie parts of equal size, which must lose the same positions.

    Parts of different sizes are independent if the sizes may come from attributes of a module; else they are fixed.
    """
    source = call.inputs[0]
    [dim] = call.dims("dim", source.ndim)
    labels = coupling.labels(source)
    along = labels[dim]
    parts: list[Labels] = [None] * len(call.outputs)
    if along is not None:
        reason = f"{call.name} in {call.where} selects channels by number"
        sizes = [part.shape[dim] for part in call.outputs]
        pieces = np.split(along, np.cumsum(sizes)[:-1])
        if len(set(sizes)) == 1:
            parts = [coupling.tie(pieces, reason)] * len(pieces)
        elif call.where.startswith("MultiheadAttention"):  # weights of queries, and of keys and values together
            return attention.split_projections(coupling, call, dim)
        elif holds_sizes(call, sizes):
            parts = list(pieces)
        else:
            coupling.fix(along, reason)
    for part, part_labels in zip(call.outputs, parts, strict=True):
        coupling.write(part, [*labels[:dim], part_labels, *labels[dim + 1 :]])
        coupling.mark_view(part, source)
    return None


def _concatenate(coupling: Coupling, call: Call) -> None:
    result = call.result
    parts = [part for part in call.inputs if part.ndim == result.ndim]  # cat skips empty vectors
    [along] = call.dims("dim", result.ndim)
    part_labels = [coupling.labels(part) for part in parts]
    reason = f"{call.name} in {call.where} joins channels to others that can't be removed"
    labels = [
        None if dim == along else coupling.tie([each[dim] for each in part_labels], reason)
        for dim in range(result.ndim)
    ]
    joined = [None if coupling.is_free(each[along]) else each[along] for each in part_labels]  # constants stay
    if any(each is not None for each in joined):
        labels[along] = np.concatenate(
            [filled_labels(each, part.shape[along]) for each, part in zip(joined, parts, strict=True)]
        )
    coupling.write(result, labels)


def _stack(coupling: Coupling, call: Call) -> None:
    parts = [coupling.labels(part) for part in call.inputs]
    reason = f"{call.name} in {call.where} joins channels to others that can't be removed"
    labels = [coupling.tie(meeting, reason) for meeting in zip(*parts, strict=True)]
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)


def _gate(coupling: Coupling, call: Call) -> None:
    """Tie both halves of the channels: the first half is multiplied by a function of the second."""
    [dim] = call.dims("dim", call.result.ndim)
    labels = coupling.labels(call.inputs[0])
    along = labels[dim]
    if along is not None:
        labels[dim] = coupling.tie(np.split(along, 2), f"{call.name} in {call.where} selects channels by number")
    coupling.write(call.result, labels)


# Operations that combine the positions of a dimension. A removed channel would change their result, so that such a
# dimension is fixed. Only products with a weight may combine channels: a zero slice of the weight removes the channel.


def _reduce(coupling: Coupling, call: Call) -> None:
    source = call.inputs[0]
    dims, labels = call.dims("dim", source.ndim), coupling.labels(source)
    averages = call.where.startswith("MultiheadAttention")  # over heads, and most callers ignore the result
    for dim in dims:
        reason = f"{call.name} in {call.where} reduces over channels"
        if averages and call.name == "mean":
            coupling.fix_if_used(call.result, labels[dim], reason)
        else:
            coupling.fix(labels[dim], reason)
    for result in call.outputs:
        if result.shape == source.shape:  # a softmax, for example
            coupling.write(result, labels)
        elif result.ndim == source.ndim:
            coupling.write(result, [None if dim in dims else dim_labels for dim, dim_labels in enumerate(labels)])
        else:
            coupling.write(result, _without(dims, labels))


def _vector_norm(coupling: Coupling, call: Call) -> None:
    """Let channels go that are zero where a mask removes them: they add nothing to a sum of squares.

    The proof of the space tests that they are zero.
    """
    source, result = call.inputs[0], call.result
    if call.arguments.get("ord", 2) != 2:
        return _reduce(coupling, call)
    dims, labels = call.dims("dim", source.ndim), coupling.labels(source)
    kept = [None if dim in dims else dim_labels for dim, dim_labels in enumerate(labels)]
    coupling.write(result, kept if result.ndim == source.ndim else _without(dims, labels))
    return None


def _batch_norm(coupling: Coupling, call: Call) -> None:
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    meeting = [labels[1], *(coupling.labels(vector)[0] for vector in vectors)]
    labels[1] = coupling.tie(meeting, f"{call.where} normalises channels that can't be removed")
    coupling.write(call.outputs[0], labels)


def _normalise_over(coupling: Coupling, call: Call) -> None:
    """LayerNorm: fix the normalised dimensions, because each channel changes the shared statistics."""
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    over = len(call.arguments["normalized_shape"])
    reason = f"{call.where} normalises over channels"
    for dim_labels in labels[source.ndim - over :]:
        coupling.fix(dim_labels, reason)
    for vector in vectors:
        coupling.fix_all(vector, reason)
    coupling.write(call.outputs[0], labels)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(["alias", "clone", "contiguous", "detach", "lift_fresh", "to_copy"], _same),
    "as_strided": _as_strided,
    "new_empty": _new,
    **dict.fromkeys(["permute", "t", "transpose"], _permute),
    **dict.fromkeys(["reshape_alias", "unsafe_view", "view"], _view),
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(["flip", "index_select", "roll", "slice", "unbind"], _index),
    "select": _select,
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split"], _split),
    "cat": _concatenate,
    "stack": _stack,
    "glu": _gate,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "constant_pad_nd": pad,
    **dict.fromkeys(["fft_c2c", "fft_c2r", "fft_r2c"], fourier),
    **dict.fromkeys(["amax", "amin", "argmax", "argmin", "cumsum", "log_softmax", "logsumexp", "max", "mean"], _reduce),
    **dict.fromkeys(["min", "safe_softmax", "softmax", "std", "sum", "var", "var_mean"], _reduce),
    **dict.fromkeys([f"avg_pool{n}d" for n in "123"], pool),
    **dict.fromkeys([f"adaptive_avg_pool{n}d" for n in "123"], pool),
    **dict.fromkeys([f"adaptive_max_pool{n}d" for n in "123"], pool),
    **dict.fromkeys([f"max_pool{n}d_with_indices" for n in "123"], pool),
    **dict.fromkeys([f"upsample_nearest{n}d" for n in "123"], pool),
    **dict.fromkeys([f"upsample_nearest_exact{n}d" for n in "123"], pool),
    **dict.fromkeys(["upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"], pool),
    **dict.fromkeys([f"reflection_pad{n}d" for n in "123"], pool),
    **dict.fromkeys([f"replication_pad{n}d" for n in "123"], pool),
    **dict.fromkeys(["native_batch_norm", "native_batch_norm_legit", "batch_norm_with_update"], _batch_norm),
    "native_layer_norm": _normalise_over,
    "native_group_norm": group_norm,
    "repeat": repeat,
    "embedding": attention.embedding,
    "index": attention.index,
    "pack_padded_sequence": pack,
    **dict.fromkeys(["addmm", "mm"], matrix_product),
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(["bmm", "baddbmm"], attention.batched_product),
    "scaled_dot_product_flash_attention_for_cpu": attention.scaled_dot_product_attention,
    **dict.fromkeys(["zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"], _constant),
    **dict.fromkeys(["full", "full_like", "new_full"], _constant),
    "convolution": convolution,
    # These act on every entry alone; torch does not tag them as pointwise.
    **dict.fromkeys(
        ["copy", "fill", "zero", "hardswish", "hardtanh", "leaky_relu", "prelu_kernel", "softplus", "elu"], _elementwise
    ),
}


def rule_of(call: Call) -> Rule:
    """Return the rule that follows channels from an ATen operation's inputs to its results.

    Operations outside the table: ``_elementwise`` if torch tags the operation as pointwise, else ``unknown``.
    """
    elementwise = torch.Tag.pointwise in call.function.tags
    return _RULES.get(call.name, _elementwise if elementwise else unknown)
