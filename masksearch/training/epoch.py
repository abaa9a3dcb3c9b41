"""One pass over the training images, without a moment at which the host waits for the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masksearch.training.evaluation import mean_loss
from masksearch.training.feed import Feed, batch_sizes, draw_crop_flip
from masksearch.training.input_check import Loss
from masksearch.training.masking import Masking, MaskSchedule
from masksearch.training.slimming import Slimming
from masksearch.utils.seeds import derive, seeded, torch_generator

__all__ = ["EpochPass"]


@dataclass(frozen=True)
class EpochPass:
    """Everything an epoch needs beside its number and learning rate."""

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
    classifies: bool  # outputs are logits, so that there is an accuracy

    def run(self, epoch: int, lr: float, after_step: Callable[[int], None]) -> tuple[float, float | None]:
        """Train for one epoch; return the mean loss and the accuracy over its images, as they were seen.

        Every random number of the epoch derives from (seed, epoch), so that epochs can begin in a fresh process.

        Parameters
        ----------
        epoch : int
            Epochs of the schedule that are over: 0 for the first one.
        lr : float
            Learning rate of all its steps.
        after_step : callable
            Gets the number of steps since the schedule's epoch 0 after each one.
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
