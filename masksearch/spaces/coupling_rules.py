"""What each operation does with the channels of its inputs: one rule per kind, one table from operation to rule.

The operations are those of ATen, into which every function and module of torch falls apart. An operation that is not in
the table fixes everything it sees, so that a missing rule costs units and never exactness.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from masksearch.spaces.coupling import FIXED, Coupling, Labels

__all__ = ["Call", "rule_of"]


@dataclass(frozen=True)
class Call:
    """One operation that ran: its arguments by name, its results, and the module that ran it."""

    function: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    where: str  # "LayerNorm 'encoder.ln'"

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Every argument by the name in the operation's schema, defaults included."""
        names = [argument.name for argument in self.function._schema.arguments]
        defaults = {one.name: one.default_value for one in self.function._schema.arguments if one.has_default_value()}
        return defaults | dict(zip(names, self.args, strict=False)) | self.kwargs

    @property
    def name(self) -> str:
        """Name without namespace, overload and the underscores of its variants: ``add_.Tensor`` is ``add``."""
        return self.function._schema.name.split("::")[1].strip("_")

    @property
    def inputs(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        """Every tensor among the results."""
        return [leaf for leaf in tree_leaves(self.result) if isinstance(leaf, Tensor)]

    def dims(self, name: str, ndim: int) -> set[int]:
        """The dimensions that an argument names, counted from 0; None or empty means all."""
        value = self.arguments.get(name)
        if value is None or value == []:
            return set(range(ndim))
        return {dim % max(ndim, 1) for dim in (value if isinstance(value, list | tuple) else [value])}


Rule = Callable[[Coupling, Call], None]


def _unknown(coupling: Coupling, call: Call) -> None:
    for tensor in call.inputs:
        coupling.fix_all(tensor, f"{call.name} in {call.where} is an operation that channels can't be followed through")


def _elementwise(coupling: Coupling, call: Call) -> None:
    result = call.outputs[0]
    labels: list[Labels] = []
    for dim, size in enumerate(result.shape):
        meeting = []
        for tensor in call.inputs:
            own = dim - (result.ndim - tensor.ndim)
            if own >= 0 and tensor.shape[own] == size > 1:  # else it is broadcast along this dimension
                meeting.append(coupling.labels(tensor)[own])
        labels.append(
            coupling.tie(meeting, f"{call.name} in {call.where} joins them to channels that can't be removed")
        )
    coupling.write(result, labels)


def _same(coupling: Coupling, call: Call) -> None:
    coupling.write(call.result, coupling.labels(call.inputs[0]))
    coupling.mark_view(call.result, call.inputs[0])


def _permute(coupling: Coupling, call: Call) -> None:
    given, ndim = call.arguments, call.result.ndim
    if "dims" in given:
        order = [dim % ndim for dim in given["dims"]]
    else:
        order = list(range(ndim))
        one, other = (given["dim0"], given["dim1"]) if "dim0" in given else (0, ndim - 1)  # aten::t has no arguments
        if ndim:
            order[one], order[other] = order[other], order[one]
    labels = coupling.labels(call.inputs[0])
    coupling.write(call.result, [labels[dim] for dim in order])
    coupling.mark_view(call.result, call.inputs[0])


def _view(coupling: Coupling, call: Call) -> None:
    """Cut both shapes into the shortest runs of equal product; within a run, flatten, then unflatten."""
    source, result = call.inputs[0], call.result
    reason = f"{call.name} in {call.where} mixes them with other channels"
    given = coupling.labels(source)
    if source.numel() == 0:
        return _unknown(coupling, call)
    labels: list[Labels] = [None] * result.ndim
    mine = [dim for dim, size in enumerate(source.shape) if size > 1]
    others = [dim for dim, size in enumerate(result.shape) if size > 1]
    while mine:
        run, out = [mine.pop(0)], [others.pop(0)]
        while (left := prod(source.shape[d] for d in run)) != (right := prod(result.shape[d] for d in out)):
            if left < right:
                run.append(mine.pop(0))
            else:
                out.append(others.pop(0))
        flat = _flatten(coupling, [source.shape[d] for d in run], [given[d] for d in run], reason)
        for dim, one in zip(out, _unflatten(coupling, [result.shape[d] for d in out], flat, reason), strict=True):
            labels[dim] = one
    coupling.write(result, labels)
    coupling.mark_view(result, source)
    return None


def _flatten(coupling: Coupling, sizes: list[int], labels: list[Labels], reason: str) -> Labels:
    carrying = [place for place, one in enumerate(labels) if one is not None]
    if len(carrying) != 1:  # none; or two: an entry would go if either of its labels went, and has room for one
        for one in labels:
            coupling.fix(one, reason)
        return None
    shape = [size if place == carrying[0] else 1 for place, size in enumerate(sizes)]
    return np.broadcast_to(labels[carrying[0]].reshape(shape), sizes).flatten()  # type: ignore[union-attr]


def _unflatten(coupling: Coupling, sizes: list[int], labels: Labels, reason: str) -> list[Labels]:
    if labels is None:
        return [None] * len(sizes)
    block = labels.reshape(sizes)
    result: list[Labels] = [None] * len(sizes)
    for axis in range(len(sizes)):
        rows = np.moveaxis(block, axis, 0).reshape(sizes[axis], -1)
        if (rows == rows[:, :1]).all():  # one label per row: this undoes a flattening
            result[axis] = rows[:, 0]
            return result
    # Groups of channels, as in a shuffle: only the same positions of every group leave a rectangle behind.
    result[-1] = coupling.tie(list(block.reshape(-1, sizes[-1])), reason)
    return result


def _expand(coupling: Coupling, call: Call) -> None:
    source, result = call.inputs[0], call.result
    given = [None] * (result.ndim - source.ndim) + coupling.labels(source)
    coupling.write(result, given)
    coupling.mark_view(result, source)


def _unsqueeze(coupling: Coupling, call: Call) -> None:
    labels = coupling.labels(call.inputs[0])
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)
    coupling.mark_view(call.result, call.inputs[0])


