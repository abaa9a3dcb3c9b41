"""Rules that follow channels through poolings, interpolations, paddings, Fourier transforms and pixel shuffles."""

import numpy as np

from masksearch.spaces.aten_call import Call
from masksearch.spaces.coupling_labels import FIXED, Coupling


def pool(coupling: Coupling, call: Call) -> None:
    """Coupling rule for pooling or interpolation: no position of the pooled (trailing) dimensions can be removed."""
    source = call.inputs[0]
    spatial = int(next(letter for letter in call.name if letter in "123"))
    labels = coupling.labels(source)
    for dim in range(source.ndim - spatial, source.ndim):
        coupling.fix(labels[dim], f"{call.described} reduces over channels")
        labels[dim] = None
    for result in call.outputs:
        coupling.write(result, labels)


def fourier(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a Fourier transform: no position of the transformed dimensions can be removed."""
    source = call.inputs[0]
    labels = coupling.labels(source)
    for dim in call.dims("dim", source.ndim):
        coupling.fix(labels[dim], f"{call.described} sums over channels")
        labels[dim] = None
    coupling.write(call.result, labels)


def pad(coupling: Coupling, call: Call) -> None:
    """Coupling rule for padding: added positions can't be removed, the others are removed with those of the input."""
    source = call.inputs[0]
    labels, pad = coupling.labels(source), call.arguments["pad"]
    for pair in range(len(pad) // 2):  # pairs (before, after), the last dimension first
        dim, (before, after) = source.ndim - 1 - pair, pad[2 * pair : 2 * pair + 2]
        channels = labels[dim]
        if channels is None or before == after == 0:
            continue
        if min(before, after) < 0:
            coupling.fix(channels, f"{call.described} selects channels by number")
            labels[dim] = None
        else:
            labels[dim] = np.pad(channels, (before, after), constant_values=FIXED)
    coupling.write(call.result, labels)


def pixel_shuffle(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a pixel shuffle: the r * r channels that it makes into one are removed together.

    Shapes: (n, c * r * r, h, w) -> (n, c, h * r, w * r).
    """
    *batch, channels, height, width = coupling.labels(call.inputs[0])
    for labels in (height, width):
        coupling.fix(labels, f"{call.where} mixes these positions with others")
    if channels is not None:
        together = channels.reshape(-1, call.arguments["upscale_factor"] ** 2)
        channels = coupling.tie(list(together.T), f"{call.where} joins channels to others that can't be removed")
    coupling.write(call.result, [*batch, channels, None, None])


def pixel_unshuffle(coupling: Coupling, call: Call) -> None:
    """Coupling rule for a pixel unshuffle: a channel is removed with the r * r channels that are made of it.

    Shapes: (n, c, h * r, w * r) -> (n, c * r * r, h, w).
    """
    *batch, channels, height, width = coupling.labels(call.inputs[0])
    for labels in (height, width):
        coupling.fix(labels, f"{call.where} mixes these positions with others")
    if channels is not None:
        channels = np.repeat(channels, call.arguments["downscale_factor"] ** 2)
    coupling.write(call.result, [*batch, channels, None, None])
