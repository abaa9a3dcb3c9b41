"""The scorer: runs the masked network over the images on the fastest path and measures an objective."""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.protocol import Proposal, Score, proposals_of
from masksearch.data import Split
from masksearch.scoring.objectives import OBJECTIVES, CustomObjective, FilterObjective, LogitObjective
from masksearch.scoring.paths.batched import BatchedMasks, batched_objective, is_small, supports_batching
from masksearch.scoring.paths.bounded_accuracy import Accuracy
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.in_place import InPlacePath, fits_in_one_tensor
from masksearch.scoring.paths.incremental import IncrementalPath, linear_chain
from masksearch.scoring.paths.reference import Path, ReferencePath, images_per_pass
from masksearch.spaces import FilterSpace, NetworkSpace, WeightSpace
from masksearch.training.input_check import takes_channels_last
from masksearch.utils.errors import InputError

__all__ = ["Scorer"]

_MASKS_PER_PASS = 16  # of a GPU; one mask keeps a CPU busy


class Scorer:
    """Scores masks of one network on one set of images.

    The scorer copies the network in eval mode and keeps the images on its device. The caller's model never changes. A
    scoring synchronises with the device once, to read the score.

    Parameters
    ----------
    model : nn.Module
        The network whose masks are scored; images (n, c, h, w) -> logits (n, classes).
    space : NetworkSpace
        The space of the masks.
    split : Split
        The images, usually ``data.search``.
    objective : str or callable
        A name in ``OBJECTIVES``, or ``f(model, images, labels) -> float``, higher = better. A callable gets the masked
        model in eval mode and may enable gradients, but must leave weights and buffers unchanged.
    loss : callable, optional
        Loss of another task: ``loss(outputs, labels)`` -> mean over the images, a scalar tensor. It requires
        ``objective="loss"``; the score is minus this loss. Outputs may have any type.
    device : str or torch.device, optional
        Device of the scoring; by default that of the model.
    batch_size : int, optional
        Images per forward pass; by default, a number that suits the device.
    fast : bool
        Use a fast path to the logits if there is one. Filter masks on a CPU run the network without the removed
        channels. Weight masks write only the weights that a move changes, and linear chains on a CPU compute only the
        activations that a move changes. Callables, losses of other tasks and objectives that need the network take the
        reference path. Accuracies on a CPU equal those of the reference path for every image, and a scoring stops as
        soon as the proposal can't reach its threshold. On a GPU, filter masks take the reference path, since new layer
        widths cost more time than the removed channels save; weight masks that are proposed at once are scored in one
        pass, for networks of up to a million weights without convolutions. Such scores differ by rounding from the
        scores of single masks.

    masks_per_pass : int, optional
        Preferred maximum of weight masks that are scored in one pass: by default 16 on a GPU and 1 on a CPU. The
        attribute of this name is 1 where the network or the objective allows no more.

    Raises
    ------
    InputError
        If images or weights are not finite, if the outputs don't fit the objective, or if the objective needs filter
        masks and the space has others.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        split: Split,
        objective: str | CustomObjective = "accuracy",
        *,
        loss: Callable[..., Tensor] | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        fast: bool = True,
        masks_per_pass: int | None = None,
    ) -> None:
        if loss is not None and objective != "loss":
            raise InputError(f"loss: goes with objective 'loss' alone, not with {objective!r}")
        device = device or next(model.parameters()).device
        self.space = space
        self.objective = objective
        self._measure, self._of_network, self._of_filters = _functions(objective)
        if self._of_filters is not None and not isinstance(space, FilterSpace):
            raise InputError(f"objective: {objective} is of filter masks, and this is a {space.describe()}")
        limit = OBJECTIVES[objective].images if isinstance(objective, str) else None
        self._n_images = len(split) if limit is None else min(limit, len(split))
        self._loss = loss
        self._model = copy.deepcopy(model).to(device).eval()
        self._images = split.inputs.to(device)
        self._labels = split.targets.to(device)
        self._check()
        with torch.no_grad():
            if takes_channels_last(self._model, self._images[:2]):
                self._images = self._images.contiguous(memory_format=torch.channels_last)
        self._batch_size = batch_size or self._default_batch_size()
        self._since_refresh = 0
        self._path = self._choose_path(fast)
        default = 1 if self._images.device.type == "cpu" else _MASKS_PER_PASS
        self._batched = self._choose_batched(masks_per_pass or default)
        self.masks_per_pass = 1 if self._batched is None else masks_per_pass or default
        self._accuracy: Accuracy | None = None
        if fast and objective == "accuracy" and self._images.device.type == "cpu":
            self._accuracy = Accuracy(self._path, self._reference(), self._labels)

    def __call__(self, mask: Mask) -> Score:
        """The exact score of one mask."""
        return self.score([mask])[0]

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """One score per mask or proposal, in order.

        A proposal with a threshold gets a bound if part of the images proves that its score is below the threshold.

        Raises
        ------
        InputError
            If a mask belongs to another space.
        """
        proposals = proposals_of(masks, self.space)
        if self._batched is None:
            return [self._score(proposal) for proposal in proposals]
        scores: list[Score] = []
        size = self.masks_per_pass
        for group in (proposals[start : start + size] for start in range(0, len(proposals), size)):
            scores += [self._score(group[0])] if len(group) == 1 else self._score_batched(self._batched, group)
        return scores

    @property
    def refresh_every(self) -> int:
        """Scorings from one :meth:`refresh` to the next. Searches write checkpoints after a refresh."""
        return (self._accuracy or self._path).refresh_every

    def refresh(self) -> None:
        """Drop the state that earlier scorings have left, and with it their rounding errors."""
        (self._accuracy or self._path).refresh()
        self._since_refresh = 0

    def _score(self, proposal: Proposal) -> Score:
        start = time.perf_counter()
        if self._since_refresh == self.refresh_every:  # the caller has not refreshed the scorer
            self.refresh()
        self._since_refresh += 1
        exact, images = True, self._n_images
        if self._accuracy is not None:
            value, exact, images = self._accuracy.score(proposal)
        elif self._of_filters is not None and isinstance(self.space, FilterSpace):
            value = self._of_filters(self.space, proposal.mask)
        elif self._measure is not None and self._loss is None:
            with torch.no_grad():
                value = float(self._measure(self._path.logits(proposal), self._labels))
        else:
            with self.space.applied(self._model, proposal.mask):
                value = self._network_value()
        return Score(value, exact, seconds=time.perf_counter() - start, images=images)

    def _score_batched(self, together: BatchedMasks, proposals: Sequence[Proposal]) -> list[Score]:
        start = time.perf_counter()
        assert self._measure is not None
        logits = together.logits([proposal.mask for proposal in proposals])
        values = batched_objective(self._measure, logits, self._labels).tolist()
        seconds = (time.perf_counter() - start) / len(proposals)
        return [Score(value, exact=True, seconds=seconds, images=self._n_images) for value in values]

    def _network_value(self) -> float:
        """The value of an objective of the masked network, or minus the loss of another task."""
        if self._loss is None:
            assert self._of_network is not None
            return float(self._of_network(self._model, self._images, self._labels))
        batches = zip(self._images.split(self._batch_size), self._labels.split(self._batch_size), strict=True)
        with torch.no_grad():
            losses = [self._loss(self._model(images), labels) * len(labels) for images, labels in batches]
            return -float(torch.stack(losses).sum()) / len(self._labels)

    def _choose_path(self, fast: bool) -> Path:
        usual = self._images.device.type == "cpu" and self._images.dtype in (torch.float32, torch.float64)
        chain = linear_chain(self._model) if fast and usual else None
        if chain is not None and isinstance(self.space, WeightSpace):
            return IncrementalPath(chain, self.space, self._images)
        if fast and isinstance(self.space, FilterSpace) and self._images.device.type == "cpu":
            return CompactPath(self._model, self.space, self._images, self._batch_size)
        if fast and isinstance(self.space, WeightSpace) and fits_in_one_tensor(self._model, self.space):
            return InPlacePath(self._model, self.space, self._images, self._batch_size)
        return self._reference()

    def _choose_batched(self, masks_per_pass: int) -> BatchedMasks | None:
        """What scores several masks in one pass, where the network and the objective allow it."""
        model, space, measure, probe = self._model, self.space, self._measure, slice(2)
        if masks_per_pass == 1 or not isinstance(self._path, InPlacePath | IncrementalPath) or measure is None:
            return None
        if self._loss is not None or not isinstance(space, WeightSpace) or not is_small(model, space):
            return None
        if not supports_batching(model, space, measure, self._images[probe], self._labels[probe]):
            return None
        return BatchedMasks(model, space, self._images, self._batch_size)

    def _default_batch_size(self) -> int:
        """Images per forward pass; all images for callables and objectives of masks, which get no batches."""
        if self._measure is None and self._loss is None:
            return len(self._images)
        return images_per_pass(self._model, self._images)

    def _reference(self) -> ReferencePath:
        return ReferencePath(self._model, self.space, self._images, self._batch_size)

    def _check(self) -> None:
        if not len(self._labels):
            raise InputError("images to score on: there are none")
        if not self._images.isfinite().all():
            raise InputError("images to score on: some are NaN or infinite")
        for name, parameter in self._model.named_parameters():
            if not parameter.isfinite().all():
                raise InputError(f"weights: {name} has NaN or infinite values")
        if self._measure is None or self._loss is not None:
            return
        with torch.no_grad():
            logits = self._model(self._images[:2])
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            what = f"tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"model: returns a {what}; objective {self.objective!r} needs logits (n, classes), "
                "or give loss= or a callable objective"
            )
        worst = int(self._labels.max())
        if int(self._labels.min()) < 0 or worst >= logits.shape[1]:
            raise InputError(
                f"labels: {int(self._labels.min())} to {worst}; the model has classes 0 to {logits.shape[1] - 1}"
            )


def _functions(
    objective: str | CustomObjective,
) -> tuple[LogitObjective | None, CustomObjective | None, FilterObjective | None]:
    """The function of logits, of the masked network, or of the filter mask; the other two are None."""
    if not isinstance(objective, str):
        return None, objective, None
    row = OBJECTIVES[objective]
    if row.of_training is not None:
        raise InputError(f"objective: {objective} trains every ticket for a few steps; use ShortTraining")
    return row.of_logits, row.of_network, row.of_filters
