"""Several networks of one architecture as one module, which trains them at once: a batched product per layer."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

__all__ = ["BatchedNetworks", "sum_of_losses", "supports_batched_training"]


def supports_batched_training(model: nn.Module, images: Tensor) -> bool:
    """Whether networks like ``model`` can be trained as one module: they draw no random numbers and have no buffers."""
    if next(model.buffers(), None) is not None:
        return False
    try:
        BatchedNetworks([model, model]).train()(images)
    except RuntimeError:  # vmap raises it for random numbers and for control flow that depends on values
        return False
    return True


class BatchedNetworks(nn.Module):
    """Networks of one architecture whose parameters are stacked: (networks, *shape of the parameter).

    Parameters
    ----------
    networks : sequence of nn.Module
        Without buffers. They stay unchanged.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters, _ = stack_module_state(list(networks))
        for name, stacked in parameters.items():
            self.register_parameter(stacked_name(name), nn.Parameter(stacked.detach(), stacked.requires_grad))
        self._names = list(parameters)
        first = {id(parameter): name for name, parameter in networks[0].named_parameters()}
        every = networks[0].named_parameters(remove_duplicate=False)
        self._first = {name: first[id(parameter)] for name, parameter in every}  # tied parameters have several names
        self._one = [copy.deepcopy(networks[0])]  # in a list, so that its parameters are not registered here

    def train(self, mode: bool = True) -> Self:
        """Set training mode or evaluation mode."""
        self._one[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs of all networks: images (b, c, h, w) -> (b, networks, classes)."""
        return vmap(lambda parameters: functional_call(self._one[0], parameters, (images,)), out_dims=1)(
            {name: self.get_parameter(stacked_name(name)) for name in self._names}
        )

    @torch.no_grad()
    def copy_to(self, networks: Sequence[nn.Module]) -> None:
        """Copy the weights to single networks, in the order of the stacked ones."""
        for place, network in enumerate(networks):
            for name, parameter in network.named_parameters():
                parameter.copy_(self.get_parameter(stacked_name(name))[place])

    def masks(self, masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Masks of the stacked parameters, from one {parameter: mask} per network."""
        return {stacked_name(self._first[name]): torch.stack([one[name] for one in masks]) for name in masks[0]}


def stacked_name(name: str) -> str:
    """The name of a stacked parameter: parameter names must not contain dots or equal the name of a method."""
    return "/" + name.replace(".", "/")


def sum_of_losses(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Every network's mean cross-entropy, summed over networks, so that each one's gradient is its own.

    Logits (b, networks, classes) and labels (b,) -> scalar.
    """
    several = labels[:, None].expand(outputs.shape[:2])
    total = nn.functional.cross_entropy(
        outputs.float().flatten(0, 1), several.flatten(), label_smoothing=label_smoothing, reduction="sum"
    )
    return total / len(labels)
