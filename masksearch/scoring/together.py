"""Several weight masks in one pass: a small network, run for one mask alone, leaves most of a GPU idle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from masksearch.mask import Mask
from masksearch.scoring.objectives import LogitObjective
from masksearch.spaces import WeightSpace

__all__ = ["Together", "can_go_together", "measured_together"]


class Together:
    """Runs a network under several masks at once, a batched product per layer.

    Parameters
    ----------
    model : nn.Module
        In eval mode. It stays as it is, and later changes of its weights do not matter.
    space : WeightSpace
        Its weights are of one type, and contiguous.
    images : tensor (n, c, h, w)
        On the network's device.
    batch_size : int
        Images that a pass of one mask may take; one of several masks takes as many fewer.
    """

    def __init__(self, model: nn.Module, space: WeightSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images, self._batch_size = model, space, images, batch_size
        self._own = space.unit_sums(dict(model.named_parameters(remove_duplicate=False))).detach().clone()

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


@torch.no_grad()
def can_go_together(
    model: nn.Module, space: WeightSpace, measure: LogitObjective, images: Tensor, labels: Tensor
) -> bool:
    """Whether what the network and the objective do can be batched over masks, tried with two on a few images."""
    masks = [space.full(), space.random(0.5, "layerwise", torch.Generator().manual_seed(0), on_empty="keep_one")]
    try:
        given = Together(model, space, images, 2 * len(images)).logits(masks)
        measured_together(measure, given, labels)
    except RuntimeError:  # vmap's, for random numbers, decisions by value and values written in place
        return False
    for logits, mask in zip(given, masks, strict=True):
        with space.applied(model, mask):
            wanted = model(images)
        if not torch.allclose(logits, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std())):
            return False
    return True
