"""Exponential moving average of a network's weights over the steps of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from masksearch.training.record import Weights


class Averaging:
    """Exponential moving average of a network's weights and running statistics over the steps of a training.

    After every step, average = d * average + (1 - d) * weights, where d is ``min(decay, (1 + t) / (10 + t))`` at step
    t, as in TensorFlow's ExponentialMovingAverage, so that the first weights are forgotten soon. Tensors of integers,
    such as counts of batches, are copied.

    Parameters
    ----------
    model : nn.Module
        The network that is trained, already on its device and masked.
    decay : float
        Largest d, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self.steps = decay, 0
        self._live = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        self.average = {name: tensor.clone() for name, tensor in self._live.items()}
        floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._others = [name for name in self._live if name not in floats]
        self._live_floats = [self._live[name] for name in floats]
        self._average_floats = [self.average[name] for name in floats]

    @torch.no_grad()
    def update(self) -> None:
        """Update the moving average with the network's present weights; call it after every optimiser step."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self._average_floats, self._live_floats, 1 - decay)
        for name in self._others:
            self.average[name].copy_(self._live[name])

    @torch.no_grad()
    def load(self, average: dict[str, Tensor], steps: int) -> None:
        """Restore the moving average of the weights and its number of steps from a checkpoint."""
        if average.keys() != self.average.keys():
            raise ValueError("the average of another network")
        for name, tensor in average.items():
            self.average[name].copy_(tensor)
        self.steps = steps

    def weights(self) -> Weights:
        """Return the moving average of the network's weights as a state dict on the CPU."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.average.items()}

    @torch.no_grad()
    def store(self) -> None:
        """Replace the network's weights by the moving average of its weights."""
        for name, tensor in self._live.items():
            tensor.copy_(self.average[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager in which the network has its averaged weights; at the end, the trained ones are restored."""
        before = {name: tensor.clone() for name, tensor in self._live.items()}
        self.store()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(before[name])
