"""The loss that a training minimises: that of the task, and the distance to a dense teacher's outputs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.tasks import Task, bernoulli_kl, kl_divergence
from masksearch.tasks.task import relative_squared_error
from masksearch.utils.nested import call_model


def has_temperature(task: Task) -> bool:
    """Return whether distillation for a task divides logits by a temperature, as it does in classification."""
    return (task.distillation or task.distance) in (kl_divergence, bernoulli_kl)


@dataclass(frozen=True)
class TrainingLoss:
    """Training loss of a batch: the task's loss and, with a teacher, knowledge distillation (Hinton et al. 2015).

    The loss is (1 - weight) * task loss + weight * distance. For tasks whose distance is a divergence of class
    probabilities, the logits are divided by the temperature T and the distance is multiplied by T^2 (section 2.1);
    other distances have no temperature. In regression, the distance is the squared error to the teacher's outputs, in
    the unit of the task's loss: divided by the variance of the outputs, it would outweigh the task's loss wherever a
    weak teacher's outputs vary less than the targets.
    """

    task: Task  # task of the split, which reads the outputs for the distance
    loss_task: Task  # task with the loss to minimise
    label_smoothing: float
    teacher: nn.Module | None = None  # dense network in eval mode, on the device of the batches
    weight: float = 0.0  # share of the distance to the teacher in the loss
    temperature: float = 1.0

    def __call__(self, outputs: Any, inputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar tensor, from what the network returned."""
        loss = self.loss_task.training_loss(outputs, targets, self.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            dense = call_model(self.teacher, inputs)
        return (1 - self.weight) * loss + self.weight * self._distance(dense, outputs, targets)

    def _distance(self, dense: Any, outputs: Any, targets: Any) -> Tensor:
        teacher, student = (self.task.selected(value, targets)[0] for value in (dense, outputs))
        distance = self.task.distillation or self.task.distance or relative_squared_error
        if not has_temperature(self.task):
            return distance(teacher, student)
        t = self.temperature
        return t**2 * distance(teacher.float() / t, student.float() / t)
