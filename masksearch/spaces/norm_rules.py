"""Rules that follow channels through normalisations with statistics of a channel, a group or all of them.

A GroupNorm normalises each group of channels on its own: a whole group can be removed, with ``num_groups`` lowered. An
InstanceNorm normalises each channel on its own; torch runs it as a BatchNorm with the parameters repeated per example.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.spaces.aten_call import Call
from masksearch.spaces.coupling_labels import Coupling


def group_norm(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a group norm: a group's channels are removed together; with one group, none can be removed."""
    arguments = call.arguments
    source, vectors, n_groups = arguments["input"], call.inputs[1:], arguments["group"]
    batch, channels, *others = coupling.labels(source)
    for labels in others:
        coupling.fix(labels, f"{call.where} normalises over these positions")
    reason = f"{call.where} normalises over channels"
    meeting = [channels, *(coupling.labels(vector)[0] for vector in vectors)]
    if n_groups == 1:
        for labels in meeting:
            coupling.fix(labels, reason)
    else:
        channels = coupling.tie(meeting, f"{call.where} normalises channels that can't be removed")
        if channels is not None:
            for group in np.split(channels, n_groups):
                coupling.tie(list(group[:, None]), reason)
    coupling.write(call.outputs[0], [batch, channels, *others])


def batch_norm(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a batch norm: each channel is removed with its statistics and parameters."""
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    meeting = [labels[1], *(coupling.labels(vector)[0] for vector in vectors)]
    labels[1] = coupling.tie(meeting, f"{call.where} normalises channels that can't be removed")
    coupling.write(call.outputs[0], labels)


def layer_norm(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a layer norm: no normalised channel can be removed, since all share their statistics."""
    source, *vectors = call.inputs
    labels = coupling.labels(source)
    over = len(call.arguments["normalized_shape"])
    reason = f"{call.where} normalises over channels"
    for dim_labels in labels[source.ndim - over :]:
        coupling.fix(dim_labels, reason)
    for vector in vectors:
        coupling.fix_all(vector, reason)
    coupling.write(call.outputs[0], labels)


class UnsizedGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` without parameters that fits pruned inputs: groups keep their size, so their number changes."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the pruned input, normalised in fewer groups; each has as many channels as before pruning."""
        return F.group_norm(input, input.shape[1] * self.num_groups // self.num_channels, eps=self.eps)


def fit_group_norm(layer: nn.GroupNorm) -> None:
    """Lower a GroupNorm's ``num_groups`` after pruning, so that its groups have as many channels as before."""
    if layer.weight is not None:
        layer.num_groups = len(layer.weight) * layer.num_groups // layer.num_channels
        layer.num_channels = len(layer.weight)
    elif type(layer) is nn.GroupNorm and layer.num_groups > 1:
        layer.__class__ = UnsizedGroupNorm
