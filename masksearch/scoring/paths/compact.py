"""A faster path for filter masks: run the network without the removed channels, with folded BatchNorm."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.conv import _ConvNd

from masksearch.core.protocol import Proposal
from masksearch.pruning.physical import prune
from masksearch.scoring.paths.reference import ReferencePath, laid_out_like
from masksearch.spaces import FilterSpace
from masksearch.spaces.filter_cut import cut_tensors, named_tensors
from masksearch.spaces.filter_groups import Groups, Run

__all__ = ["CompactPath", "folded"]


class CompactPath:
    """Run the network on what the mask leaves of its tensors: a scoring costs what the kept channels cost.

    Batch normalisation is folded into convolutions once, and no module is copied: layers take the sizes of their
    tensors. Where that isn't so (depthwise convolutions know their number of groups), or where the outputs of a trial
    differ, every mask has a pruned copy of the network made; a mask that empties a layer takes the plain path.
    """

    refresh_every = 1

    def __init__(self, model: nn.Module, space: FilterSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images = model, space, images
        self._batches = images.split(batch_size)
        self.part = batch_size
        self._plain = ReferencePath(model, space, images, batch_size)
        self._folded, self._groups = folded(model, space.groups)
        self._tensors = {name: tensor.detach() for name, tensor in named_tensors(self._folded).items()}
        self._sliced = self._takes_slices()

    @torch.no_grad()
    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        return torch.cat(list(self.batches(proposal)))

    @torch.no_grad()
    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Logits (b, classes) batch by batch."""
        if proposal.mask.empty_layers():
            yield from self._plain.batches(proposal)
            return
        network = self._network(proposal)
        for images in self._batches:
            yield network(images)

    @torch.no_grad()
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) part by part."""
        if proposal.mask.empty_layers():
            yield from self._plain.parts(proposal, places)
            return
        network = self._network(proposal)
        for place in places:
            yield network(laid_out_like(self._images, self._images[place]))

    def refresh(self) -> None:
        """Nothing is carried over."""

    def _network(self, proposal: Proposal) -> Callable[[Tensor], Tensor]:
        return self._cut(proposal.mask.bits) if self._sliced else prune(self._model, self._space, proposal.mask)

    def _cut(self, bits: Tensor) -> Callable[[Tensor], Tensor]:
        tensors = cut_tensors(self._groups, bits, self._tensors)
        return lambda images: functional_call(self._folded, tensors, (images,))

    @torch.no_grad()
    def _takes_slices(self) -> bool:
        """Whether slices give what a pruned copy gives, tried on a few images and half of every layer's channels."""
        if any(isinstance(layer, _ConvNd) and layer.groups > 1 for layer in self._model.modules()):
            return False
        mask = self._space.random(0.5, "layerwise", torch.Generator().manual_seed(0), on_empty="keep_one")
        images = self._batches[0][:2]
        wanted = prune(self._model, self._space, mask)(images)
        try:
            given = self._cut(mask.bits)(images)
        except RuntimeError:  # some layer insists on its old size
            return False
        return given.shape == wanted.shape and torch.allclose(given, wanted, rtol=1e-3, atol=1e-4 * float(wanted.std()))


def folded(model: nn.Module, groups: Groups) -> tuple[nn.Module, Groups]:
    """A copy in eval mode without the normalisations that convolutions can take over, and its groups.

    A folded convolution has a bias, which goes with its filters. Units are the same, in the same order. A network that
    ``torch.fx`` can't trace comes back as it is.
    """
    plain = copy.deepcopy(model).eval()
    try:
        small = fuse(plain)
    except Exception:  # tracing runs the network's own code on symbols, which may raise whatever it likes
        return plain, groups
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