def _squeeze(coupling: Coupling, call: Call) -> None:
    source = call.inputs[0]
    gone = {dim for dim in call.dims("dim", source.ndim) if source.shape[dim] == 1}
    coupling.write(call.result, [one for dim, one in enumerate(coupling.labels(source)) if dim not in gone])
    coupling.mark_view(call.result, source)


def _pick(coupling: Coupling, call: Call) -> None:
    """Slices, selections, rolls: they may touch the dimensions that they name only where no channels are."""
    source = call.inputs[0]
    touched, labels = call.dims("dim" if "dim" in call.arguments else "dims", source.ndim), coupling.labels(source)
    if call.outputs[0].shape == source.shape and call.name == "slice":  # takes everything
        return _same(coupling, call)
    for dim in touched:
        coupling.fix(labels[dim], f"{call.name} in {call.where} takes them by number")
        labels[dim] = None
    for result in call.outputs:
        coupling.write(result, labels if result.ndim == source.ndim else [labels[d] for d in _others(touched, source)])
    return None


def _others(dims: set[int], tensor: Tensor) -> list[int]:
    return [dim for dim in range(tensor.ndim) if dim not in dims]


def _split(coupling: Coupling, call: Call) -> None:
    """Equal parts stay equal if every part loses the same positions; unequal parts are taken by number."""
    source = call.inputs[0]
    [dim] = call.dims("dim", source.ndim)
    labels = coupling.labels(source)
    along = labels[dim]
    if along is not None:
        reason = f"{call.name} in {call.where} takes them by number"
        parts = np.split(along, np.cumsum([part.shape[dim] for part in call.outputs])[:-1])
        if len({len(part) for part in parts}) == 1:
            labels[dim] = coupling.tie(parts, reason)
        else:
            coupling.fix(along, reason)
            labels[dim] = None
    for part in call.outputs:
        coupling.write(part, labels)


def _concatenate(coupling: Coupling, call: Call) -> None:
    result = call.result
    parts = [part for part in call.inputs if part.ndim == result.ndim]  # cat skips empty vectors
    [along] = call.dims("dim", result.ndim)
    given = [coupling.labels(part) for part in parts]
    reason = f"{call.name} in {call.where} joins them to channels that can't be removed"
    labels = [None if dim == along else coupling.tie([one[dim] for one in given], reason) for dim in range(result.ndim)]
    if any(one[along] is not None for one in given):
        labels[along] = np.concatenate(
            [_filled(one[along], part.shape[along]) for one, part in zip(given, parts, strict=True)]
        )
    coupling.write(result, labels)


