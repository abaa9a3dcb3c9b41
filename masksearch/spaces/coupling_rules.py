"""Rules that follow channels through tensor operations: which are removed together, and which can't be removed.

torch decomposes all its functions and modules into ATen operations; one table maps the operations to the rules. An
operation that is not in the table fixes all labels of its inputs, so that a missing rule costs units, never exactness.
"""

import numpy as np
import torch

from masksearch.spaces import attention_rules as attention
from masksearch.spaces import shape_rules as shapes
from masksearch.spaces.aten_call import Call, Rule, unknown
from masksearch.spaces.channel_attributes import holds_sizes
from masksearch.spaces.coupling_labels import Coupling, Labels, filled_labels
from masksearch.spaces.linear_conv_rules import convolution, matrix_product
from masksearch.spaces.norm_rules import batch_norm, group_norm, layer_norm
from masksearch.spaces.recurrent_rules import pack
from masksearch.spaces.resampling_rules import fourier, pad, pixel_shuffle, pixel_unshuffle, pool

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
        labels.append(coupling.tie(meeting, f"{call.described} joins channels to others that can't be removed"))
    coupling.write(result, labels)


# Operations that address positions by number. A smaller network would find other channels at the same numbers, so
# that the dimension is fixed, or, where equal parts must stay equal, the parts are tied to each other.


def _index(coupling: Coupling, call: Call) -> None:
    """Slices, selections and rolls: fix the dimensions that they name; a slice of everything changes nothing."""
    source = call.inputs[0]
    indexed, labels = call.dims("dim" if "dim" in call.arguments else "dims", source.ndim), coupling.labels(source)
    if call.outputs[0].shape == source.shape and call.name == "slice":
        return shapes.same_shape(coupling, call)
    if call.name == "slice" and source.ndim == 1 and 3 * call.result.numel() == source.numel():
        return attention.third(coupling, call)
    for dim in indexed:
        coupling.fix(labels[dim], f"{call.described} selects channels by number")
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
        reason = f"{call.described} selects channels by number"
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
    reason = f"{call.described} joins channels to others that can't be removed"
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
    reason = f"{call.described} joins channels to others that can't be removed"
    labels = [coupling.tie(meeting, reason) for meeting in zip(*parts, strict=True)]
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)


def _gate(coupling: Coupling, call: Call) -> None:
    """Tie both halves of the channels: the first half is multiplied by a function of the second."""
    [dim] = call.dims("dim", call.result.ndim)
    labels = coupling.labels(call.inputs[0])
    along = labels[dim]
    if along is not None:
        labels[dim] = coupling.tie(np.split(along, 2), f"{call.described} selects channels by number")
    coupling.write(call.result, labels)


# Operations that combine the positions of a dimension. A removed channel would change their result, so that such a
# dimension is fixed. Only products with a weight may combine channels: a zero slice of the weight removes the channel.


def _reduce(coupling: Coupling, call: Call) -> None:
    source = call.inputs[0]
    dims, labels = call.dims("dim", source.ndim), coupling.labels(source)
    averages = call.where.startswith("MultiheadAttention")  # over heads, and most callers ignore the result
    for dim in dims:
        reason = f"{call.described} reduces over channels"
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


_RULES: dict[str, Rule] = {
    **dict.fromkeys(["alias", "clone", "contiguous", "detach", "lift_fresh", "to_copy"], shapes.same_shape),
    "as_strided": shapes.as_strided,
    "new_empty": shapes.new_tensor,
    **dict.fromkeys(["permute", "t", "transpose"], shapes.permute),
    **dict.fromkeys(["reshape_alias", "unsafe_view", "view"], shapes.view),
    "expand": shapes.expand,
    "unsqueeze": shapes.unsqueeze,
    "squeeze": shapes.squeeze,
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
    **dict.fromkeys(["native_batch_norm", "native_batch_norm_legit", "batch_norm_with_update"], batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "repeat": shapes.repeat,
    "embedding": attention.embedding,
    "index": attention.index,
    "pack_padded_sequence": pack,
    **dict.fromkeys(["addmm", "mm"], matrix_product),
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(["bmm", "baddbmm"], attention.batched_product),
    "scaled_dot_product_flash_attention_for_cpu": attention.scaled_dot_product_attention,
    **dict.fromkeys(["zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"], shapes.constant_tensor),
    **dict.fromkeys(["full", "full_like", "new_full"], shapes.constant_tensor),
    "convolution": convolution,
    # These act on every entry alone; torch does not tag them as pointwise.
    **dict.fromkeys(
        ["copy", "fill", "zero", "hardswish", "hardtanh", "leaky_relu", "prelu_kernel", "softplus", "elu"], _elementwise
    ),
}


def rule_of(call: Call) -> Rule:
    """Return the coupling rule of an ATen operation, which records the channels that are removed together.

    Operations outside the table: ``_elementwise`` if torch tags the operation as pointwise, else ``unknown``.
    """
    elementwise = torch.Tag.pointwise in call.function.tags
    return _RULES.get(call.name, _elementwise if elementwise else unknown)
