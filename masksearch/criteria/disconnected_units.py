"""Dead units of masked networks: kept weights or filters on no path of kept weights from an input to an output."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.synaptic_flow import flow_of_ones, remove_normalisations, replace_clipped_activations
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested

_ROUNDS = 100  # of replacing dead units; few networks need as many


class Connectivity:
    """Finds the dead units of masks: kept weights or filters that no signal from input to output passes through.

    An input of ones passes through the network in eval mode with equal positive weights, without biases and running
    means. A unit is dead if the sum of the outputs does not depend on it: its weights can change outputs by constants
    only (Vysogorets & Kempe 2023, "effective" sparsity). In max pooling, one position represents its window. Clipped
    activations are replaced by ReLU; softmax and normalisations by the input's own mean are left out.

    Parameters
    ----------
    model : nn.Module
        It does not change; the values of its weights have no effect.
    space : NetworkSpace
        The space of the masks.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        Float tensors become ones; of integers, such as tokens, the first example stays.

    Raises
    ------
    InputError
        If no signal passes through more than half of the units of the unpruned network.
    """

    def __init__(self, model: nn.Module, space: NetworkSpace, example_input: Nested) -> None:
        self._space = space
        self._network = remove_normalisations(
            replace_clipped_activations(copy.deepcopy(model).eval().requires_grad_(True).double())
        )
        with torch.no_grad():
            for module in self._network.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    is_norm = isinstance(module, nn.modules.batchnorm._NormBase) and name == "weight"
                    fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
                    parameter.fill_(1 / fan_in if parameter.ndim > 1 or is_norm else 0)
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                    module.reset_running_stats()
        self._device, self._example = next(self._network.parameters()).device, example_input
        names = space.parameter_masks(space.full())
        self._weights = {n: p for n, p in self._network.named_parameters(remove_duplicate=False) if n in names}
        if (n_dead := int(self.dead(space.full()).sum())) > space.n_units / 2:
            raise InputError(
                f"connectivity: an input of ones doesn't pass through {n_dead} of {space.n_units} units of the dense "
                f"{type(model).__name__}, so disconnected units can't be found; leave out connectivity (in sweeps, "
                "connected)"
            )

    def dead(self, mask: Mask) -> Tensor:
        """Return which kept units of a mask lie on no path from input to output: bool (n_units,), on the CPU."""
        with self._space.applied(self._network, mask), torch.enable_grad():
            flow = flow_of_ones(self._network, self._example, self._device)
            gradients = torch.autograd.grad(flow, list(self._weights.values()), materialize_grads=True)
            flows = {n: (g * w.detach()).abs() for (n, w), g in zip(self._weights.items(), gradients, strict=True)}
            alive = self._space.unit_sums(flows).cpu() > 0
        return mask.bits & ~alive


def connected(saliency: Tensor, rank: Callable[[Tensor], Mask], connectivity: Connectivity) -> Mask:
    """Return the mask of the most salient units, with dead units (no signal passes) replaced by the next best units.

    Replacement is repeated until no kept unit is dead, at most 100 times; if dead units remain, the mask with the
    fewest of them is returned. A unit that was dead once is kept again only if no other unit is left.

    Parameters
    ----------
    saliency : Tensor (n_units,)
        Higher = keep; minus infinity for units that earlier rounds have pruned.
    rank : callable
        Saliency -> mask of the requested density.
    connectivity : Connectivity
        Finds the dead units of a mask.
    """
    best, fewest = None, saliency.numel() + 1
    for _ in range(_ROUNDS):
        mask = rank(saliency)
        dead = connectivity.dead(mask)
        if (n_dead := int(dead.sum())) < fewest:
            best, fewest = mask, n_dead
        if not n_dead:
            break
        saliency = saliency.masked_fill(dead, torch.finfo(saliency.dtype).min)
    assert best is not None
    return best
