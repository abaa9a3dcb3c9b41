"""Several weight masks in one pass: a small network, run for one mask alone, leaves most of a GPU idle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from masksearch.core.mask import Mask
from masksearch.scoring.objectives import LogitObjective
from masksearch.spaces import WeightSpace

__all__ = ["Together", "can_go_together", "is_small", "measured_together"]

_SMALL = 1 << 20  # weights; what was measured has a quarter of that


class Together:
    """Runs a network under several masks at once, a batched product per layer.

    Parameters
    ----------
    model : nn.Module
        In eval mode. It stays as it is.
    space : WeightSpace
        Its weights are of one type, and contiguous. Those of now count, whatever becomes of them.
    images : tensor (n, c, h, w)
        On the network's device.
    batch_size : int
        Images that a pass of one mask may take; one of several masks takes as many fewer.
    """

    def __init__(self, model: nn.Module, space: WeightSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images, self._batch_size = model, space, images, batch_size
        self._own = space.unit_sums(dict(model.named_parameters(remove_duplicate=False)))

    @torch.no_grad()
    def logits(self, masks: Sequence[Mask]) -> Tensor:
        """Logits (masks, n, classes): those of one mask after another, but for rounding."""
        bits = torch.stack([mask.bits for mask in masks]).to(self._own.device)
        units = self._own.where(bits, 0)  # (masks, n_units)
        layers = zip(self._space.layer_weights(), self._space.layers, strict=True)
        weights = {name: units[:, layer.slice].unflatten(1, layer.shape) for name, layer in layers}
        part = max(1, self._batch_size // len(masks))
        return torch.cat([self._run(weights, images) for images in self._images.split(part)], 1)

    def _run(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return vmap(lambda one: functional_call(self._model, one, (images,)))(weights)


@torch.no_grad()
def measured_together(measure: LogitObjective, logits: Tensor, labels: Tensor) -> Tensor:
    """An objective of every mask's logits: (masks, n, classes) and (n,) -> (masks,)."""
    return vmap(measure, in_dims=(0, None))(logits, labels)


def is_small(model: nn.Module, space: WeightSpace) -> bool:
    """Whether one mask leaves a GPU idle: up to a million weights, and no convolutions.

    Batched over their weights, convolutions are grouped ones, of which nothing was measured.
    """
    return space.n_units <= _SMALL and not any(isinstance(layer, _ConvNd) for layer in model.modules())


@torch.no_grad()
def can_go_together(
    model: nn.Module, space: WeightSpace, measure: LogitObjective, images: Tensor, labels: Tensor
) -> bool:
    """Whether what the network and the objective do can be batched over masks, tried with two on a few images.

    It cannot where a network decides by value, or makes an image's logits depend on the others it comes with.
    """
    masks = [space.full(), space.random(0.5, "layerwise", torch.Generator().manual_seed(0), on_empty="keep_one")]
    try:
        given = Together(model, space, images, 2 * len(images)).logits(masks)
        measured_together(measure, given, labels)
        wanted = torch.stack([_one_by_one(model, space, mask, images) for mask in masks])
    except Exception:  # whatever it is that vmap can't do: what is tried here goes on mask by mask
        return False
    return bool(wanted.isfinite().all()) and torch.allclose(given, wanted, 1e-3, 1e-3 * float(wanted.abs().max()))


def _one_by_one(model: nn.Module, space: WeightSpace, mask: Mask, images: Tensor) -> Tensor:
    """Logits (n, classes) of images that go through the masked network each by itself."""
    with space.applied(model, mask):
        return torch.cat([model(image) for image in images.split(1)])
