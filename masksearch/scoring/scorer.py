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
from masksearch.core.problem_and_trials import Proposal, Score, proposals_of
from masksearch.pruning.gram_matrices import calibration_batches
from masksearch.pruning.one_shot import LayerLevels
from masksearch.pruning.reconstruction import Reconstruction, reconstruct
from masksearch.scoring.example_batches import ScoredExamples
from masksearch.scoring.objectives import OBJECTIVES, CustomObjective, objective_row
from masksearch.scoring.path_choice import (
    choose_batched,
    choose_path,
    reason_for_reference,
    value_of_logits,
    value_of_network,
)
from masksearch.scoring.paths.any_task import AnyTaskPath, DenseOutputs
from masksearch.scoring.paths.batched import BatchedMasks, batched_objective
from masksearch.scoring.paths.bounded_accuracy import Accuracy
from masksearch.scoring.paths.network_path import Path, ReferencePath, images_per_pass
from masksearch.scoring.rank_shares import RankShare, equal_scores, share_of_rank
from masksearch.scoring.score_accumulators import LogitMeasure, Measure, new_measure
from masksearch.scoring.scoring_checks import Probe, check_examples, check_weights
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.tasks import CLASSIFICATION, Task, with_loss
from masksearch.training.checkpoint import examples_digest
from masksearch.utils.errors import InputError, check_whole
from masksearch.utils.nested import Nested, as_device, to_device
from masksearch.utils.ranks import ranks

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
    calibration : tensor (n, ...), tuple or dict of tensors, iterable of batches of them, Reconstruction or LayerLevels
        Inputs for the repair of masked networks, as for :func:`masksearch.reconstruct`: some hundred training examples,
        none of them in the split. A ``Reconstruction`` of the network has them. With ``LayerLevels``, masks of weights
        only choose the layers' densities, and SparseGPT prunes the layers. The objectives ``"reconstructed"`` and
        ``"reconstructed_sequential"`` need ``calibration``, and no other objective takes it.

    Raises
    ------
    InputError
        If inputs or weights are not finite, if the outputs don't fit the task, if the objective doesn't fit the task or
        needs filter masks and the space has others, if a loader shuffles, or if streamed examples change from pass to
        pass.
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
        calibration: Nested | Iterable[Nested] | Reconstruction | LayerLevels | None = None,
    ) -> None:
        if not hasattr(split, "task") or not hasattr(split, "sample"):
            raise InputError(
                f"split: a {type(split).__name__}; allowed is a split of ms.Data, or ms.Split(inputs, targets)"
            )
        if getattr(split, "shuffles", False):  # a loader
            raise InputError("split: its loader shuffles, and masks are scored on equal examples; give shuffle=False")
        for name, number in (("batch_size", batch_size), ("masks_per_pass", masks_per_pass)):
            if number is not None:
                check_whole(name, number, 1)
        self.space, self.objective = space, _objective(split, objective, own_loss=loss is not None)
        self._device = as_device(next(model.parameters()).device if device is None else device)
        self._task: Task = split.task if loss is None else with_loss(split.task, loss)
        self._row = objective_row(self.objective, self._task, space)
        if self._row.reconstructs != (calibration is not None):
            needed = "needs inputs of training examples" if calibration is None else "repairs no masks; leave it out"
            raise InputError(
                f"calibration: {'none' if calibration is None else 'given'}; objective {self.objective!r} {needed}"
            )
        self._n_examples = len(split) if self._row.images is None else min(self._row.images, len(split))
        self._model = copy.deepcopy(model).to(self._device).eval()
        ranks().copy_from_first(self._model.state_dict().values())
        self._since_refresh = 0
        self._path: Path | None = None  # to logits; None where the objective is computed in another way
        self._batched: BatchedMasks | None = None
        self._accuracy: Accuracy | None = None
        self.masks_per_pass = 1
        self._repair: Reconstruction | LayerLevels | list[Nested] | None = None
        self._parts: dict[int, Scorer] = {}  # scorers of the first examples, by their number
        self._split, self._loss, self._fast = split, loss, fast
        self._held = RankShare(split)
        self._copy = partial(  # makes the scorer anew in another process
            Scorer,
            loss=loss,
            device=self._device,
            batch_size=batch_size,
            fast=fast,
            masks_per_pass=masks_per_pass,
            calibration=calibration,
        )
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
        self._why = reason_for_reference(self.objective, self._row, self._task, split, probe, own_loss=loss is not None)
        self._held = share_of_rank(split, self._row, self._task, has_logits=not self._why)
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
        calibration: Nested | Iterable[Nested] | Reconstruction | LayerLevels | None,
        masks_per_pass: int | None,
    ) -> None:
        """Choose how masks are scored: set the function of a mask's value, the name of its path, and the reason."""
        measure, self._path_name = self._row.of_logits, "reference"
        if self._row.of_network is not None:
            extras = {"task": self._task} if self._row.takes_task else {}
            objective = partial(self._row.of_network, **extras)
            self._value = value_of_network(objective, self._model, self.space, self._examples)
        elif calibration is not None:
            self._why, self._path_name = "masks are repaired before they are scored", "reconstructed"
            self._score_any_task(self._repaired(calibration), DenseOutputs(self._model, self._task))
        elif self._why or measure is None:
            compares = self._row.of_task == "distance"
            self._score_any_task(
                partial(self.space.applied, self._model), DenseOutputs(self._model, self._task) if compares else None
            )
        else:
            images, self._labels = self._examples.whole()
            assert isinstance(images, Tensor)
            n_joined = None
            if self._held.gathers_logits:
                self._labels, n_joined = to_device(self._split.targets, self._device), self._n_examples
            self._path, self._why = choose_path(self._model, self.space, images, self._batch_size, self._fast)
            self._value = value_of_logits(measure, self._path, self._labels, n_joined)
            self._path_name = self._path.name
            wanted = masks_per_pass or (1 if self._device.type == "cpu" else _MASKS_PER_PASS)
            if wanted > 1 and not self._held.gathers_logits:
                self._batched = choose_batched(
                    self._path, measure, self._model, self.space, images, self._labels, self._batch_size
                )
            self.masks_per_pass = 1 if self._batched is None else wanted
            if self._fast and self._row is OBJECTIVES["accuracy"] and self._device.type == "cpu":
                reference = ReferencePath(self._model, self.space, images, self._batch_size)
                self._accuracy = Accuracy(self._path, reference, self._labels)

    def _repaired(
        self, calibration: Nested | Iterable[Nested] | Reconstruction | LayerLevels
    ) -> Callable[[Mask], AbstractContextManager[nn.Module]]:
        """Return a function from a mask to a context manager of the repaired network."""
        if self._row.sequential:
            given = calibration.batches if isinstance(calibration, Reconstruction) else calibration
            batches = self._repair = calibration_batches(given, self._device)
            return lambda mask: nullcontext(reconstruct(self._model, self.space, mask, batches, sequential=True))
        if not isinstance(calibration, Reconstruction | LayerLevels):
            calibration = Reconstruction(self._model, self.space, calibration)
        repair = self._repair = calibration
        return lambda mask: nullcontext(repair(mask, small=True))

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
        return self._copy, (self._model, self.space, self._split, self.objective)

    @property
    def depends_on_order(self) -> bool:
        """Whether a mask's score depends on masks scored before: the objective's ``depends_on_order``, else False.

        An objective of your own, a function, may have this attribute.
        """
        return bool(getattr(self.objective, "depends_on_order", False))

    @property
    def path_name(self) -> str:
        """Name of the way in which a scorer computes a masked network's outputs, such as "incremental".

        Others: "compact", "in place", "reconstructed" and "reference".

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

    def data_digest(self) -> str | None:
        """Return a hash of the examples on which masks are scored; None for objectives that need no examples."""
        return examples_digest(self._split) if self._row.of_filters is None else None

    @property
    def refresh_every(self) -> int:
        """Number of scored masks between two calls of :meth:`refresh`; searches save checkpoints at these calls."""
        path = self._accuracy or self._path
        return 1 if path is None else path.refresh_every

    def refresh(self) -> None:
        """Drop all results that the scorer caches from earlier masks, so that rounding errors don't accumulate."""
        if path := self._accuracy or self._path:
            path.refresh()
        self._since_refresh = 0

    def _share(self, share: float) -> "Scorer":
        """Return the scorer of a share of the examples; this one for all."""
        n = max(2, round(share * self._n_examples))
        if n >= self._n_examples:
            return self
        if n not in self._parts:
            self._parts[n] = self._copy(
                self._model,
                self.space,
                self._split[:n],
                self.objective,
                calibration=self._repair,
                batch_size=None,
                masks_per_pass=None,
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
            return LogitMeasure(row.of_logits, task)
        assert row.of_task is not None
        return new_measure(row.of_task, task)


def _objective(split: Any, objective: str | CustomObjective | None, *, own_loss: bool) -> str | CustomObjective:
    """Return the objective, by default that of the split's task; raise an InputError if the loss doesn't fit it."""
    if not hasattr(split, "task") or not hasattr(split, "sample"):
        raise InputError(
            f"split: a {type(split).__name__}; allowed is a split of ms.Data, or ms.Split(inputs, targets)"
        )
    if objective is None:
        objective = "loss" if own_loss else "accuracy" if split.task.classifies else "metric"
    if own_loss and objective != "loss":
        raise InputError(f"loss: given with objective {objective!r}; give it with objective 'loss' only")
    return objective
