"""Messages between a parallel scorer and its workers, and the part of a worker that scores a message's mask."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.core.scorer_protocols import Scoring
from masksearch.utils.errors import InputError, first_line


@dataclass(frozen=True, slots=True)
class Task:
    """Message that asks a worker to score a mask: packed mask bits, and how many of the examples to score it on."""

    bits: bytes  # of np.packbits
    threshold: float | None
    share: float
    probe: bool
    twice: bool  # whether to score the mask twice, to find scorers that depend on earlier calls

    @classmethod
    def of(cls, proposal: Proposal, *, twice: bool = False) -> "Task":
        """Return the message that asks a worker to score a proposed mask."""
        bits = np.packbits(proposal.mask.bits.numpy()).tobytes()
        return cls(bits, proposal.threshold, proposal.share, proposal.probe, twice)


@dataclass(frozen=True)
class Failed:
    """Message that an exception ended the scoring of a mask in a worker."""

    sentence: str
    details: str  # the worker's traceback; empty for wrong input

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """Return the message that a worker sends after its scorer has raised ``error``."""
        if isinstance(error, InputError):
            return cls(str(error), "")
        return cls(f"scorer: {type(error).__name__} in a worker: {first_line(error)}", traceback.format_exc())

    def error(self) -> InputError:
        """Return the exception that the main process raises for this failure, with the worker's traceback as a note."""
        error = InputError(self.sentence)
        if self.details:
            error.add_note(self.details)
        return error


@dataclass(frozen=True)
class Died:
    """Message that a worker ended by a signal or for lack of memory; another worker may score the worker's mask."""

    reason: str  # "a process ended with code -9"


Reply = Score | Failed | Died


@dataclass(frozen=True)
class Plan:
    """Settings that workers of a parallel scorer start with: scorer, mask space, number of workers, threads of each.

    ``fresh``: whether scores must not depend on earlier scorings, so that any worker gives the same score.
    """

    scorer: Scoring
    space: Layout
    workers: int
    threads: int
    fresh: bool


class Workers(Protocol):
    """Protocol of a parallel scorer's workers: they are numbered from 0, and each scores one mask at a time.

    A worker is ready for masks when it has said so.
    """

    def send(self, number: int, task: Task) -> None:
        """Send a mask to worker ``number``, which must be free."""

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for a reply of any worker; return (worker's number, reply).

        The first reply of each worker is None: the worker is ready to score masks.
        """

    def replace(self, number: int) -> None:
        """Start a new worker to replace worker ``number``, which has died."""

    def close(self) -> None:
        """End all workers, even while they are scoring masks."""


class TaskScorer:
    """Scores masks inside a worker: it holds the worker's copy of the scorer, with network and examples."""

    def __init__(self, scorer: Scoring, space: Layout, fresh: bool) -> None:
        self.scorer, self._space = scorer, space
        every = scorer.refresh_every
        self._every = None if every is None else 1 if fresh else every
        self._since_refresh = 0

    def proposal(self, task: Task) -> Proposal:
        """Return the proposal (mask to score) in a message; first drop the scorer's cache if it is too old."""
        if self._every is not None and self._since_refresh >= self._every:
            self.scorer.refresh()
            self._since_refresh = 0
        self._since_refresh += 1
        bits = np.unpackbits(np.frombuffer(task.bits, np.uint8), count=self._space.n_units).astype(bool)
        mask = Mask(self._space, torch.from_numpy(bits))
        return Proposal(mask, Move.nowhere(), mask, task.threshold, task.share, task.probe)

    def score(self, task: Task) -> Score | Failed:
        """Return the score of a message's mask; if the scorer raises an exception, return a message about the error."""
        try:
            scores = [self.scorer.score([self.proposal(task)])[0] for _ in range(1 + task.twice)]
        except Exception as error:
            return Failed.of(error)
        return repeated(scores)


def repeated(scores: Sequence[Score]) -> Score | Failed:
    """Return the score of a mask that was scored repeatedly; if the scores differ, return an error message."""
    values = [score.value for score in scores]
    if len(set(map(repr, values))) == 1:
        return scores[0]
    return Failed(
        f"scorer: one mask got the scores {' and '.join(map(repr, values))}, so that scores depend on earlier calls or "
        "on chance, and several workers can't repeat a search; search with the scorer itself, or with "
        'order="as_finished" if the scores are merely noisy',
        "",
    )
