"""The criterion ``energy``: greedy removal of filters by layers' output errors after least-squares repair."""

from collections.abc import Mapping

from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches import Batches, input_batches
from masksearch.pruning.energy import repair_energy
from masksearch.spaces import FilterSpace

__all__ = ["energy"]


def energy(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return, as saliency, the position of each filter in greedy pruning, which removes the least harmful filter first.

    The unit whose removal, after the best least-squares repair of the layers that read it, adds least to their relative
    squared errors goes first; then the others are rated anew (optimal brain surgery of groups; ZipLM, Kurtic et al.
    2023). The last unit of each layer ranks above all other units.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Some hundred training examples; targets are not read. See :func:`masksearch.repair_energy`.
    alive : Mask, optional
        Mask at which the removal begins; units that it prunes have -1.

    Raises
    ------
    InputError
        As :func:`masksearch.repair_energy`.
    """
    return repair_energy(model, space, input_batches(batches, "energy")).saliency(alive)
