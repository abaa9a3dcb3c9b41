"""Rules that follow channels through linear layers, convolutions, and products of two activations.

Only a product may combine channels: where its weight is zero, or the channel itself, the channel can be removed.
"""

import numpy as np
from torch import Tensor

from masksearch.spaces.aten_call import Call, unknown
from masksearch.spaces.coupling_labels import Coupling, Labels, filled_labels


def _unmaskable(coupling: Coupling, call: Call) -> None:
    """Fix all inputs of a product without a rule, or whose weight is no parameter (it is computed, or data)."""
    unknown(coupling, call)
    if not any(coupling.weight_name(tensor) for tensor in call.inputs if tensor.ndim > 1):
        coupling.unmaskable.append((call.where, f"{call.name} multiplies with a computed weight, not with a parameter"))


def matrix_product(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a linear layer: an input feature is removed with its row of the weight (in, out)."""
    *bias, data, weight = call.inputs
    scaled = call.arguments.get("alpha", 1) != 1 or call.arguments.get("beta", 1) != 1
    if scaled or any(vector.ndim != 1 for vector in bias):
        return _unmaskable(coupling, call)
    rows, made = contract(coupling, call, data, weight)
    if bias:
        made = coupling.tie([made, coupling.labels(bias[0])[0]], f"{call.where} makes channels that can't be removed")
    coupling.write(call.result, [rows, made])
    return None


def contract(coupling: Coupling, call: Call, left: Tensor, right: Tensor) -> tuple[Labels, Labels]:
    """Record that the factors of (..., n, k) x (..., k, m) lose the same positions of k; return labels of n and of m.

    A term vanishes if its weight is zero. Without a weight, one of its two activations must be zero wherever its
    channel is masked; the proof of the space tests that.
    """
    rows, terms = coupling.labels(left)[-2:]
    terms_of_right, columns = coupling.labels(right)[-2:]
    coupling.tie([terms, terms_of_right], f"{call.where} reads channels that can't be removed")
    names = [coupling.weight_name(factor) for factor in (left, right)]
    for name, made in zip(names, (rows, columns), strict=True):
        if name is not None:
            coupling.produce(name, made)
    return rows, columns


def convolution(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a convolution: an input channel is removed with its slice of the weight.

    The weight is (out, in / groups, *kernel), or (in, out / groups, *kernel) if transposed. In a depthwise convolution,
    channels that group g makes are removed with the one channel that it reads. In a grouped convolution every group
    must read and make equally many channels, so that all groups lose the same positions.
    """
    arguments = call.arguments
    data, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    groups, transposed = arguments["groups"], arguments["transposed"]
    name = coupling.weight_name(weight)
    if name is None or data.ndim != weight.ndim:
        return _unmaskable(coupling, call)
    channels, (outer, inner, *kernel) = coupling.labels(data), coupling.labels(weight)
    reads, makes = (f"{call.where} {does} channels that can't be removed" for does in ("reads", "makes"))
    for dim_labels in (*channels[2:], *kernel):
        coupling.fix(dim_labels, f"{call.where} slides over these positions")
    read, made = channels[1], inner if transposed else outer
    if groups == 1:
        coupling.produce(name, made)
        coupling.tie([read, outer if transposed else inner], reads)
    elif groups == data.shape[1]:
        coupling.produce(name, outer)
        multiplier = call.result.shape[1] // groups
        if transposed:
            one_each = coupling.tie([read, outer], reads)
            coupling.fix(inner, f"{call.where} makes the same number of channels of every channel")
            made = None if one_each is None else np.repeat(one_each, multiplier)
        else:
            made = coupling.tie([None if read is None else np.repeat(read, multiplier), made], reads)
    else:
        coupling.produce(name, made)
        if transposed:
            outer = coupling.tie([read, outer], reads)
            coupling.tie(list(filled_labels(outer, data.shape[1]).reshape(groups, -1)), reads)
            made = None if inner is None else np.tile(inner, groups)
        else:
            by_group = [None] if read is None else list(read.reshape(groups, -1))
            coupling.tie([*by_group, inner], reads)
            coupling.tie(list(filled_labels(made, call.result.shape[1]).reshape(groups, -1)), makes)
    if bias is not None:
        made = coupling.tie([made, coupling.labels(bias)[0]], makes)
    coupling.write(call.result, [channels[0], made, *[None] * len(kernel)])
    return None
