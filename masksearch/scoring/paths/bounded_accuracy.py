"""Accuracies that equal those of the reference path, and bounds of them from as few images as possible.

Why bounds suffice. A proposal with a threshold needs an exact score only if the score reaches the threshold. With w
wrong images among those evaluated so far, the accuracy is at most (n - w) / n. As soon as this bound is below the
threshold, scoring stops.

Why the images are ordered. The images are evaluated in the order of their margins under a mask that was scored
recently: first those that were wrong, then those with small margins. The bound then falls below the threshold early,
after a number of images that depends on the accuracy; images with large margins are rarely evaluated.

Why rounding doesn't matter. The margin of an image is its label's logit minus the largest other logit. Fast paths round
differently from the reference, so the sign of a margin within rounding is doubtful. Doubtful images count as right in
the bound. For an exact accuracy, the reference path evaluates the batches of the doubtful images.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring.objectives import accuracy
from masksearch.scoring.paths.network_path import Path, ReferencePath

_ROUNDING = 32  # units in the last place by which logits of a path and of the reference may differ (measured: 7)
_REFRESH_EVERY = 16  # scorings with one order of the images, if the path needs no larger number
_FIRST_MARGIN = 0.05  # first part: the wrong images and this share of all; smaller parts rarely settle the outcome
_LATER_PART = 0.25  # later parts: share of the images between two checks of the bound
_MAX_FIRST = 0.75  # share of the images; if the first part would be larger, the images are not ordered


@dataclass(frozen=True)
class _Evaluated:
    """Logits and margins of one part of the images."""

    logits: Tensor  # (b, classes)
    margins: Tensor  # (b,)
    tolerance: float  # margins up to this size are doubtful: they may have the other sign in the reference path


class Accuracy:
    """Fast scorer of accuracy on a CPU: it stops when a mask can no longer reach the accuracy that the search needs.

    Parameters
    ----------
    reference : ReferencePath
        Slow way to compute the logits that define the accuracy.
    labels : int64 tensor (n,)
        Labels of all images.
    """

    def __init__(self, path: Path, reference: ReferencePath, labels: Tensor) -> None:
        self._path, self._reference, self._labels = path, reference, labels
        self._whole = torch.arange(len(labels)).split(path.part)
        self.refresh_every = max(path.refresh_every, _REFRESH_EVERY)
        self.refresh()

    def refresh(self) -> None:
        """Drop the scorer's results that are cached from earlier masks, and the order in which it evaluates images."""
        self._path.refresh()
        self._arrange(self._whole)
        self._ordered = False

    @torch.no_grad()
    def score(self, proposal: Proposal) -> tuple[float, bool, int]:
        """Return (accuracy of a mask, or an upper bound; whether the value is exact; number of images evaluated).

        A bound is below the threshold of the proposal.
        The first scoring after a :meth:`refresh` is exact and defines the order of the images.
        """
        n = len(self._labels)
        threshold = proposal.threshold if self._ordered and proposal.threshold is not None else -math.inf
        order = self._images
        evaluated: list[_Evaluated] = []
        n_evaluated = possible = 0
        with closing(self._path.parts(proposal, self._places)) as parts:  # type: ignore[type-var]
            for logits, labels in zip(parts, self._part_labels, strict=False):
                evaluated.append(_evaluate(logits, labels))
                if not math.isfinite(evaluated[-1].tolerance):
                    return float(accuracy(self._reference.logits(proposal), self._labels)), True, n
                n_evaluated += len(labels)
                possible += int((evaluated[-1].margins >= -evaluated[-1].tolerance).sum())
                if n_evaluated < n and (possible + n - n_evaluated) / n < threshold:
                    return (possible + n - n_evaluated) / n, False, n_evaluated
        margins = torch.cat([part.margins for part in evaluated])
        right = self._right_images(proposal, evaluated, margins, order)
        if not self._ordered:
            self._order(margins, order, n - int(right.sum()))
        return int(right.sum()) / n, True, n

    def _right_images(
        self, proposal: Proposal, evaluated: Sequence[_Evaluated], margins: Tensor, order: Tensor
    ) -> Tensor:
        """Whether each image is right, bool (n,), in evaluation order; the reference decides about doubtful images."""
        right = margins > 0
        doubtful = (margins.abs() <= max(part.tolerance for part in evaluated)).nonzero().flatten()
        if not len(doubtful):
            return right
        logits = torch.cat([part.logits for part in evaluated])[doubtful]
        labels = self._labels[order[doubtful]]
        # Logits of exactly zero belong to a mask that cuts all paths. They are zero in the reference path, too, so that
        # argmax, which returns the first of equal logits, is the same without asking the reference.
        cut_off = (logits.amax(1) == 0) & (margins[doubtful] == 0)
        right[doubtful] = logits.argmax(1) == labels
        asked = doubtful[~cut_off]
        if len(asked):
            size = self._reference.part
            numbers = (order[asked] // size).unique()
            guesses = self._reference.batch_logits(proposal, numbers.tolist()).argmax(1)
            places = torch.cat([torch.arange(k * size, min((k + 1) * size, len(order))) for k in numbers.tolist()])
            guess_of = torch.empty_like(self._labels).index_copy_(0, places, guesses)
            right[asked] = guess_of[order[asked]] == self._labels[order[asked]]
        return right

    def _order(self, margins: Tensor, order: Tensor, wrong: int) -> None:
        """Order the images by their margins, and divide them into parts; the bound is checked after every part."""
        n = len(order)
        self._ordered = True
        first = wrong + math.ceil(_FIRST_MARGIN * n)
        if first > _MAX_FIRST * n:
            return
        ranked = order[margins.argsort(stable=True)]
        pieces = math.ceil(first / self._path.part)
        later = min(self._path.part, math.ceil(_LATER_PART * n))
        self._arrange([*ranked[:first].tensor_split(pieces), *ranked[first:].split(later)])

    def _arrange(self, places: Sequence[Tensor]) -> None:
        self._places, self._images = places, torch.cat(tuple(places))
        self._part_labels = [self._labels[place] for place in places]


def _evaluate(logits: Tensor, labels: Tensor) -> _Evaluated:
    own = logits.gather(1, labels[:, None])
    others = logits.clone().scatter_(1, labels[:, None], -math.inf).amax(1)
    tolerance = _ROUNDING * torch.finfo(logits.dtype).eps * float(logits.abs().max())
    return _Evaluated(logits, own[:, 0] - others, tolerance)
