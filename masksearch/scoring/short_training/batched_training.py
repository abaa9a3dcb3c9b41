"""Several networks of one architecture as one module, which trains them at once: a batched product per layer."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


def supports_batched_training(model: nn.Module, images: Tensor) -> bool:
    """Return whether several copies of a network can be trained as one module, after a test on the given images.

    They can if they draw no random numbers and have no buffers.
    """
    if next(model.buffers(), None) is not None:
        return False
    try:
        BatchedNetworks([model, model]).train()(images)
    except RuntimeError:  # vmap raises it for random numbers and for control flow that depends on values
        return False
    return True


class BatchedNetworks(nn.Module):
    """Module that trains several networks of one architecture at once, with one batched product per layer.

    Each parameter stacks those of the networks: (networks, *shape of the parameter).

    Parameters
    ----------
    networks : sequence of nn.Module
        The networks, without buffers. They stay unchanged.
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
        """Set all networks to training mode, or to evaluation mode if ``mode`` is False; return this module."""
        self._one[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (images, networks, classes) of all networks for images (images, c, h, w)."""
        return vmap(lambda parameters: functional_call(self._one[0], parameters, (images,)), out_dims=1)(
            {name: self.get_parameter(stacked_name(name)) for name in self._names}
        )

    @torch.no_grad()
    def copy_to(self, networks: Sequence[nn.Module]) -> None:
        """Copy the trained weights back into separate networks, in the order of the networks at construction."""
        for place, network in enumerate(networks):
            for name, parameter in network.named_parameters():
                parameter.copy_(self.get_parameter(stacked_name(name))[place])

    def masks(self, masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Stack the masks of several networks: given a dict {parameter name: mask} of each, return one such dict."""
        return {stacked_name(self._first[name]): torch.stack([one[name] for one in masks]) for name in masks[0]}


def stacked_name(name: str) -> str:
    """Return the name that a network's parameter has in :class:`BatchedNetworks`: ``0.weight`` becomes ``/0/weight``.

    Parameter names must not contain dots or equal the name of a method.
    """
    return "/" + name.replace(".", "/")


def sum_of_losses(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the sum of several networks' mean cross-entropies, so that one backward pass gives all their gradients.

    Logits ``outputs`` (b, networks, classes) and labels (b,) -> scalar.
    """
    several = labels[:, None].expand(outputs.shape[:2])
    total = nn.functional.cross_entropy(
        outputs.float().flatten(0, 1), several.flatten(), label_smoothing=label_smoothing, reduction="sum"
    )
    return total / len(labels)
