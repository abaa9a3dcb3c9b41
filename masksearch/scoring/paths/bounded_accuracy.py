"""Accuracy image by image: the reference's to the last image, and no image more than a certain outcome takes.

A proposal with a threshold doesn't want its score where that is below. With w images wrong among those seen so far, the
accuracy is at most (n - w) / n; once that is below the threshold, nothing that follows matters. The images come in the
order of their margins under a mask that was scored in full not long ago: those that are wrong first, then the doubtful
ones, so that certainty comes early. How early depends on the accuracy: what is certainly right is never looked at.

Faster paths round differently from the reference. An image whose margin (its label's logit minus the largest other one)
is within rounding counts as right in the bound; where an accuracy is wanted, the reference is asked about its batch.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from masksearch.core.protocol import Proposal
from masksearch.scoring.objectives import accuracy
from masksearch.scoring.paths.reference import Path, ReferencePath

__all__ = ["Accuracy"]

_ROUNDING = 32  # a path's logits differ from the reference's by less than so many units in the last place (measured: 7)
_REFRESH_EVERY = 16  # scorings that an order of images serves, where the path itself has no reason for another number
_AT_FIRST = 0.05  # of the images, beyond those that are wrong now: before that, certainty is rare
_THEN = 0.25  # of the images, from one look at the bound to the next
_WORTH = 0.75  # of the images: if more are to be seen at first, their order doesn't matter


@dataclass(frozen=True)
class _Seen:
    """What is known of one part of the images."""

    logits: Tensor  # (b, classes)
    margins: Tensor  # (b,)
    tolerance: float  # margins up to here may be of either sign


class Accuracy:
    """Shares of images that masks get right, on a CPU.

    Parameters
    ----------
    path : Path
        To the logits.
    reference : ReferencePath
        To those that count.
    labels : int64 tensor (n,)
        Of all images.
    """

    def __init__(self, path: Path, reference: ReferencePath, labels: Tensor) -> None:
        self._path, self._reference, self._labels = path, reference, labels
        self._whole = torch.arange(len(labels)).split(path.part)
        self.refresh_every = max(path.refresh_every, _REFRESH_EVERY)
        self.refresh()

    def refresh(self) -> None:
        """Forget the images' order, and what the path carries over."""
        self._path.refresh()
        self._arrange(self._whole)
        self._ordered = False

    @torch.no_grad()
    def score(self, proposal: Proposal) -> tuple[float, bool, int]:
        """Accuracy, or an upper bound below the threshold; whether it is exact; and how many images were looked at.

        The first scoring after a :meth:`refresh` always looks at all: it gives the images their order.
        """
        n = len(self._labels)
        threshold = proposal.threshold if self._ordered and proposal.threshold is not None else -math.inf
        order = self._images
        seen: list[_Seen] = []
        looked_at = possible = 0
        with closing(self._path.parts(proposal, self._places)) as parts:  # type: ignore[type-var]
            for logits, labels in zip(parts, self._part_labels, strict=False):
                seen.append(_look(logits, labels))
                if not math.isfinite(seen[-1].tolerance):
                    return float(accuracy(self._reference.logits(proposal), self._labels)), True, n
                looked_at += len(labels)
                possible += int((seen[-1].margins >= -seen[-1].tolerance).sum())
                if looked_at < n and (possible + n - looked_at) / n < threshold:
                    return (possible + n - looked_at) / n, False, looked_at
        margins = torch.cat([part.margins for part in seen])
        right = self._settled(proposal, seen, margins, order)
        if not self._ordered:
            self._order(margins, order, n - int(right.sum()))
        return int(right.sum()) / n, True, n

    def _settled(self, proposal: Proposal, seen: Sequence[_Seen], margins: Tensor, order: Tensor) -> Tensor:
        """Which images are right, bool (n,), in the order in which they were seen."""
        right = margins > 0
        doubtful = (margins.abs() <= max(part.tolerance for part in seen)).nonzero().flatten()
        if not len(doubtful):
            return right
        logits = torch.cat([part.logits for part in seen])[doubtful]
        labels = self._labels[order[doubtful]]
        # Logits of exactly zero are those of neurons that are cut off, for the reference too: the first one counts.
        cut_off = (logits.amax(1) == 0) & (margins[doubtful] == 0)
        right[doubtful] = logits.argmax(1) == labels
        asked = doubtful[~cut_off]
        if len(asked):
            size = self._reference.part
            numbers = (order[asked] // size).unique()
            known = self._reference.batch_logits(proposal, numbers.tolist()).argmax(1)
            places = torch.cat([torch.arange(k * size, min((k + 1) * size, len(order))) for k in numbers.tolist()])
            guesses = torch.empty_like(self._labels).index_copy_(0, places, known)
            right[asked] = guesses[order[asked]] == self._labels[order[asked]]
        return right

    def _order(self, margins: Tensor, order: Tensor, wrong: int) -> None:
        """Order the images by their margins, in parts whose ends are the moments at which to look at the bound."""
        n = len(order)
        self._ordered = True
        first = wrong + math.ceil(_AT_FIRST * n)
        if first > _WORTH * n:
            return
        ranked = order[margins.argsort(stable=True)]
        pieces = math.ceil(first / self._path.part)
        later = min(self._path.part, math.ceil(_THEN * n))
        self._arrange([*ranked[:first].tensor_split(pieces), *ranked[first:].split(later)])

    def _arrange(self, places: Sequence[Tensor]) -> None:
        self._places, self._images = places, torch.cat(tuple(places))
        self._part_labels = [self._labels[place] for place in places]


def _look(logits: Tensor, labels: Tensor) -> _Seen:
    own = logits.gather(1, labels[:, None])
    others = logits.clone().scatter_(1, labels[:, None], -math.inf).amax(1)
    tolerance = _ROUNDING * torch.finfo(logits.dtype).eps * float(logits.abs().max())
    return _Seen(logits, own[:, 0] - others, tolerance)
