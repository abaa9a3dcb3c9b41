"""Scores of masks for any task: run the masked or repaired network on every batch, and measure its outputs."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from masksearch.core.mask import Mask
from masksearch.scoring.example_batches import ScoredExamples
from masksearch.scoring.score_accumulators import Measure, counted_outputs
from masksearch.tasks import Task
from masksearch.utils.nested import Nested, call_model, n_examples

_KEPT = 1 << 26  # numbers of dense outputs that stay in memory: 256 MiB in float32


class AnyTaskPath:
    """Computes scores of masks for any task: runs the masked network on every batch, and measures the outputs.

    Parameters
    ----------
    masked : callable
        Mask -> context manager of the network under the mask, in eval mode, on the device of the examples.
    measure : callable
        () -> new running score.
    dense : DenseOutputs, optional
        The dense network's outputs, for a measure that compares them with the outputs of the masked network.
    """

    def __init__(
        self,
        masked: Callable[[Mask], AbstractContextManager[nn.Module]],
        examples: ScoredExamples,
        measure: Callable[[], Measure],
        dense: "DenseOutputs | None" = None,
    ) -> None:
        self._masked, self._examples, self._measure, self._dense = masked, examples, measure, dense

    @torch.no_grad()
    def score(self, mask: Mask) -> float:
        """Return the score of a mask on all examples; higher is better."""
        measure = self._measure()
        with self._masked(mask) as network:
            for number, (inputs, targets) in enumerate(self._examples.batches()):
                dense = None if self._dense is None else self._dense.of_batch(number, inputs, targets)
                measure.update(call_model(network, inputs), targets, n_examples(inputs), dense)
        return measure.value()


class DenseOutputs:
    """Cache of the unpruned network's outputs by batch, up to 2**26 numbers; more batches are computed at each use."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = copy.deepcopy(model), task
        self._kept: dict[int, Any] = {}
        self._n = 0

    def of_batch(self, number: int, inputs: Nested, targets: Any) -> Any:
        """Return the unpruned network's outputs for batch ``number``: from the cache, or else computed from ``inputs``.

        Outputs are those that the task's loss reads.
        """
        if number in self._kept:
            return self._kept[number]
        outputs = counted_outputs(self._task, call_model(self._model, inputs), targets)
        n = sum(leaf.numel() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        if self._n + n <= _KEPT:
            self._kept[number] = outputs
            self._n += n
        return outputs
