"""One epoch of training: a pass over all examples, in which the CPU never waits for the GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from masksearch.training.augmentation import draw_crop_flip
from masksearch.training.batch_feed import Feed, batch_sizes
from masksearch.training.data_parallel import DataParallel
from masksearch.training.evaluation import mean_loss, metrics_of
from masksearch.training.input_check import InputCheck
from masksearch.training.metric_collector import MetricCollector
from masksearch.training.optimizer_step import OptimizerStep
from masksearch.utils.nested import n_examples
from masksearch.utils.seeds import derive, seeded, torch_generator

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EpochPass:
    """Runner of training epochs: each call of :meth:`run` is one pass over all training examples."""

    model: nn.Module
    feed: Feed
    batch_size: int
    steps_per_epoch: int
    step: OptimizerStep
    parallel: DataParallel  # the network and its loss, on all ranks
    checked: InputCheck
    seed: int
    cropped: bool  # whether images are cropped and flipped at random
    precision: str  # number format of autocast: float32 (no autocast), bfloat16 or float16

    def run(self, epoch: int, lr: float) -> tuple[float, float | None]:
        """Train for one epoch; return (mean loss, main metric or None) on the augmented training batches.

        All random numbers derive from (seed, epoch), so that every epoch can begin in a new process.

        Parameters
        ----------
        epoch : int
            Completed epochs of the schedule: 0 for the first one.
        lr : float
            Learning rate of all steps, but those of a warm-up.
        """
        n, device, rank = len(self.feed), self.feed.device, self.parallel.ranks.rank
        order = torch.randperm(n, generator=torch_generator(self.seed, "epoch", epoch, "order"))
        sizes = batch_sizes(n, self.batch_size)
        draws = draw_crop_flip(n, torch_generator(self.seed, "epoch", epoch, "crop_flip")) if self.cropped else None
        half = _HALF.get(self.precision)

        losses: list[Tensor] = []
        parts: list[int] = []
        metering = MetricCollector(self.checked.task, device) if self.checked.metered else None
        step = epoch * self.steps_per_epoch
        self.step.start_epoch(lr)
        self.model.train()
        data_seed = derive(self.seed, "epoch", epoch, "data")
        dropout_seed = derive(self.seed, "epoch", epoch, *(("rank", rank) if rank else ()))
        with seeded(dropout_seed, device):
            for (inputs, targets), n_batch, counts in self.parallel.batches(self.feed, order, sizes, draws, data_seed):
                parts.append(self.checked.loss_task.n_parts(targets, n_examples(inputs)) if counts else 0)
                with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
                    loss, outputs = self.parallel(inputs, targets, parts[-1])
                losses.append(loss.detach().reshape(()))
                self.step.add(loss, parts[-1], n_batch if self.checked.loss_task.weight is None else None)
                if metering is not None and counts:
                    metering.add(outputs, targets)
                if self.step.ready:
                    self.step(step)
                    step += 1
            if self.step.pending:
                self.step(step)
        loss_of_epoch = mean_loss(losses, parts)
        metric = next(iter(metrics_of(metering, loss_of_epoch).values()), None)
        return self.parallel.over_ranks(loss_of_epoch, metric, sum(parts))
