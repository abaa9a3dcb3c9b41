"""Messages between a parallel scorer and its workers, and the part of a worker that scores a message's mask."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import Proposal, Score
from masksearch.core.scorer_protocols import Scoring
from masksearch.utils.errors import InputError


@dataclass(frozen=True, slots=True)
class Task:
    """Message to a worker: the packed bits of a mask to score, and what its proposal asks for."""

    bits: bytes  # of np.packbits
    threshold: float | None
    share: float
    probe: bool
    twice: bool  # whether to score the mask twice, to find scorers that depend on earlier calls

    @classmethod
    def of(cls, proposal: Proposal, *, twice: bool = False) -> "Task":
        """Return the message that asks for the score of a proposal."""
        bits = np.packbits(proposal.mask.bits.numpy()).tobytes()
        return cls(bits, proposal.threshold, proposal.share, proposal.probe, twice)


@dataclass(frozen=True)
class Failed:
    """Message of a worker: an exception ended its scoring."""

    sentence: str
    details: str  # the worker's traceback; empty for wrong input

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """Return the message about an exception of the scorer."""
        if isinstance(error, InputError):
            return cls(str(error), "")
        first = (str(error).strip().splitlines() or [""])[0]
        return cls(f"scorer: {type(error).__name__} in a worker: {first}", traceback.format_exc())

    def error(self) -> InputError:
        """Return the error that the parallel scorer raises, with the worker's traceback as a note."""
        error = InputError(self.sentence)
        if self.details:
            error.add_note(self.details)
        return error


@dataclass(frozen=True)
class Died:
    """Message about a worker that ended by a signal or for lack of memory; another worker may score its mask."""

    reason: str  # "a process ended with code -9"


Reply = Score | Failed | Died


@dataclass(frozen=True)
class Plan:
    """What the workers of a parallel scorer need to start: scorer, mask space, their number, and CPU threads of each.

    ``fresh``: whether scores must not depend on earlier scorings, so that any worker gives the same score.
    """

    scorer: Scoring
    space: Layout
    workers: int
    threads: int
    fresh: bool


class Workers(Protocol):
    """Protocol of the workers of a parallel scorer, which have the numbers from 0 on and score one mask at a time.

    A worker is ready for masks when it has said so.
    """

    def send(self, number: int, task: Task) -> None:
        """Send a mask to score to worker ``number``, which must be free."""

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for the next reply of any worker, and return it with the worker's number; None: the worker is ready."""

    def replace(self, number: int) -> None:
        """Start a new worker in the place of worker ``number``, which has died."""

    def close(self) -> None:
        """End all workers, also while they score."""


class TaskScorer:
    """The part of a worker that scores masks: it holds the scorer, with its network and examples."""

    def __init__(self, scorer: Scoring, space: Layout, fresh: bool) -> None:
        self.scorer, self._space = scorer, space
        every = scorer.refresh_every
        self._every = None if every is None else 1 if fresh else every
        self._since_refresh = 0

    def proposal(self, task: Task) -> Proposal:
        """Return the proposal of a message, after a refresh of the scorer if one is due."""
        if self._every is not None and self._since_refresh >= self._every:
            self.scorer.refresh()
            self._since_refresh = 0
        self._since_refresh += 1
        bits = np.unpackbits(np.frombuffer(task.bits, np.uint8), count=self._space.n_units).astype(bool)
        mask = Mask(self._space, torch.from_numpy(bits))
        return Proposal(mask, Move.nowhere(), mask, task.threshold, task.share, task.probe)

    def score(self, task: Task) -> Score | Failed:
        """Return the score of a message's mask, or the message about an exception of the scorer."""
        try:
            scores = [self.scorer.score([self.proposal(task)])[0] for _ in range(1 + task.twice)]
        except Exception as error:
            return Failed.of(error)
        return repeated(scores)


def repeated(scores: Sequence[Score]) -> Score | Failed:
    """Return the one score that a scorer has given a mask several times; different scores are a failure."""
    values = [score.value for score in scores]
    if len(set(map(repr, values))) == 1:
        return scores[0]
    return Failed(
        f"scorer: one mask got the scores {' and '.join(map(repr, values))}, so that scores depend on earlier calls or "
        "on chance, and several workers can't repeat a search; search with the scorer itself, or with "
        'order="as_finished" if the scores are merely noisy',
        "",
    )
