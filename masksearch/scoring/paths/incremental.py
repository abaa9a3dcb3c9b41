"""A fast path for chains of linear layers: compute only the activations that change between two masks.

Why it is fast. A move of radius r changes at most 2 r weights, most of them in the first layer, and therefore at most
2 r rows of the first layer's pre-activations. For a layer with inputs A (in, n), masked weights W (out, in) and
pre-activations Z = W A + b (out, n), a change dW of the weights and a change dA of the inputs give

    Z' = (W + dW) (A + dA) + b = Z + dW A + (W + dW) dA.

dW is sparse, and dA is zero except in the rows that the layer before has changed. Both products are small while few
rows change. If most rows change, Z' is computed from scratch, which is then faster.

What is kept between scorings. The path keeps the weights and the pre-activations of one base mask. A proposal from this
base writes its weights and computes its changes, but the changes stay apart (``_Pending``). The next proposal shows
what the searcher has decided: if the proposal's mask is the new base, the changes are copied into the
pre-activations; else the weights are written back.

Where the logits differ from those of the reference path. They differ by rounding. If the reference has two largest
logits that are exactly equal, another one may be the largest here; this happens only if all paths to the outputs are
cut and the layer has no bias, so that all logits are zero. If a mask cuts all paths, updates leave rounding errors in
place of zeros, so such logits are computed from scratch. Rounding errors add up over updates; a refresh after 512
scorings removes them.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from masksearch.core.mask import Mask, Move, same_mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring.paths.mlp_layers import Chain, LayerChange, LayerMove, LayerUpdate, chain_layers, layer_moves
from masksearch.scoring.paths.network_path import Path
from masksearch.spaces import WeightSpace

_FROM_SCRATCH = 0.75  # share of changed inputs above which the whole product is faster (measured)
_REFRESH_EVERY = 512  # scorings; rounding errors of 512 updates stay below 1e-5 of the logits' standard deviation
_PART = 2000  # images per part
_RESIDUE = 1e-5  # share of the largest pre-activation: logits that differ by less may be rounding errors only


@dataclass
class _Pending:
    """A proposal that is not known to be accepted. Weights are those of its mask, pre-activations those of its base."""

    mask: Mask
    moves: list[LayerMove | None]
    columns: list[Tensor | None]  # per layer: the weights of the inputs that the layer before changes
    changes: list[list[LayerChange | None]]  # per part so far, per layer


class IncrementalPath(Path):
    """Fast way to compute an MLP's outputs under masks: update only activations that change from mask to mask.

    Parameters
    ----------
    chain : list
        Layers of the network from :func:`linear_chain`; weights are copied.
    images : float tensor (n, c, h, w)
        All images, float32 or float64, on the CPU.
    """

    name = "incremental"
    refresh_every = _REFRESH_EVERY
    part = _PART

    def __init__(self, chain: Chain, space: WeightSpace, images: Tensor) -> None:
        self._images = images.flatten(1)
        self._layers = chain_layers(chain, space)
        with warnings.catch_warnings():  # torch calls its CSR tensors beta, once a process
            warnings.simplefilter("ignore")
            torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1))
        self._whole = torch.arange(len(images)).split(_PART)
        self._places: Sequence[Tensor] = ()
        self._inputs: list[Tensor] = []  # (in, b) of every part
        self.refresh()

    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Yield the masked network's logits (batch, classes), one batch of images at a time, in order."""
        yield from self.parts(proposal, self._whole)

    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the masked network's logits (images, classes) for each tensor of image indices in ``places``."""
        with self._refreshed_on_error():
            if places is not self._places:
                self._places = places
                self._inputs = [self._images[place].T.contiguous() for place in places]
                self.refresh()
            self._prepare(proposal)
        for part in range(len(places)):
            with self._refreshed_on_error():
                logits = self._part_logits(part)
            yield logits

    def refresh(self) -> None:
        """Drop the MLP's activations cached from earlier masks; the next mask's logits are computed from scratch."""
        self._mask: Mask | None = None  # the mask of the layers' weights
        self._computed = 0  # number of parts with pre-activations of this mask
        self._scale = 0.0  # largest pre-activation when they were last computed from scratch
        self._pending: _Pending | None = None
        self._missed: Mask | None = None  # the last base without pre-activations

    @contextmanager
    def _refreshed_on_error(self) -> Iterator[None]:
        """Refresh after an exception, which may leave some layers changed and others not."""
        try:
            yield
        except BaseException:
            self.refresh()
            raise

    def _prepare(self, proposal: Proposal) -> None:
        """Set the weights to the proposal's mask, and make sure that the pre-activations are those of its base.

        Pre-activations of a new base cost as much as a scoring from scratch, and pay only if the base is used again. So
        the first proposal from a new base is scored from scratch under its own mask, and the pre-activations of the
        base are computed when a second proposal in a row has the same base.
        """
        base, move = proposal.base, proposal.move
        self._resolve(base)
        if len(move) and not same_mask(self._mask, base) and not same_mask(self._missed, base):
            self._missed = base
            base, move = proposal.mask, Move.nowhere()
        if not same_mask(self._mask, base):
            self._load(base)
        if len(move):
            for part in range(self._computed, len(self._inputs)):
                self._compute(part)
            moves = layer_moves(self._layers, move)
            for layer, moved in zip(self._layers, moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.after)
            self._pending = _Pending(proposal.mask, moves, [None] * len(moves), [])

    def _resolve(self, base: Mask) -> None:
        """Keep the changes of the pending proposal if ``base`` is its mask, else write its weights back.

        A scoring that stopped early has changes of some parts only. If its mask is the base nevertheless, nothing is
        known of the other parts, and the base counts as new.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if not same_mask(pending.mask, base):
            for layer, moved in zip(self._layers, pending.moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.before)
        elif len(pending.changes) < len(self._inputs):
            self._mask = None
        else:
            for part, changes in enumerate(pending.changes):
                for layer, change in zip(self._layers, changes, strict=True):
                    if change is not None:
                        layer.accept(part, change)
            self._mask = pending.mask

    def _load(self, mask: Mask) -> None:
        """Set the weights to ``mask``, without pre-activations."""
        for layer in self._layers:
            if layer.start < 0:
                layer.weights = layer.dense.clone()
            else:
                keep = mask.bits[layer.start : layer.start + layer.dense.numel()].view_as(layer.dense)
                layer.weights = layer.dense.where(keep, 0)
        self._mask, self._computed, self._scale = mask, 0, 0.0

    def _compute(self, part: int) -> None:
        """Compute the pre-activations of one part from scratch; parts are computed in order."""
        for layer, z in zip(self._layers, self._from_scratch(part), strict=True):
            layer.z[part:] = [z]
            if not part:
                self._scale = max(self._scale, float(z.abs().max()))
        self._computed = part + 1

    def _from_scratch(self, part: int) -> Iterator[Tensor]:
        """Pre-activations (out, b) of one part, layer by layer, under the present weights."""
        inputs = self._inputs[part]
        for layer in self._layers:
            z = layer.product(inputs)
            yield z
            inputs = layer.activation(z)

    def _part_logits(self, part: int) -> Tensor:
        """Logits (b, classes) of one part; a pending proposal gets the changes of all layers.

        Logits that are all equal up to rounding are a sign that the mask cuts all paths to the outputs: then all layers
        are computed from scratch, so that zeros are exact zeros, as in the reference path.
        """
        pending, last = self._pending, self._layers[-1]
        if pending is None:
            if part >= self._computed:
                self._compute(part)
            return last.activation(last.z[part]).T
        changes: list[LayerChange | None] = []
        change: LayerChange | None = None
        for number in range(len(self._layers)):
            change = self._change(pending, number, part, change)
            changes.append(change)
        z = last.preactivations(part, change)
        if change is not None and _spread(z) <= _RESIDUE * self._scale:
            scratch = list(self._from_scratch(part))
            changes = [LayerChange(None, new, layer.z[part]) for layer, new in zip(self._layers, scratch, strict=True)]
            z = scratch[-1]
        pending.changes.append(changes)
        return last.activation(z).T

    def _change(self, pending: _Pending, number: int, part: int, before: LayerChange | None) -> LayerChange | None:
        """The change of a layer; ``before`` is the change of the layer before, None if nothing has changed there.

        There are three cases. If the inputs are unchanged, only the rows of dW change: Z + dW A. If all inputs, or most
        of them, have changed, the whole product is computed. Else (W + dW) dA is added, for which ``columns`` has the
        weights of the changed inputs only, and then dW A.
        """
        layer, moved = self._layers[number], pending.moves[number]
        if before is None:
            if moved is None:
                return None
            update = moved.update
            old = layer.z[part].index_select(0, update.rows)
            return LayerChange(update.rows, torch.addmm(old, update.matrix, self._inputs_of(update, number, part)), old)
        activation = self._layers[number - 1].activation
        if before.rows is None:
            return LayerChange(None, layer.product(activation(before.z)), layer.z[part])
        if len(before.rows) > _FROM_SCRATCH * layer.dense.shape[1]:
            values = self._layers[number - 1].z[part].index_copy(0, before.rows, before.z)
            return LayerChange(None, layer.product(activation(values)), layer.z[part])
        columns = pending.columns[number]
        if columns is None:
            columns = pending.columns[number] = layer.weights.index_select(1, before.rows)
        difference = activation(before.old)
        torch.sub(activation(before.z), difference, out=difference)  # overwrites before.old, which is not read again
        z = torch.addmm(layer.z[part], columns, difference)
        if moved is not None:
            update = moved.update
            z.index_add_(0, update.rows, update.matrix @ self._inputs_of(update, number, part))
        return LayerChange(None, z, layer.z[part])

    def _inputs_of(self, update: LayerUpdate, number: int, part: int) -> Tensor:
        """The inputs A of a layer before the move (columns, b), by which dW is multiplied."""
        if update.columns is None:
            return self._inputs[part]
        before = self._layers[number - 1]
        return before.activation(before.z[part].index_select(0, update.columns))


def _spread(values: Tensor) -> float:
    lowest, highest = values.aminmax()
    return float(highest - lowest)
