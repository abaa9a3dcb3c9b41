"""Several weight masks in one forward pass, since a small network under one mask leaves most of a GPU idle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from masksearch.core.mask import Mask
from masksearch.scoring.objectives import LogitObjective
from masksearch.spaces import WeightSpace

_SMALL = 1 << 20  # weights; measured with a quarter of that


class BatchedMasks:
    """Computes a network's outputs under several weight masks in one forward pass, which is fast on GPUs.

    Parameters
    ----------
    model : nn.Module
        The network, in eval mode. It stays unchanged.
    space : WeightSpace
        The space of the masks. Its weights have one type and are contiguous. They are copied.
    batch_size : int
        Images per pass of one mask; a pass of k masks takes 1 / k of them.
    """

    def __init__(self, model: nn.Module, space: WeightSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images, self._batch_size = model, space, images, batch_size
        self._dense = space.unit_sums(dict(model.named_parameters(remove_duplicate=False)))

    @torch.no_grad()
    def logits(self, masks: Sequence[Mask]) -> Tensor:
        """Return the logits of n images under each mask, (masks, n, classes); rounding differs from single masks."""
        bits = torch.stack([mask.bits for mask in masks]).to(self._dense.device)
        units = self._dense.where(bits, 0)  # (masks, n_units)
        layers = zip(self._space.layer_weights(), self._space.layers, strict=True)
        weights = {name: units[:, layer.slice].unflatten(1, layer.shape) for name, layer in layers}
        part = max(1, self._batch_size // len(masks))
        return torch.cat([self._run(weights, images) for images in self._images.split(part)], 1)

    def _run(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return vmap(lambda one: functional_call(self._model, one, (images,)))(weights)


@torch.no_grad()
def batched_objective(measure: LogitObjective, logits: Tensor, labels: Tensor) -> Tensor:
    """Return one score per mask, (masks,), from logits (masks, n, classes) and labels (n,)."""
    return vmap(measure, in_dims=(0, None))(logits, labels)


def is_small(model: nn.Module, space: WeightSpace) -> bool:
    """Return whether a network is small enough to run several masks per GPU pass: <= 10**6 weights, no convolutions.

    Batching over weights turns convolutions into grouped convolutions, whose speed was not measured.
    """
    return space.n_units <= _SMALL and not any(isinstance(layer, _ConvNd) for layer in model.modules())


@torch.no_grad()
def supports_batching(
    model: nn.Module, space: WeightSpace, measure: LogitObjective, images: Tensor, labels: Tensor
) -> bool:
    """Return whether one forward pass can compute outputs under several masks, after a test with two masks.

    They can't be if control flow depends on values, or if the logits of an image depend on other images of the batch.
    """
    masks = [space.full(), space.random(0.5, "layerwise", torch.Generator().manual_seed(0), on_empty="keep_one")]
    try:
        given = BatchedMasks(model, space, images, 2 * len(images)).logits(masks)
        batched_objective(measure, given, labels)
        wanted = torch.stack([_one_by_one(model, space, mask, images) for mask in masks])
    except Exception:  # vmap raises many types; such networks are run mask by mask
        return False
    return bool(wanted.isfinite().all()) and torch.allclose(given, wanted, 1e-3, 1e-3 * float(wanted.abs().max()))


def _one_by_one(model: nn.Module, space: WeightSpace, mask: Mask, images: Tensor) -> Tensor:
    """Logits (n, classes) of images that pass through the masked network one at a time."""
    with space.applied(model, mask):
        return torch.cat([model(image) for image in images.split(1)])
