"""The scorer: it runs the masked network on examples, in the fastest valid way, and measures an objective."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.protocol import Proposal, Score, proposals_of
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.scoring.examples import ScoredExamples
from masksearch.scoring.measures import Measure, logit_measure, new_measure
from masksearch.scoring.objectives import OBJECTIVES, CustomObjective, LogitObjective, Objective
from masksearch.scoring.paths.any_task import AnyTaskPath, DenseOutputs
from masksearch.scoring.paths.batched import BatchedMasks, batched_objective, is_small, supports_batching
from masksearch.scoring.paths.bounded_accuracy import Accuracy
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.in_place import InPlacePath, fits_in_one_tensor
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.scoring.paths.linear_chain import linear_chain
from masksearch.scoring.paths.reference import Path, ReferencePath, images_per_pass
from masksearch.scoring.probe import Probe, check_examples, check_weights
from masksearch.scoring.rank_shares import RankShare, equal_scores, share_of_rank
from masksearch.spaces import FilterSpace, NetworkSpace, WeightSpace
from masksearch.tasks import CLASSIFICATION, Task, with_loss
from masksearch.utils.errors import InputError, check_whole
from masksearch.utils.nested import Nested, as_device, to_device
from masksearch.utils.ranks import ranks

__all__ = ["Scorer"]

_MASKS_PER_PASS = 16  # masks per forward pass on a GPU; one mask keeps a CPU busy


class Scorer:
    """Scorer of pruning masks of one network: it measures an objective of the masked network on a data split.

    The scorer copies the network in eval mode and keeps examples in memory on its device; streamed examples are read
    again for every mask. The caller's model never changes. ``path_name`` and ``repr`` say how masks are scored and why.

    Parameters
    ----------
    model : nn.Module
        The network whose masks are scored. It is called with the inputs of the split, and the task of the split reads
        its outputs.
    space : NetworkSpace
        The space of the masks.
    split : Split or streamed split
        The examples and their task, usually ``data.search``.
    objective : str or callable, optional
        A name in ``OBJECTIVES``, or ``f(model, inputs, targets) -> float``, higher = better. A callable gets the masked
        model in eval mode and all examples. It may enable gradients, but must leave weights and buffers unchanged.
        Default: ``"accuracy"`` for classification, ``"metric"`` for other tasks, ``"loss"`` where ``loss`` is given.
    loss : callable, optional
        Loss in place of the task's: ``loss(outputs, targets)`` -> mean over the examples, a scalar tensor. It requires
        ``objective="loss"``; the score is minus this loss. It gets the outputs as the network returns them.
    device : str or torch.device, optional
        Device of the scoring; by default that of the model.
    batch_size : int, optional
        Examples per forward pass; by default, a number that suits the device. Loaders have their own batches.
    fast : bool
        Use a fast path to the logits if there is one: for classification on one float tensor of inputs in memory.
        Filter masks on a CPU run the network without the removed channels. Weight masks write only the weights that a
        move changes, and linear chains on a CPU compute only the activations that a move changes. Other tasks, streamed
        examples, callables, losses of your own and objectives that need the network take the reference path. Accuracies
        on a CPU equal those of the reference path for every example, and a scoring stops as soon as the proposal can't
        reach its threshold. On a GPU, filter masks take the reference path, since new layer widths cost more time than
        the removed channels save; weight masks that are proposed at once are scored in one pass, for networks of up to
        a million weights without convolutions. Such scores differ by rounding from the scores of single masks.
    masks_per_pass : int, optional
        Preferred maximum of weight masks that are scored in one pass: by default 16 on a GPU and 1 on a CPU. The
        attribute of this name is 1 where the network or the objective allows no more.
    calibration : tensor (n, ...), tuple or dict of tensors, iterable of batches of them, or Reconstruction
        Inputs for the repair of masked networks, as for :func:`masksearch.reconstruct`: some hundred training examples,
        none of them in the split. A ``Reconstruction`` of the network has them. The objective ``"reconstructed"`` needs
        them, and no other objective takes them.

    Raises
    ------
    InputError
        If inputs or weights are not finite, if the outputs don't fit the task, if the objective doesn't fit the task or
        needs filter masks and the space has others, or if streamed examples change from pass to pass.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        split: Any,
        objective: str | CustomObjective | None = None,
        *,
        loss: Callable[..., Tensor] | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        fast: bool = True,
        masks_per_pass: int | None = None,
        calibration: Nested | Iterable[Nested] | Reconstruction | None = None,
    ) -> None:
        if not hasattr(split, "task") or not hasattr(split, "sample"):
            raise InputError(
                f"split: a {type(split).__name__}; allowed is a split of ms.Data, or ms.Split(inputs, targets)"
            )
        for name, number in (("batch_size", batch_size), ("masks_per_pass", masks_per_pass)):
            if number is not None:
                check_whole(name, number, 1)
        if objective is None:
            objective = "loss" if loss is not None else "accuracy" if split.task.classifies else "metric"
        if loss is not None and objective != "loss":
            raise InputError(f"loss: goes with objective 'loss' alone, not with {objective!r}")
        self.space, self.objective = space, objective
        self._device = as_device(next(model.parameters()).device if device is None else device)
        self._task: Task = split.task if loss is None else with_loss(split.task, loss)
        self._row = _row(objective, self._task, space)
        if self._row.reconstructs != (calibration is not None):
            needed = "needs inputs of training examples" if calibration is None else "repairs no masks; leave it out"
            raise InputError(
                f"calibration: {'none' if calibration is None else 'given'}; objective {objective!r} {needed}"
            )
        self._n_examples = len(split) if self._row.images is None else min(self._row.images, len(split))
        self._model = copy.deepcopy(model).to(self._device).eval()
        ranks().copy_from_first(self._model.state_dict().values())
        self._since_refresh = 0
        self._path: Path | None = None  # to logits; None where the objective is computed in another way
        self._batched: BatchedMasks | None = None
        self._accuracy: Accuracy | None = None
        self.masks_per_pass = 1
        self._parts: dict[int, Scorer] = {}  # scorers of the first examples, by their number
        self._split, self._loss, self._fast = split, loss, fast
        self._calibration = calibration
        self._held = RankShare(split)
        self._options: dict[str, Any] = {  # of a copy of the scorer in another process
            "loss": loss,
            "device": self._device,
            "batch_size": batch_size,
            "fast": fast,
            "masks_per_pass": masks_per_pass,
            "calibration": calibration,
        }
        self._divides = self._row.of_filters is None and self._row.images is None and split.resident
        check_weights(self._model)
        if (of_filters := self._row.of_filters) is not None:
            assert isinstance(space, FilterSpace)
            self._value: Callable[[Proposal], float] = lambda proposal: of_filters(space, proposal.mask)
            self._path_name, self._why = "mask", "it needs no examples"
            return
        probe = self._probed()
        whole = self._row.of_network is not None  # in one batch
        self._batch_size = len(split) if whole else batch_size or images_per_pass(self._model, probe.inputs)
        check = partial(check_examples, classes=probe.classes)
        fast_logits = not self._reason_for_reference(probe)
        self._held = share_of_rank(split, self._row, self._task, has_logits=fast_logits)
        self._examples = ScoredExamples(self._held.split, self._device, self._batch_size, probe.channels_last, check)
        self._choose_way(probe, calibration, masks_per_pass)

    def _probed(self) -> Probe:
        """Run the network on two examples, and check that the outputs fit the objective."""
        probe = Probe(self._model, self._task, self._split.sample(2), self._device)
        if self._row.of_logits is not None and self._loss is None and self._task.classifies:
            probe.check_logits(self.objective)
        elif self._row.of_network is None:
            probe.check_loss(needed=self._row.of_task == "loss")
        return probe

    def _choose_way(
        self,
        probe: Probe,
        calibration: Nested | Iterable[Nested] | Reconstruction | None,
        masks_per_pass: int | None,
    ) -> None:
        """Choose how masks are scored: set the function of a mask's value, the name of its path, and the reason."""
        measure, self._path_name = self._row.of_logits, "reference"
        self._why = self._reason_for_reference(probe)
        if self._row.of_network is not None:
            extras = {"task": self._task} if self._row.takes_task else {}
            objective = partial(self._row.of_network, **extras)
            self._value = _value_of_network(objective, self._model, self.space, self._examples)
        elif calibration is not None:
            if not isinstance(calibration, Reconstruction):
                calibration = self._calibration = Reconstruction(self._model, self.space, calibration)
            repaired, dense = calibration, DenseOutputs(self._model, self._task)
            self._why, self._path_name = "masks are repaired before they are scored", "reconstructed"
            self._score_any_task(lambda mask: nullcontext(repaired(mask, small=True)), dense)
        elif self._why or measure is None:
            compares = self._row.of_task == "distance"
            self._score_any_task(
                partial(self.space.applied, self._model), DenseOutputs(self._model, self._task) if compares else None
            )
        else:
            images, self._labels = self._examples.whole()
            assert isinstance(images, Tensor)
            self._images, n_joined = images, None
            if self._held.gathers_logits:
                self._labels, n_joined = to_device(self._split.targets, self._device), self._n_examples
            self._path, self._why = self._choose_path()
            self._value = _value_of_logits(measure, self._path, self._labels, n_joined)
            self._path_name = self._path.name
            wanted = masks_per_pass or (1 if self._device.type == "cpu" else _MASKS_PER_PASS)
            self._batched = None if self._held.gathers_logits else self._choose_batched(wanted, measure)
            self.masks_per_pass = 1 if self._batched is None else wanted
            if self._fast and self._row is OBJECTIVES["accuracy"] and self._device.type == "cpu":
                self._accuracy = Accuracy(self._path, self._reference(), self._labels)

    def _score_any_task(
        self, masked: Callable[[Mask], AbstractContextManager[nn.Module]], dense: DenseOutputs | None
    ) -> None:
        path = AnyTaskPath(masked, self._examples, self._measure, dense)
        self._value = lambda proposal: path.score(proposal.mask)

    def __repr__(self) -> str:
        objective = self.objective if isinstance(self.objective, str) else getattr(self.objective, "__name__", "own")
        what = self._task.metric_name if objective == "metric" else objective
        return f"Scorer({what} of {self._n_examples} examples, {self._task.name}; {self.path_name} path: {self._why})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network and the examples; the copy is a new scorer, since paths hold views of tensors."""
        return partial(Scorer, **self._options), (self._model, self.space, self._split, self.objective)

    @property
    def depends_on_order(self) -> bool:
        """Whether scores depend on earlier scorings, as an objective of your own declares by this attribute."""
        return bool(getattr(self.objective, "depends_on_order", False))

    @property
    def path_name(self) -> str:
        """Name of the way to compute outputs: incremental, compact, in place, reconstructed or reference.

        The name ``mask`` means that the objective needs no outputs.
        """
        return self._path_name

    def __call__(self, mask: Mask) -> Score:
        """Return the exact score of one mask."""
        return self.score([mask])[0]

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """Return one score per mask or proposal (a mask that a searcher suggests), in order.

        The score of a proposal with a threshold may be an upper bound: if the first examples prove that the exact score
        is below the threshold, scoring stops. A proposal that asks for a share of the examples is scored on the first
        of them, if the examples are in memory.

        Raises
        ------
        InputError
            If a mask belongs to another space.
        """
        proposals = proposals_of(masks, self.space)
        if ranks().size > 1:  # a bound of a share of the examples is none of all
            proposals = [replace(proposal, threshold=None) for proposal in proposals]
        if self._divides and any(proposal.share < 1 for proposal in proposals):
            return [self._share(proposal.share).score([replace(proposal, share=1.0)])[0] for proposal in proposals]
        if self._batched is None:
            return equal_scores(proposals, list(map(self._score, proposals)), self._held.weight)
        scores: list[Score] = []
        size = self.masks_per_pass
        for group in (proposals[start : start + size] for start in range(0, len(proposals), size)):
            scores += [self._score(group[0])] if len(group) == 1 else self._score_batched(self._batched, group)
        return equal_scores(proposals, scores, self._held.weight)

    @property
    def refresh_every(self) -> int:
        """Number of masks that are scored between two calls of :meth:`refresh`; searches save checkpoints then."""
        path = self._accuracy or self._path
        return 1 if path is None else path.refresh_every

    def refresh(self) -> None:
        """Drop all results that are cached from earlier masks, and with them accumulated rounding errors."""
        if path := self._accuracy or self._path:
            path.refresh()
        self._since_refresh = 0

    def _share(self, share: float) -> "Scorer":
        """Return the scorer of a share of the examples; this one for all."""
        n = max(2, round(share * self._n_examples))
        if n >= self._n_examples:
            return self
        if n not in self._parts:
            self._parts[n] = Scorer(
                self._model,
                self.space,
                self._split[:n],
                self.objective,
                loss=self._loss,
                device=self._device,
                fast=self._fast,
                calibration=self._calibration,
            )
        return self._parts[n]

    def _score(self, proposal: Proposal) -> Score:
        start = time.perf_counter()
        if self._since_refresh == self.refresh_every:  # the caller has not refreshed the scorer
            self.refresh()
        self._since_refresh += 1
        if self._accuracy is None:
            value, exact, examples = self._value(proposal), True, self._n_scored
        else:
            value, exact, examples = self._accuracy.score(proposal)
        return Score(value, exact, seconds=time.perf_counter() - start, images=examples)

    def _score_batched(self, together: BatchedMasks, proposals: Sequence[Proposal]) -> list[Score]:
        start = time.perf_counter()
        assert self._row.of_logits is not None
        logits = together.logits([proposal.mask for proposal in proposals])
        values = batched_objective(self._row.of_logits, logits, self._labels).tolist()
        seconds = (time.perf_counter() - start) / len(proposals)
        return [Score(value, exact=True, seconds=seconds, images=self._n_scored) for value in values]

    @property
    def _n_scored(self) -> int:
        """Number of examples per scoring, on this rank if it scores a share."""
        return self._n_examples if self._held.weight is None else len(self._held.split)

    def _measure(self) -> Measure:
        """Return a new measure of the objective for the reference path of any task."""
        row, task = self._row, self._task
        own_loss = row.of_task == "loss" and task.loss is not CLASSIFICATION.loss
        if row.of_logits is not None and task.classifies and not own_loss:
            return logit_measure(row.of_logits, task)
        assert row.of_task is not None
        return new_measure(row.of_task, task)

    def _reason_for_reference(self, probe: Probe) -> str:
        """Return why no fast path is valid; empty if one may be."""
        if not isinstance(self.objective, str):
            return "the objective is a function of the network"
        if self._loss is not None:
            return "the loss is one of your own"
        if self._row.of_logits is None or not self._task.classifies:
            return f"objective {self.objective!r} of task {self._task.name!r} has no fast path"
        if self._row.of_task == "loss" and self._task.loss is not CLASSIFICATION.loss:
            return "the task has a loss of its own"
        if not self._split.resident:
            return "examples are streamed"
        if not isinstance(probe.inputs, Tensor) or not probe.inputs.is_floating_point():
            return "inputs are not one float tensor"
        return "" if probe.returns_logits else "outputs are not one tensor of logits"

    def _choose_path(self) -> tuple[Path, str]:
        """Return the path to the logits, and the reason for it."""
        fast, on_cpu = self._fast, self._device.type == "cpu"
        usual = on_cpu and self._images.dtype in (torch.float32, torch.float64)
        chain = linear_chain(self._model) if fast and usual else None
        if chain is not None and isinstance(self.space, WeightSpace):
            path = IncrementalPath(chain, self.space, self._images)
            return path, "a chain of linear layers computes only what a move changes"
        if fast and isinstance(self.space, FilterSpace) and on_cpu:
            compact = CompactPath(self._model, self.space, self._images, self._batch_size)
            return compact, "filter masks run without the removed channels"
        if fast and isinstance(self.space, WeightSpace) and fits_in_one_tensor(self._model, self.space):
            in_place = InPlacePath(self._model, self.space, self._images, self._batch_size)
            return in_place, "weight masks write only the weights that a move changes"
        if not fast:
            return self._reference(), "fast=False"
        if self.space.granularity in ("block", "union"):
            return self._reference(), "masks zero the last layers of blocks"
        filters = isinstance(self.space, FilterSpace)
        return self._reference(), "narrower layers save no time on a GPU" if filters else "weights have several types"

    def _choose_batched(self, masks_per_pass: int, measure: LogitObjective) -> BatchedMasks | None:
        """Return what scores several masks in one pass, where the network and the objective allow it."""
        model, space, probe = self._model, self.space, slice(2)
        if masks_per_pass == 1 or not isinstance(self._path, InPlacePath | IncrementalPath):
            return None
        if not isinstance(space, WeightSpace) or not is_small(model, space):
            return None
        if not supports_batching(model, space, measure, self._images[probe], self._labels[probe]):
            return None
        return BatchedMasks(model, space, self._images, self._batch_size)

    def _reference(self) -> ReferencePath:
        return ReferencePath(self._model, self.space, self._images, self._batch_size)


