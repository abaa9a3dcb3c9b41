"""What stops a flow of ones, or levels it, and is left out of copies that such a flow goes through."""

from collections.abc import Callable

from torch import nn

__all__ = ["unclipped", "unlevelled"]

_CLIPPED = (nn.ReLU6, nn.Hardtanh)
_LEVELLING = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.Softmax, nn.LogSoftmax)


def unclipped(network: nn.Module) -> nn.Module:
    """The network, changed in place, with ReLU for clipped activations, which a large flow would saturate."""
    return _with(network, nn.ReLU, lambda module: isinstance(module, _CLIPPED))


def unlevelled(network: nn.Module) -> nn.Module:
    """The network, changed in place, without softmax and norms by an input's own mean: of ones they leave nothing."""
    return _with(network, nn.Identity, _levels)


def _levels(module: nn.Module) -> bool:
    has_no_statistics = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None
    return isinstance(module, _LEVELLING) or has_no_statistics


def _with(network: nn.Module, other: Callable[[], nn.Module], replaced: Callable[[nn.Module], bool]) -> nn.Module:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if replaced(child):
                setattr(module, name, other())
    return network
