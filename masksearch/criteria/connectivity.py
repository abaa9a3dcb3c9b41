"""Connectivity: at extreme sparsity many kept weights lie on no path from an input to an output, and do nothing."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.flow import unclipped, unlevelled
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError

__all__ = ["Connectivity", "connected"]

_ROUNDS = 100  # of replacing; a network has seldom as many dead ends behind dead ends


class Connectivity:
    """Tells which of a mask's units no signal passes through.

    A signal of ones goes through the network in eval mode with equal positive weights and nothing added: no biases, no
    running means. A unit that the outputs' sum doesn't depend on is dead: whatever its weights learn, only constants
    move (Vysogorets & Kempe 2023, "effective" sparsity). Where layers pool by maximum, one position speaks for
    its window. Clipped activations are ReLU here; softmax, and norms by an input's own mean, are left out.

    Parameters
    ----------
    model : nn.Module
        Left as it is; its weights play no part.
    space : NetworkSpace
        What masks are masks of.
    example_input : Tensor (1, c, h, w)
        Its shape counts.

    Raises
    ------
    InputError
        If no signal passes through most of the network as it is.
    """

    def __init__(self, model: nn.Module, space: NetworkSpace, example_input: Tensor) -> None:
        self._space = space
        self._network = unlevelled(unclipped(copy.deepcopy(model).eval().requires_grad_(True).double()))
        with torch.no_grad():
            for module in self._network.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    is_norm = isinstance(module, nn.modules.batchnorm._NormBase) and name == "weight"
                    fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
                    parameter.fill_(1 / fan_in if parameter.ndim > 1 or is_norm else 0)
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                    module.reset_running_stats()
        device = next(self._network.parameters()).device
        self._ones = torch.ones(1, *example_input.shape[1:], dtype=torch.float64, device=device)
        names = space.parameter_masks(space.full())
        self._weights = {n: p for n, p in self._network.named_parameters(remove_duplicate=False) if n in names}
        if (n_dead := int(self.dead(space.full()).sum())) > space.n_units / 2:
            raise InputError(
                f"connectivity: no signal of ones passes through {n_dead} of the {space.n_units} units of the whole "
                f"{type(model).__name__}, so that dead ones can't be told from others"
            )

    def dead(self, mask: Mask) -> Tensor:
        """The kept units that are dead: bool (n_units,), on the CPU."""
        with self._space.applied(self._network, mask), torch.enable_grad():
            flow = self._network(self._ones).sum()
            gradients = torch.autograd.grad(flow, list(self._weights.values()), materialize_grads=True)
            through = {n: (g * w.detach()).abs() for (n, w), g in zip(self._weights.items(), gradients, strict=True)}
            alive = self._space.unit_sums(through).cpu() > 0
        return mask.bits & ~alive


def connected(saliency: Tensor, rank: Callable[[Tensor], Mask], connectivity: Connectivity) -> Mask:
    """The mask of the top units, dead ones replaced by the next best until none is left.

    A unit that was dead once comes back only where no other is left. Where so few are kept that the others find no
    path together, the answer is the mask with the fewest dead units on the way.

    Parameters
    ----------
    saliency : Tensor (n_units,)
        Of what earlier rounds have pruned, minus infinity.
    rank : callable
        Saliency -> mask, at the wanted density.
    connectivity : Connectivity
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
