"""Training on several devices: each rank computes the gradient of its share of every batch (DistributedDataParallel).

The batches, their order and the steps are those of one device. Each rank's loss is weighted by its number of examples,
so that the gradient is the one of the whole batch; sums differ by rounding. After every step all ranks have the same
weights and, copied from rank 0, the same buffers: BatchNorm's running statistics are those of rank 0's shares.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from torch.nn.parallel import DistributedDataParallel

from masksearch.tasks import CLASSIFICATION
from masksearch.training.batch_feed import Batch, Feed
from masksearch.training.evaluation import Evaluation
from masksearch.training.input_check import mode_kept
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_loss import TrainingLoss
from masksearch.training.training_splits import Examples, Resident, as_examples
from masksearch.utils.errors import InputError
from masksearch.utils.nested import call_model, n_examples, output_tensors, take
from masksearch.utils.ranks import Ranks, bounds
from masksearch.utils.seeds import derive, seeded


class _WithLoss(nn.Module):
    """A network's parameters, forward pass and training loss as one module, which DistributedDataParallel can wrap.

    DistributedDataParallel looks for unused parameters in what a module returns. Here that is the loss: parameters
    whose output the loss ignores, such as those of auxiliary heads, are found, too. Buffers are left out, since
    :meth:`DataParallel.copy_buffers` copies them.
    """

    def __init__(self, model: nn.Module, loss: TrainingLoss) -> None:
        super().__init__()
        self._parameter_list = nn.ParameterList(model.parameters())
        self._call, self._loss = partial(call_model, model), loss
        self.outputs: Any = None  # of the last batch

    def forward(self, inputs: Any, targets: Any, counts: bool) -> Tensor:
        """Return the mean loss on a batch; with ``counts=False``, for ranks without examples, 0 with zero gradients."""
        self.outputs = self._call(inputs)
        loss = self._loss(self.outputs, inputs, targets)
        if counts:
            return loss
        if loss.isfinite():
            return loss * 0  # depends on the same parameters as the loss of other batches
        zeros = [part.sum() * 0 for part in output_tensors(self._loss.task.read(self.outputs)) if part.requires_grad]
        return torch.stack(zeros).sum()  # of padding alone: a mean over nothing is NaN


class DataParallel:
    """A network and its training loss on one or several ranks (processes), which average their gradients per batch.

    Parameters
    ----------
    model : nn.Module
        The network, already on its device, with equal weights on all ranks.
    loss : TrainingLoss
        The loss to minimise.
    ranks : Ranks
        The processes that share every batch.
    sample : (inputs, targets)
        Two examples on the device of the network, for a test run that finds out whether the loss uses all parameters.
    """

    def __init__(self, model: nn.Module, loss: TrainingLoss, ranks: Ranks, sample: Batch) -> None:
        self.ranks, self._module = ranks, _WithLoss(model, loss)
        self._forward: nn.Module = self._module
        self._parameters, self._buffers = list(model.parameters()), list(model.buffers())
        if ranks.size > 1:
            unused = not _uses_all(model, self._module, sample)
            self._forward = DistributedDataParallel(self._module, find_unused_parameters=unused)

    def __call__(self, inputs: Any, targets: Any, parts: int) -> tuple[Tensor, Any]:
        """Return the mean loss of a batch of ``parts`` examples or tokens, and what the network returned."""
        loss = self._forward(inputs, targets, parts > 0 or self.ranks.size == 1)
        outputs, self._module.outputs = self._module.outputs, None
        return loss, outputs

    def batches(
        self, feed: Feed, order: Tensor, sizes: Sequence[int], draws: Tensor | None, seed: int
    ) -> Iterator[tuple[Batch, int, bool]]:
        """Yield, for each batch: (this rank's examples, size of the whole batch, False if the loss ignores them).

        The arguments are those of :meth:`Feed.shuffled`. A rank without a share of a small batch gets examples that do
        not count, since all ranks take part in a step.
        """
        rank, size = self.ranks.rank, self.ranks.size
        if size == 1:
            for batch in feed.shuffled(order, sizes, draws, seed):
                yield batch, n_examples(batch[0]), True
        elif feed.own_order:  # the loader decides which examples come next: every rank reads all of them
            for inputs, targets in feed.shuffled(order, sizes, draws, seed):
                start, stop, counts = share(n := n_examples(inputs), rank, size)
                yield (take(inputs, slice(start, stop)), take(targets, slice(start, stop))), n, counts
        else:
            shares = [share(n, rank, size) for n in sizes]
            starts = accumulate(sizes[:-1], initial=0)
            pairs = zip(starts, shares, strict=True)
            own = torch.cat([torch.arange(at + start, at + stop) for at, (start, stop, _) in pairs])
            lengths = [stop - start for start, stop, _ in shares]
            # Random transforms of the examples must not be the same on all ranks.
            seed = derive(seed, "rank", rank) if rank else seed
            own_draws = None if draws is None else draws[own]
            found = feed.shuffled(order[own], lengths, own_draws, seed)
            yield from zip(found, sizes, (counts for *_, counts in shares), strict=True)

    def part_of(self, split: Examples) -> Examples:
        """Return the validation examples that this rank evaluates: a part if the metric is accuracy, otherwise all."""
        examples, size = as_examples(split), self.ranks.size
        task = examples.task
        accuracy = task.classifies and task.metric is CLASSIFICATION.metric and task.weight is None
        if size == 1 or not accuracy or not isinstance(examples, Resident) or len(examples) < size:
            return split
        part = slice(*bounds(len(examples), self.ranks.rank, size))
        return Resident(take(examples.inputs, part), take(examples.targets, part), task)

    def joined(self, found: Evaluation, n: int) -> Evaluation:
        """Return accuracy and loss on all ``n`` validation examples, given this rank's results on its part."""
        loss, right = self.ranks.mean([found.loss, nan if found.metric is None else found.metric * n], found.n)
        return Evaluation(None if isnan(right) else round(right) / n, loss, n)

    def copy_buffers(self) -> None:
        """Give all ranks the buffers of rank 0, such as BatchNorm's running statistics; call it after every step."""
        self.ranks.copy_from_first(self._buffers)

    def over_ranks(self, loss: float, metric: float | None, parts: int) -> tuple[float, float | None]:
        """Return an epoch's loss and metric: means over all ranks, weighted by their numbers of examples or tokens.

        Raises
        ------
        InputError
            If the ranks have different weights.
        """
        if self.ranks.size == 1:
            return loss, metric
        own = _fingerprint(self._parameters)
        if any(other != [own] for other in self.ranks.gather([own])):
            raise InputError(
                f"the {self.ranks.size} processes of torchrun have different weights; give every process the same "
                "masks, seed and data, and on CUDA --set run.deterministic=true"
            )
        loss, value = self.ranks.mean([loss, nan if metric is None else metric], parts)
        return loss, None if isnan(value) else value


def share(n: int, rank: int, size: int) -> tuple[int, int, bool]:
    """Return the range (start, stop) of a batch's ``n`` examples for a rank, and False if the loss must ignore them.

    Shares have at least two examples, as BatchNorm needs: of a batch of 5, four ranks get 2, 3, 0 and 0. Ranks without
    a share get the batch's first two examples, which do not count.
    """
    working = max(1, min(size, n // 2))
    if rank >= working:
        return 0, min(2, n), False
    return *bounds(n, rank, working), True


def check_sync_batchnorm(settings: TrainSettings, device: torch.device) -> None:
    """Raise an InputError if settings ask for BatchNorm statistics over all ranks, and the device is not CUDA."""
    if settings.sync_batchnorm and device.type != "cuda":
        raise InputError(f"sync_batchnorm: True; it needs CUDA, and the device is {device.type}; set it to False")


@contextmanager
def synchronised_norms(model: nn.Module) -> Iterator[None]:
    """Context manager in which BatchNorm layers of a network take their statistics over the batch of all ranks.

    The layers are replaced by ``nn.SyncBatchNorm`` layers with the same parameters and buffers, then put back.
    """
    kinds = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
    norms = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) in kinds
    ]
    for parent, name, child in norms:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    try:
        yield
    finally:
        for parent, name, child in norms:
            setattr(parent, name, child)


def _uses_all(model: nn.Module, module: _WithLoss, sample: Batch) -> bool:
    """Return whether the loss of two examples in train mode depends on all parameters of the network."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with mode_kept(model), seeded(0, next(model.parameters()).device):
        model.train()
        loss = module(*sample, True)
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    found, nodes, seen = set[int](), [loss.grad_fn], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(id(getattr(node, "variable", None)))
            nodes += [before for before, _ in node.next_functions]
    return all(id(parameter) in found for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def _fingerprint(tensors: Sequence[Tensor]) -> float:
    """Return a whole number that differs for different bits of the tensors."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    sums = [tensor.view(kinds[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    return float(sum((place + 1) * value for place, value in enumerate(torch.stack(sums).tolist())) % (1 << 50))