def _stack(coupling: Coupling, call: Call) -> None:
    parts = [coupling.labels(part) for part in call.inputs]
    reason = f"{call.name} in {call.where} joins them to channels that can't be removed"
    labels = [coupling.tie(meeting, reason) for meeting in zip(*parts, strict=True)]
    labels.insert(call.arguments["dim"] % call.result.ndim, None)
    coupling.write(call.result, labels)


def _gate(coupling: Coupling, call: Call) -> None:
    """First half of the channels times a function of the second."""
    [dim] = call.dims("dim", call.result.ndim)
    labels = coupling.labels(call.inputs[0])
    along = labels[dim]
    if along is not None:
        labels[dim] = coupling.tie(np.split(along, 2), f"{call.name} in {call.where} takes them by number")
    coupling.write(call.result, labels)


def _filled(labels: Labels, size: int) -> np.ndarray:
    return np.full(size, FIXED) if labels is None else labels


def _pad(coupling: Coupling, call: Call) -> None:
    """Padded channels are fixed: the network goes on padding as many."""
    source = call.inputs[0]
    labels, pad = coupling.labels(source), call.arguments["pad"]
    for place in range(len(pad) // 2):
        dim, (before, after) = source.ndim - 1 - place, pad[2 * place : 2 * place + 2]
        channels = labels[dim]
        if channels is None or before == after == 0:
            continue
        if min(before, after) < 0:
            coupling.fix(channels, f"{call.name} in {call.where} takes them by number")
            labels[dim] = None
        else:
            labels[dim] = np.pad(channels, (before, after), constant_values=FIXED)
    coupling.write(call.result, labels)


def _reduce(coupling: Coupling, call: Call) -> None:
    source = call.inputs[0]
    dims, labels = call.dims("dim", source.ndim), coupling.labels(source)
    for dim in dims:
        coupling.fix(labels[dim], f"{call.name} in {call.where} reduces over them")
    for result in call.outputs:
        if result.shape == source.shape:  # a softmax: the same channels go on
            coupling.write(result, labels)
        elif result.ndim == source.ndim:
            coupling.write(result, [None if dim in dims else one for dim, one in enumerate(labels)])
        else:
            coupling.write(result, [labels[dim] for dim in _others(dims, source)])


def _pool(coupling: Coupling, call: Call) -> None:
    """Poolings and interpolations change the trailing dimensions, as many as their name says."""
    source = call.inputs[0]
    spatial = int(next(letter for letter in call.name if letter in "123"))
    labels = coupling.labels(source)
    for dim in range(source.ndim - spatial, source.ndim):
        coupling.fix(labels[dim], f"{call.name} in {call.where} reduces over them")
        labels[dim] = None
    for result in call.outputs:
        coupling.write(result, labels)


def _batch_norm(coupling: Coupling, call: Call) -> None:
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    meeting = [labels[1], *(coupling.labels(vector)[0] for vector in vectors)]
    labels[1] = coupling.tie(meeting, f"{call.where} normalises channels that can't be removed")
    coupling.write(call.outputs[0], labels)


def _normalise_over(coupling: Coupling, call: Call) -> None:
    """LayerNorm and GroupNorm: removing one channel would change the statistics of the others."""
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    over = len(call.arguments["normalized_shape"]) if "normalized_shape" in call.arguments else source.ndim - 1
    reason = f"{call.where} normalises over them"
    for one in labels[source.ndim - over :]:
        coupling.fix(one, reason)
    for vector in vectors:
        coupling.fix_all(vector, reason)
    coupling.write(call.outputs[0], labels)


def _unfollowed(coupling: Coupling, call: Call) -> None:
    """A product whose weight is no parameter (it is computed from others, or is data), or of a kind without a rule."""
    _unknown(coupling, call)
    if not any(coupling.weight_name(one) for one in call.inputs if one.ndim > 1):
        coupling.unfollowed.append((call.where, f"{call.name} with a weight that is computed and no parameter itself"))


def _matrix_product(coupling: Coupling, call: Call) -> None:
    """Rows of data times a transposed weight: a linear layer."""
    *bias, data, weight = call.inputs
    name = coupling.weight_name(weight)
    scaled = call.arguments.get("alpha", 1) != 1 or call.arguments.get("beta", 1) != 1
    if name is None or scaled or any(one.ndim != 1 for one in bias):
        return _unfollowed(coupling, call)
    rows, features = coupling.labels(data)
    columns, made = coupling.labels(weight)
    coupling.tie([features, columns], f"{call.where} reads channels that can't be removed")
    coupling.produce(name, made)
    if bias:
        made = coupling.tie([made, coupling.labels(bias[0])[0]], f"{call.where} makes channels that can't be removed")
    coupling.write(call.result, [rows, made])
    return None


def _convolution(coupling: Coupling, call: Call) -> None:
    """Weight (out, in / groups, *kernel), or (in, out, *kernel) when transposed."""
    given = call.arguments
    data, weight, bias, groups = given["input"], given["weight"], given["bias"], given["groups"]
    name = coupling.weight_name(weight)
    if name is None or data.ndim != weight.ndim or (given["transposed"] and groups > 1):
        return _unfollowed(coupling, call)
    channels, (outer, inner, *kernel) = coupling.labels(data), coupling.labels(weight)
    reads, makes = (f"{call.where} {does} channels that can't be removed" for does in ("reads", "makes"))
    for one in (*channels[2:], *kernel):
        coupling.fix(one, f"{call.where} slides over them")
    read, made = channels[1], inner if given["transposed"] else outer
    coupling.produce(name, made)
    if groups == 1:
        coupling.tie([read, outer if given["transposed"] else inner], reads)
    elif groups == data.shape[1]:  # depthwise: what group g makes leaves with the one channel that it reads
        multiplier = call.result.shape[1] // groups
        made = coupling.tie([None if read is None else np.repeat(read, multiplier), made], reads)
    else:  # every group reads and makes equally many channels: the same positions leave all groups
        by_group = [None] if read is None else list(read.reshape(groups, -1))
        coupling.tie([*by_group, inner], reads)
        coupling.tie(list(_filled(made, call.result.shape[1]).reshape(groups, -1)), makes)
    if bias is not None:
        made = coupling.tie([made, coupling.labels(bias)[0]], makes)
    coupling.write(call.result, [channels[0], made, *[None] * len(kernel)])
    return None


_RULES: dict[str, Rule] = {
    **dict.fromkeys(["alias", "clone", "contiguous", "detach", "lift_fresh", "to_copy"], _same),
    **dict.fromkeys(["permute", "t", "transpose"], _permute),
    **dict.fromkeys(["reshape_alias", "unsafe_view", "view"], _view),
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(["flip", "index_select", "roll", "select", "slice", "unbind"], _pick),
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split"], _split),
    "cat": _concatenate,
    "stack": _stack,
    "glu": _gate,
    "constant_pad_nd": _pad,
    **dict.fromkeys(["amax", "amin", "argmax", "argmin", "cumsum", "log_softmax", "logsumexp", "max", "mean"], _reduce),
    **dict.fromkeys(["linalg_vector_norm", "min", "softmax", "std", "sum", "var", "var_mean"], _reduce),
    **dict.fromkeys([f"avg_pool{n}d" for n in "123"], _pool),
    **dict.fromkeys([f"adaptive_avg_pool{n}d" for n in "123"], _pool),
    **dict.fromkeys([f"adaptive_max_pool{n}d" for n in "123"], _pool),
    **dict.fromkeys([f"max_pool{n}d_with_indices" for n in "123"], _pool),
    **dict.fromkeys([f"upsample_nearest{n}d" for n in "123"], _pool),
    **dict.fromkeys(["upsample_bilinear2d", "upsample_bicubic2d"], _pool),
    **dict.fromkeys([f"reflection_pad{n}d" for n in "123"], _pool),
    **dict.fromkeys([f"replication_pad{n}d" for n in "123"], _pool),
    **dict.fromkeys(["native_batch_norm", "native_batch_norm_legit", "batch_norm_with_update"], _batch_norm),
    **dict.fromkeys(["native_layer_norm", "native_group_norm"], _normalise_over),
    **dict.fromkeys(["addmm", "mm"], _matrix_product),
    "convolution": _convolution,
    # Acts on every entry alone, though torch doesn't tag them so.
    **dict.fromkeys(["copy", "hardswish", "hardtanh", "leaky_relu", "prelu_kernel", "softplus", "elu"], _elementwise),
}


def rule_of(call: Call) -> Rule:
    """The rule of an operation: the table's; else the elementwise one where torch tags it so; else "unknown"."""
    elementwise = torch.Tag.pointwise in call.function.tags
    return _RULES.get(call.name, _elementwise if elementwise else _unknown)