def _row(objective: str | CustomObjective, task: Task, space: NetworkSpace) -> Objective:
    """Return the row of an objective, after checks that it fits the task and the space.

    The metric of a plain classification is the accuracy, with the same fast paths.
    """
    if not isinstance(objective, str):
        if not callable(objective):
            raise InputError(f"objective: {objective!r}; give a name of OBJECTIVES, or f(model, inputs, targets)")
        return Objective("a function of the network", of_network=objective)
    row = OBJECTIVES[objective]
    if row.of_training is not None:
        raise InputError(f"objective: {objective} trains every ticket for a few steps; use ShortTraining")
    if not row.fits(task):
        fitting = ", ".join(n for n, other in OBJECTIVES.items() if other.fits(task) and other.of_training is None)
        raise InputError(
            f"objective: {objective!r} needs a classification, and the task is {task.name!r}; allowed are {fitting}"
        )
    if row.of_filters is not None and not isinstance(space, FilterSpace):
        raise InputError(f"objective: {objective} is of filter masks, and this is a {space.describe()}")
    is_accuracy = task.classifies and task.metric is CLASSIFICATION.metric
    return OBJECTIVES["accuracy"] if objective == "metric" and is_accuracy else row


# Functions of a proposed mask's value, for each kind of objective. They don't hold the scorer: a circle of references
# would keep its tensors in memory for longer.


def _value_of_logits(
    objective: LogitObjective, path: Path, labels: Tensor, n_joined: int | None
) -> Callable[[Proposal], float]:
    """Return a function of logits, which are joined over the shares of all ranks if ``n_joined`` examples are given."""

    @torch.no_grad()
    def value(proposal: Proposal) -> float:
        logits = path.logits(proposal)
        return float(objective(logits if n_joined is None else ranks().joined(logits, n_joined), labels))

    return value


def _value_of_network(
    objective: CustomObjective, model: nn.Module, space: NetworkSpace, examples: ScoredExamples
) -> Callable[[Proposal], float]:
    def value(proposal: Proposal) -> float:
        inputs, targets = examples.whole()
        with space.applied(model, proposal.mask):
            return float(objective(model, inputs, targets))

    return value
