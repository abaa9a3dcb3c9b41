"""The scorer: a mask's network, run over the images on the path that is fastest, and measured."""

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

    It keeps a copy of the network as it is now, in eval mode, and the images on its device; nothing of the caller's
    model changes, and a scoring waits for the device once, for its final number.

    Parameters
    ----------
    model : nn.Module
        The network whose masks are scored; images (n, c, h, w) -> logits (n, classes).
    space : NetworkSpace
        What its masks are masks of.
    split : Split
        The images, usually ``data.search``.
    objective : str or callable
        A name in ``OBJECTIVES``, or ``f(model, images, labels) -> float``, higher = better. A callable gets the masked
        model in eval mode and may enable gradients, but has to leave weights and buffers as they were.
    loss : callable, optional
        Own task: ``loss(outputs, labels)`` -> mean over the images, as a scalar tensor. Goes with ``objective="loss"``,
        whose score is then minus this loss; outputs may be anything.
    device : str or torch.device, optional
        Where to score; by default where the model is.
    batch_size : int, optional
        Images per forward pass; if left out, what suits the device.
    fast : bool
        Take a faster path to the logits where there is one: the pruned network for filter masks, what a move changes
        for weight masks, in the weights, or of linear chains on a CPU in what comes of them. Callables, own losses,
        objectives that look at the network and all others take the plain one. Accuracies on a CPU are those of the
        plain one, image by image, and end as soon as a proposal is sure to miss its threshold. On a GPU, where every
        new width of a layer costs more than the channels that it saves, filter masks take the plain path; and weight
        masks that are proposed at once are scored at once, of networks of up to a million weights without convolutions:
        such scores differ by rounding from those of masks that come one by one.

    masks_per_pass : int, optional
        Preferred maximum of weight masks that are scored in one pass: by default 16 on a GPU and 1 on a CPU. The
        attribute of this name is 1 where the network or the objective allows no more.

    Raises
    ------
    InputError
        If images or weights are not finite, the outputs don't fit the objective, or it is of filter masks and the space
        is not.
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
        self._measure, self._own, self._of_filters = _functions(objective)
        if self._of_filters is not None and not isinstance(space, FilterSpace):
            raise InputError(f"objective: {objective} is of filter masks, and this is a {space.describe()}")
        asked = OBJECTIVES[objective].images if isinstance(objective, str) else None
        self._looks_at = len(split) if asked is None else min(asked, len(split))
        self._loss = loss
        self._model = copy.deepcopy(model).to(device).eval()
        self._images = split.inputs.to(device)
        self._labels = split.targets.to(device)
        self._check()
        with torch.no_grad():
            if takes_channels_last(self._model, self._images[:2]):
                self._images = self._images.contiguous(memory_format=torch.channels_last)
        self._batch_size = batch_size or self._suited_batch()
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

        The score of a proposal with a threshold is a bound if fewer than all images show that it misses the threshold.

        Raises
        ------
        InputError
            If a mask is of another space.
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
        """Scorings after which a :meth:`refresh` is due; a search can only be taken up again after one."""
        return (self._accuracy or self._path).refresh_every

    def refresh(self) -> None:
        """Drop what is carried over from one scoring to the next, and with it the rounding errors."""
        (self._accuracy or self._path).refresh()
        self._since_refresh = 0

    def _score(self, proposal: Proposal) -> Score:
        start = time.perf_counter()
        if self._since_refresh == self.refresh_every:  # nobody else has thought of it
            self.refresh()
        self._since_refresh += 1
        exact, images = True, self._looks_at
        if self._accuracy is not None:
            value, exact, images = self._accuracy.score(proposal)
        elif self._of_filters is not None and isinstance(self.space, FilterSpace):
            value = self._of_filters(self.space, proposal.mask)
        elif self._measure is not None and self._loss is None:
            with torch.no_grad():
                value = float(self._measure(self._path.logits(proposal), self._labels))
        else:
            with self.space.applied(self._model, proposal.mask):
                value = self._own_value()
        return Score(value, exact, seconds=time.perf_counter() - start, images=images)

    def _score_batched(self, together: BatchedMasks, proposals: Sequence[Proposal]) -> list[Score]:
        start = time.perf_counter()
        assert self._measure is not None
        logits = together.logits([proposal.mask for proposal in proposals])
        values = batched_objective(self._measure, logits, self._labels).tolist()
        seconds = (time.perf_counter() - start) / len(proposals)
        return [Score(value, exact=True, seconds=seconds, images=self._looks_at) for value in values]

    def _own_value(self) -> float:
        """What the caller's own objective or loss says of the masked network."""
        if self._loss is None:
            assert self._own is not None
            return float(self._own(self._model, self._images, self._labels))
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
        model, space, measure, few = self._model, self.space, self._measure, slice(2)
        if masks_per_pass == 1 or not isinstance(self._path, InPlacePath | IncrementalPath) or measure is None:
            return None
        if self._loss is not None or not isinstance(space, WeightSpace) or not is_small(model, space):
            return None
        if not supports_batching(model, space, measure, self._images[few], self._labels[few]):
            return None
        return BatchedMasks(model, space, self._images, self._batch_size)

    def _suited_batch(self) -> int:
        """Images per pass. Callables and objectives of masks make passes of their own, or none."""
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
                f"labels: {int(self._labels.min())} to {worst}; the model knows 0 to {logits.shape[1] - 1}"
            )


def _functions(
    objective: str | CustomObjective,
) -> tuple[LogitObjective | None, CustomObjective | None, FilterObjective | None]:
    """What measures logits, the masked network, or the mask: one of the three is there."""
    if not isinstance(objective, str):
        return None, objective, None
    row = OBJECTIVES[objective]
    if row.of_training is not None:
        raise InputError(f"objective: {objective} trains every ticket for a while, which ShortTraining does")
    return row.of_logits, row.of_network, row.of_filters
