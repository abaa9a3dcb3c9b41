"""Scores of masks after repair: solve the pruned network's weights by least squares, run it, compare its outputs."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.scoring.examples import ScoredExamples
from masksearch.scoring.measures import Measure
from masksearch.scoring.paths.any_task import DenseOutputs
from masksearch.spaces import NetworkSpace
from masksearch.utils.nested import Nested, call_model, n_examples

__all__ = ["ReconstructedPath"]


class ReconstructedPath:
    """Way to score masks for any task after repair: solve kept weights by least squares, then measure outputs.

    Parameters
    ----------
    model, space, calibration
        Network, space and inputs of the repair, as for :class:`masksearch.pruning.reconstruction.Reconstruction`; or a
        repair of this network and space.
    examples : ScoredExamples
        The examples that every mask is scored on.
    measure : callable
        () -> new running score.
    dense : DenseOutputs
        The dense network's outputs, with which the repaired network's outputs are compared.
    """

    name = "reconstructed"

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        calibration: Nested | Iterable[Nested] | Reconstruction,
        examples: ScoredExamples,
        measure: Callable[[], Measure],
        dense: DenseOutputs,
    ) -> None:
        if not isinstance(calibration, Reconstruction):
            calibration = Reconstruction(model, space, calibration)
        self._repaired = calibration
        self._examples, self._measure, self._dense = examples, measure, dense

    @torch.no_grad()
    def score(self, mask: Mask) -> float:
        """Return the score of a mask on all examples; higher is better."""
        measure, network = self._measure(), self._repaired(mask, small=True)
        for number, (inputs, targets) in enumerate(self._examples.batches()):
            dense = self._dense.of_batch(number, inputs, targets)
            measure.update(call_model(network, inputs), targets, n_examples(inputs), dense)
        return measure.value()
