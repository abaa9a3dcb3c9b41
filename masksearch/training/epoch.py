"""One epoch of training: a pass over all examples, in which the host never waits for the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.training.batches import Feed, batch_sizes, draw_crop_flip
from masksearch.training.evaluation import mean_loss
from masksearch.training.input_check import Loss
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.slimming import Slimming
from masksearch.utils.seeds import derive, seeded, torch_generator

__all__ = ["EpochPass"]


@dataclass(frozen=True)
class EpochPass:
    """Everything that is constant over the epochs of a training."""

    model: nn.Module
    feed: Feed
    batch_size: int
    optimizer: Optimizer
    slimming: Slimming
    masking: Masking
    remask: MaskSchedule | None
    loss: Loss
    seed: int
    cropped: bool  # random crops and flips
    bfloat16: bool  # autocast
    classifies: bool  # outputs are logits

    def run(self, epoch: int, lr: float, after_step: Callable[[int], None]) -> tuple[float, float | None]:
        """Train for one epoch; return mean loss and accuracy over its examples, as augmented and in train mode.

        All random numbers derive from (seed, epoch), so that every epoch can begin in a new process.

        Parameters
        ----------
        epoch : int
            Completed epochs of the schedule: 0 for the first one.
        lr : float
            Learning rate of all steps.
        after_step : callable
            Called after every step with the number of steps since epoch 0 of the schedule.
        """
        n, device = len(self.feed), self.feed.device
        order = torch.randperm(n, generator=torch_generator(self.seed, "epoch", epoch, "order"))
        sizes = batch_sizes(n, self.batch_size)
        draws = draw_crop_flip(n, torch_generator(self.seed, "epoch", epoch, "crop_flip")) if self.cropped else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        losses: list[Tensor] = []
        guesses: list[Tensor] = []
        self.model.train()
        with seeded(derive(self.seed, "epoch", epoch), device):
            for step, (images, labels) in enumerate(self.feed.shuffled(order, sizes, draws), start=epoch * len(sizes)):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                    outputs = self.model(images)
                    loss = self.loss(outputs, labels)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.slimming()
                self.optimizer.step()
                self.masking()
                if self.remask is not None and self.remask(step + 1):
                    self.masking.change(self.remask.masks, self.optimizer)
                losses.append(loss.detach().reshape(()))
                if self.classifies:
                    guesses.append(outputs.detach().argmax(1))
                after_step(step + 1)
        accuracy = None
        if self.classifies:
            accuracy = int((torch.cat(guesses) == self.feed.targets[order.to(device)]).sum()) / n
        return mean_loss(losses, sizes), accuracy
