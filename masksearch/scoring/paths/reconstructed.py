"""Scores of masks after repair: reconstruct the pruned network by least squares, run it, compare it with the dense one."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.scoring.examples import ScoredExamples
from masksearch.scoring.measures import Measure
from masksearch.scoring.paths.any_task import DenseOutputs
from masksearch.spaces import NetworkSpace
from masksearch.utils.nested import Nested, call_model, map_tensors, n_examples

__all__ = ["ReconstructedPath"]


class ReconstructedPath:
    """Way to score masks after repair, for any task: reconstruct the pruned network, run it, measure its outputs.

    Parameters
    ----------
    model, space, calibration
        Network, space and inputs of the repair, as for :class:`masksearch.pruning.Reconstruction`.
    examples : ScoredExamples
        The examples that every mask is scored on.
    measure : callable
        () -> new running score.
    dense : DenseOutputs
        The dense network's outputs, with which the repaired network's outputs are compared.
    channels_last : bool
        Whether the calibration images get the memory format ``torch.channels_last``.
    """

    name = "reconstructed"

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        calibration: Nested | Iterable[Nested],
        examples: ScoredExamples,
        measure: Callable[[], Measure],
        dense: DenseOutputs,
        channels_last: bool = False,
    ) -> None:
        self._reconstruction = Reconstruction(model, space, calibration)
        if channels_last:  # BatchNorm statistics take a forward pass per mask
            batches = self._reconstruction.batches
            self._reconstruction.batches = [
                map_tensors(lambda images: images.contiguous(memory_format=torch.channels_last), batch)
                for batch in batches
            ]
        self._examples, self._measure, self._dense = examples, measure, dense

    @torch.no_grad()
    def score(self, mask: Mask) -> float:
        """Return the score of a mask on all examples; higher is better."""
        measure, network = self._measure(), self._reconstruction(mask, small=True)
        for number, (inputs, targets) in enumerate(self._examples.batches()):
            dense = self._dense.of_batch(number, inputs, targets)
            measure.update(call_model(network, inputs), targets, n_examples(inputs), dense)
        return measure.value()
