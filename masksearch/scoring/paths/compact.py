"""A fast path for filter masks: run the network without the removed channels, with folded BatchNorm."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.conv import _ConvNd

from masksearch.core.problem_and_trials import Proposal
from masksearch.pruning.physical import prune
from masksearch.scoring.paths.network_path import NetworkPath
from masksearch.spaces import FilterSpace
from masksearch.spaces.filter_cut import cut_tensors, named_tensors
from masksearch.spaces.filter_groups import Groups, Run


class CompactPath(NetworkPath):
    """Fast way to compute a network's outputs under filter masks: run the network without the removed channels.

    The network runs on slices of its tensors. Batch normalisation is folded into convolutions once. No module is
    copied, since most layers take their sizes from their tensors. Depthwise convolutions don't: their number of groups
    is fixed. For networks with such layers, and for networks whose outputs differ in a test at the start, every scoring
    makes a pruned copy of the network. A mask that empties a layer zeroes weights instead.
    """

    name = "compact"
    _space: FilterSpace

    def __init__(self, model: nn.Module, space: FilterSpace, images: Tensor, batch_size: int) -> None:
        super().__init__(model, space, images, batch_size)
        self._folded, self._groups = folded(model, space.groups)
        self._tensors = {name: tensor.detach() for name, tensor in named_tensors(self._folded).items()}
        self._slices = self._supports_slices()

    def _masked(self, proposal: Proposal) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        mask = proposal.mask
        if mask.empty_layers():
            return self._space.applied(self._model, mask)
        return nullcontext(self._cut(mask.bits) if self._slices else prune(self._model, self._space, mask))

    def _cut(self, bits: Tensor) -> Callable[[Tensor], Tensor]:
        tensors = cut_tensors(self._groups, bits, self._tensors)
        return lambda images: functional_call(self._folded, tensors, (images,))

    @torch.no_grad()
    def _supports_slices(self) -> bool:
        """Whether slices give the outputs of a pruned copy, tested on two images with half of the channels.

        False for networks with numbers of channels in attributes, which only a pruned copy has right.
        """
        if self._groups.sizes or self._groups.head_sizes:
            return False
        if any(_has_fixed_sizes(layer) for layer in self._model.modules()):
            return False
        mask = self._space.random(0.5, "layerwise", torch.Generator().manual_seed(0), on_empty="keep_one")
        images = self._batches[0][:2]
        expected = prune(self._model, self._space, mask)(images)
        try:
            given = self._cut(mask.bits)(images)
        except Exception:  # a layer needs its old size; the forward pass of any class may raise anything
            return False
        return given.shape == expected.shape and torch.allclose(
            given, expected, rtol=1e-3, atol=1e-4 * float(expected.std())
        )


def _has_fixed_sizes(layer: nn.Module) -> bool:
    """Whether a layer keeps a number of groups or hidden units as a Python number."""
    grouped = (isinstance(layer, _ConvNd) and layer.groups > 1) or isinstance(layer, nn.GroupNorm)
    return grouped or isinstance(layer, nn.RNNBase)


def folded(model: nn.Module, groups: Groups) -> tuple[nn.Module, Groups]:
    """Return a copy of a network with BatchNorm folded into convolutions, and its channels to remove together.

    The copy is in eval mode. A folded convolution has a bias, whose entries belong to the units of its filters. The
    units and their order stay the same. A network that ``torch.fx`` can't trace is copied without folding.
    """
    network = copy.deepcopy(model).eval()
    try:
        small = fuse(network)
    except Exception:  # tracing runs the network's own code on symbols, which may raise any exception
        return network, groups
    tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    runs = [run for run in groups.runs if run.tensor in tensors]
    for run in groups.runs:
        layer, _, kind = run.tensor.rpartition(".")
        bias = f"{layer}.bias"
        if kind == "weight" and run.dim == 0 and bias in tensors and bias not in groups.shapes:
            runs.append(Run(bias, 0, run.units))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    parameters = frozenset(name for name, _ in small.named_parameters())
    return small, replace(groups, runs=tuple(runs), shapes=shapes, parameters=parameters)
