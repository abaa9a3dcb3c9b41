"""Several networks of one architecture as one, so that they are trained side by side: a batched product per layer."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

__all__ = ["SideBySide", "can_stand_side_by_side", "sum_of_losses"]


def can_stand_side_by_side(model: nn.Module, images: Tensor) -> bool:
    """Whether such networks can be trained as one: not if they draw random numbers, or carry statistics as buffers."""
    if next(model.buffers(), None) is not None:
        return False
    try:
        SideBySide([model, model]).train()(images)
    except RuntimeError:  # vmap's, for random numbers and for decisions by value
        return False
    return True


class SideBySide(nn.Module):
    """Networks of one architecture whose parameters are stacked: (networks, *shape of the parameter).

    Parameters
    ----------
    networks : sequence of nn.Module
        Without buffers. They stay as they are.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters, _ = stack_module_state(list(networks))
        for name, stacked in parameters.items():
            self.register_parameter(stacked_name(name), nn.Parameter(stacked.detach(), stacked.requires_grad))
        self._names = list(parameters)
        first = {id(parameter): name for name, parameter in networks[0].named_parameters()}
        every = networks[0].named_parameters(remove_duplicate=False)
        self._first = {name: first[id(parameter)] for name, parameter in every}  # a tied one has several names
        self._one = [copy.deepcopy(networks[0])]  # in a list, so that its parameters aren't this module's

    def train(self, mode: bool = True) -> Self:
        """Training mode, or evaluation mode, of all."""
        self._one[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs of all: images (b, c, h, w) -> (b, networks, classes)."""
        return vmap(lambda parameters: functional_call(self._one[0], parameters, (images,)), out_dims=1)(
            {name: self.get_parameter(stacked_name(name)) for name in self._names}
        )

    @torch.no_grad()
    def give(self, networks: Sequence[nn.Module]) -> None:
        """Give the networks that stand here their weights, in the same order."""
        for place, network in enumerate(networks):
            for name, parameter in network.named_parameters():
                parameter.copy_(self.get_parameter(stacked_name(name))[place])

    def masks(self, masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Masks of the networks, by parameter, as masks of the stacked parameters."""
        return {stacked_name(self._first[name]): torch.stack([one[name] for one in masks]) for name in masks[0]}


def stacked_name(name: str) -> str:
    """A stacked parameter's name: a module's own parameters can't have dots in theirs, nor its methods' names."""
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
