"""The context of a sweep's cell: everything that finding, retraining and evaluating its masks share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.cell_results import DenseResult
from masksearch.experiment.settings.all_settings import Settings
from masksearch.models import build_model
from masksearch.pruning.one_shot import LayerLevels
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights
from masksearch.training.training_moment import TrainingMoment


@dataclass(frozen=True)
class DenseNetwork:
    """Dense (unpruned) network: its weights at some moments of its training, and its test results."""

    weights: Mapping[str, Weights]  # by moment: "0", "3ep", ..., "end", "best"
    result: DenseResult | None = None  # None while it is being trained
    early_bird_masks: Mapping[str, Sequence[Mask | None]] = field(default_factory=dict)  # by detector, one per epoch


@dataclass(frozen=True)
class CellContext:
    """What the steps of one run of a sweep share: the run's settings, data, mask space, dense network and device."""

    cell: Cell
    space: NetworkSpace
    data: Data
    dense: DenseNetwork
    device: torch.device
    repairs: list[Reconstruction | LayerLevels] = field(default_factory=list)  # the last one: Gram matrices take long

    @property
    def settings(self) -> Settings:
        """Settings of the sweep to which this run belongs."""
        return self.cell.settings

    @property
    def example(self) -> Any:
        """Inputs of one test example, on the CPU, as a batch of size 1."""
        return self.data.example(1)

    def initial_weights(self) -> Weights:
        """Return the weights of the dense (unpruned) network before its training, on the run's device."""
        return {name: tensor.to(self.device) for name, tensor in self.dense.weights["0"].items()}

    def teacher(self) -> nn.Module | None:
        """Return the dense network at its best epoch, as the teacher of distillation; None without distillation."""
        if not self.cell.train.distill:
            return None
        teacher = self.build()
        teacher.load_state_dict(self.dense.weights["best"])
        return teacher

    def build(self) -> nn.Module:
        """Return a newly built dense network on the CPU, with the initial weights that the run's seed gives."""
        return build_model(self.settings.sweep.model, self.data, seed=self.cell.seed)

    def dense_result(self) -> DenseResult:
        """Return the test results, costs and training epochs of this run's dense (unpruned) network."""
        assert self.dense.result is not None, "cells run after their dense network"
        return self.dense.result

    def weights_at(self, moment: str) -> Weights:
        """Return the dense network's weights at a moment of its training, such as "0", "3ep" (3 epochs) or "end"."""
        return self.dense.weights[str(TrainingMoment.parse(moment))]
