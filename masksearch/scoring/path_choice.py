"""Choice of the fastest valid way (path) to a masked network's logits; functions that score a proposed mask."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring.example_batches import ScoredExamples
from masksearch.scoring.objectives import CustomObjective, LogitObjective, Objective, score_of
from masksearch.scoring.paths.batched import BatchedMasks, is_small, supports_batching
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.in_place import InPlacePath, fits_in_one_tensor
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.scoring.paths.mlp_layers import linear_chain
from masksearch.scoring.paths.network_path import Path, ReferencePath
from masksearch.scoring.scoring_checks import Probe
from masksearch.spaces import FilterSpace, NetworkSpace, WeightSpace
from masksearch.tasks import CLASSIFICATION, Task
from masksearch.utils.ranks import ranks


def reason_for_reference(
    objective: str | CustomObjective, row: Objective, task: Task, split: Any, probe: Probe, own_loss: bool
) -> str:
    """Return the reason why masks have to be scored in the slow way, as a text; "" if fast ways are possible."""
    if not isinstance(objective, str):
        return "the objective is a function of the network"
    if own_loss:
        return "the loss is one of your own"
    if row.of_logits is None or not task.classifies:
        return f"objective {objective!r} of task {task.name!r} has no fast path"
    if row.of_task == "loss" and task.loss is not CLASSIFICATION.loss:
        return "the task has a loss of its own"
    if not split.resident:
        return "examples are streamed"
    if not isinstance(probe.inputs, Tensor) or not probe.inputs.is_floating_point():
        return "inputs are not one float tensor"
    return "" if probe.returns_logits else "outputs are not one tensor of logits"


def choose_path(model: nn.Module, space: NetworkSpace, images: Tensor, batch_size: int, fast: bool) -> tuple[Path, str]:
    """Return an object that computes masked networks' logits of ``images``, and a text: why this kind was chosen.

    With ``fast``, it is the fastest valid way, otherwise the slow reference path.
    """
    on_cpu = images.device.type == "cpu"
    if fast and isinstance(space, WeightSpace):
        chain = linear_chain(model) if on_cpu and images.dtype in (torch.float32, torch.float64) else None
        if chain is not None:
            return IncrementalPath(chain, space, images), "a chain of linear layers computes only what a move changes"
        if fits_in_one_tensor(model, space):
            in_place = InPlacePath(model, space, images, batch_size)
            return in_place, "weight masks write only the weights that a move changes"
    if fast and on_cpu and isinstance(space, FilterSpace):
        return CompactPath(model, space, images, batch_size), "filter masks run without the removed channels"
    if not fast:
        reason = "fast=False"
    elif space.granularity in ("block", "union"):
        reason = "masks zero the last layers of blocks"
    elif isinstance(space, FilterSpace):
        reason = "narrower layers save no time on a GPU"
    else:
        reason = "weights have several types"
    return ReferencePath(model, space, images, batch_size), reason


def choose_batched(
    path: Path,
    objective: LogitObjective,
    model: nn.Module,
    space: NetworkSpace,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
) -> BatchedMasks | None:
    """Return an object that computes logits of several masks in one forward pass; None if it is invalid or slower."""
    if not isinstance(path, InPlacePath | IncrementalPath):
        return None
    if not isinstance(space, WeightSpace) or not is_small(model, space):
        return None
    if not supports_batching(model, space, objective, images[:2], labels[:2]):
        return None
    return BatchedMasks(model, space, images, batch_size)


# Functions of a proposed mask's value, for each kind of objective. They don't hold the scorer: a circle of references
# would keep its tensors in memory for longer.


def value_of_logits(
    objective: LogitObjective, path: Path, labels: Tensor, n_joined: int | None
) -> Callable[[Proposal], float]:
    """Return a function that computes a proposed mask's score from the logits of the masked network.

    Logits are joined over the shares of all ranks if ``n_joined`` examples are given.
    """

    @torch.no_grad()
    def value(proposal: Proposal) -> float:
        logits = path.logits(proposal)
        return score_of(objective, objective(logits if n_joined is None else ranks().joined(logits, n_joined), labels))

    return value


def value_of_network(
    objective: CustomObjective, model: nn.Module, space: NetworkSpace, examples: ScoredExamples
) -> Callable[[Proposal], float]:
    """Return a function that scores a proposed mask by calling ``objective`` with masked network and all examples."""

    def value(proposal: Proposal) -> float:
        inputs, targets = examples.whole()
        with space.applied(model, proposal.mask):
            return score_of(objective, objective(model, inputs, targets))

    return value
