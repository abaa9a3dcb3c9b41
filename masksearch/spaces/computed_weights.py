"""Layers whose weight is computed before each forward pass, and the call that makes it a plain parameter."""

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["advice_on_weight"]


def advice_on_weight(module: nn.Module) -> str | None:
    """Return a sentence that says how to make a module's computed weight a parameter; None without such a weight."""
    if parametrize.is_parametrized(module):
        name = next(iter(module.parametrizations))  # type: ignore[arg-type]
        call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
        return f"its {name} is computed by a parametrization; make it permanent with {call}"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            call, by = f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})", "a mask of torch.nn.utils.prune"
        elif isinstance(hook, WeightNorm):
            call, by = f"torch.nn.utils.remove_weight_norm(layer, {hook.name!r})", "weight_norm"
        elif isinstance(hook, SpectralNorm):
            call, by = f"torch.nn.utils.remove_spectral_norm(layer, {hook.name!r})", "spectral_norm"
        else:
            continue
        return f"its weight is computed by {by}; make it permanent with {call}"
    return None
