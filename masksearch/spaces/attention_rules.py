"""Rules for attention: whole heads can be removed, but no positions within a head or in the sequence.

The queries, keys and values of a head must go together, and its output with them. With grouped queries, several query
heads share the labels of one key-value head.
"""

import numpy as np
import torch
from torch import Tensor

from masksearch.spaces.aten_call import Call
from masksearch.spaces.coupling_labels import Coupling, Labels
from masksearch.spaces.linear_conv_rules import contract


def scaled_dot_product_attention(coupling: Coupling, call: Call) -> None:
    """Coupling rule for fused attention: each head's query, key and value are removed together.

    The shapes are query (..., heads, l, e), key (..., heads, s, e) and value (..., heads, s, v).
    """
    arguments = call.arguments
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    mask = arguments.get("attn_mask", arguments.get("attn_bias"))
    combines = f"attention in {call.where} combines these positions"
    labels = [coupling.labels(tensor) for tensor in (query, key, value)]
    for tensor_labels in labels:
        for dim_labels in tensor_labels[-2:]:
            coupling.fix(dim_labels, combines)
    result = call.outputs[0]
    batch: list[Labels] = []
    for dim, size in enumerate(query.shape[:-2]):
        meeting = [
            _repeated(each[dim], size // tensor.shape[dim])
            for tensor, each in zip((query, key, value), labels, strict=True)
            if tensor.shape[dim] > 1 or size == 1
        ]
        if isinstance(mask, Tensor):
            at = dim - (query.ndim - mask.ndim)
            if at >= 0 and mask.shape[at] == size > 1:
                meeting.append(coupling.labels(mask)[at])
        batch.append(coupling.tie(meeting, f"attention in {call.where} joins heads to others that can't be removed"))
    coupling.write(result, [*batch, None, None])
    macs = result.numel() * key.shape[-2] + query.numel() * key.shape[-2]  # of both products
    _add_product(coupling, batch, macs)


def _repeated(labels: Labels, times: int) -> Labels:
    return labels if labels is None or times == 1 else np.repeat(labels, times)


def batched_product(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a batched product (b, n, k) x (b, k, m): positions of b and n can be removed one by one.

    In one product, and in products with a weight, m can be pruned, too. With a batch of several products, heads for
    example, k and m (the head_dim of the values) are fixed, so that whole heads are the units. In one product, and in
    products with a weight, the terms k are tied.
    """
    left, right = call.inputs[-2:]
    reason = f"{call.described} combines these positions"
    joins = f"{call.described} joins channels to others that can't be removed"
    batches = [coupling.labels(factor)[0] for factor in (left, right)]
    if left.shape[0] == 1 or coupling.weight_name(left) or coupling.weight_name(right):
        rows, columns = contract(coupling, call, left, right)
    else:
        (_, rows, combined), (_, other_combined, columns) = coupling.labels(left), coupling.labels(right)
        for labels in (combined, other_combined, columns):
            coupling.fix(labels, reason)
        columns = None
    meeting: list[list[Labels]] = [batches, [rows], [columns]]
    for added in call.inputs[:-2]:
        for dim, labels in enumerate(coupling.labels(added)):
            at = dim + 3 - added.ndim
            if added.shape[dim] == call.result.shape[at] > 1:
                meeting[at].append(labels)
    coupling.write(call.result, [coupling.tie(each, joins) for each in meeting])


def count_product(coupling: Coupling, call: Call, macs: int) -> None:
    """Record the MACs of a product of two activations; masks that prune a dimension of the result reduce these MACs."""
    _add_product(coupling, coupling.labels(call.outputs[0]), macs)


def _add_product(coupling: Coupling, labels: list[Labels], macs: int) -> None:
    coupling.products.append(([dim_labels for dim_labels in labels if dim_labels is not None], macs))


def embedding(coupling: Coupling, call: Call) -> None:
    """Coupling rule for an embedding lookup: each feature of the table (n, features) can be removed alone."""
    table, indices = call.arguments["weight"], call.arguments["indices"]
    rows, features = coupling.labels(table)
    coupling.fix(rows, f"{call.where} selects rows by number")
    name = coupling.weight_name(table)
    if name is not None:
        coupling.produce(name, features)
    coupling.write(call.result, [*coupling.labels(indices), features])


def index(coupling: Coupling, call: Call) -> None:
    """Coupling rule for ``table[numbers]``: no position of an indexed dimension can be removed."""
    source, indices = call.arguments["self"], call.arguments["indices"]
    labels = coupling.labels(source)
    indexed = [dim for dim, numbers in enumerate(indices) if numbers is not None]
    for dim in indexed:
        coupling.fix(labels[dim], f"{call.described} selects channels by number")
    for numbers in indices:
        if numbers is not None:
            coupling.fix_all(numbers, f"{call.described} selects channels by number")
    first, last = indexed[0], indexed[-1]
    kept = labels[:first], labels[last + 1 :]
    new = call.result.ndim - len(kept[0]) - len(kept[1])
    if len(indexed) != last - first + 1 or new < 0 or any(indices[dim].dtype == torch.bool for dim in indexed):
        for dim_labels in labels:
            coupling.fix(dim_labels, f"{call.described} selects channels by number")
        return coupling.write(call.result, [None] * call.result.ndim)
    return coupling.write(call.result, [*kept[0], *[None] * new, *kept[1]])


def split_projections(coupling: Coupling, call: Call, dim: int) -> None:
    """Coupling rule for splitting a packed projection: each head's query, key and value are removed together.

    The parts have sizes e (queries) and 2 * e (keys and values).
    """
    source = call.inputs[0]
    labels = coupling.labels(source)
    along, sizes = labels[dim], [part.shape[dim] for part in call.outputs]
    size = min(sizes)
    if along is None or any(each % size for each in sizes):
        coupling.fix(along, f"{call.described} selects channels by number")
        along = None
    else:
        along = coupling.tie(np.split(along, len(along) // size), f"{call.where} joins heads that can't be removed")
    for part, each in zip(call.outputs, sizes, strict=True):
        labels[dim] = along if along is None else np.tile(along, each // size)
        coupling.write(part, labels)
        coupling.mark_view(part, source)


def third(coupling: Coupling, call: Call) -> None:
    """Coupling rule for the query, key or value third of a packed bias: all thirds lose the same positions."""
    [labels] = coupling.labels(call.inputs[0])
    if labels is not None:
        labels = coupling.tie(np.split(labels, 3), f"{call.described} selects channels by number")
    coupling.write(call.result, [labels])
    coupling.mark_view(call.result, call.inputs[0])
