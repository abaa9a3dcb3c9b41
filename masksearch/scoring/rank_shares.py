"""Scoring on several ranks: each rank scores masks on its share of the examples, and one reduction joins the scores.

Scores are split where they are means over examples or functions of all logits. Elsewhere (metrics such as F1,
callables, streamed examples) every rank scores all examples, and the value of rank 0 counts. In both cases all ranks
get equal bits, so that searchers take the same decisions everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.scoring.objectives import Objective, accuracy, loss
from masksearch.tasks import Task
from masksearch.utils.errors import InputError
from masksearch.utils.ranks import bounds, ranks

_HASH = 1 << 50  # a float has 53 bits


@dataclass(frozen=True)
class RankShare:
    """Examples on which one of torchrun's processes (ranks) scores masks, and how scores of all ranks are combined."""

    split: Any
    weight: float | None = None  # examples or tokens over which the rank's score is a mean; None: a score of all
    gathers_logits: bool = False  # whether each rank computes the score from the logits of all ranks


def share_of_rank(split: Any, row: Objective, task: Task, has_logits: bool) -> RankShare:
    """Return the examples that this process scores masks on: its share, or all if shares can't give the exact score.

    Parameters
    ----------
    has_logits : bool
        Whether the score is ``row.of_logits`` of the logits of all examples.
    """
    together = ranks()
    if together.size == 1 or not split.resident or len(split) < 2 * together.size or row.of_network is not None:
        return RankShare(split)
    start, stop = bounds(len(split), together.rank, together.size)
    part = split[start:stop]
    if has_logits and row.of_logits in (accuracy, loss):
        return RankShare(part, stop - start)
    if has_logits:
        return RankShare(part, gathers_logits=True)
    if row.of_task == "loss":
        return RankShare(part, task.n_parts(part.targets, stop - start))
    if row.of_task == "distance" and task.distance is not None and task.weight is None and task.select is None:
        return RankShare(part, stop - start)
    return RankShare(split)


def equal_scores(proposals: Sequence[Proposal], scores: Sequence[Score], weight: float | None = None) -> list[Score]:
    """Combine the scores that each process computed on its examples, in one reduction; all processes get equal scores.

    Parameters
    ----------
    weight : float, optional
        Examples or tokens over which this rank's scores are means. Default: the scores are those of all examples, and
        rank 0's are returned.

    Raises
    ------
    InputError
        If the ranks have scored different masks.
    """
    together, n = ranks(), len(scores)
    if together.size == 1 or not n:
        return list(scores)
    hashes = [float(proposal.mask.hash % _HASH) for proposal in proposals]
    values = [value for score in scores for value in (score.value, score.exact, score.seconds, score.images)]
    rows = together.gather([*hashes, *values, 0.0 if weight is None else weight])
    if any(row[:n] != rows[0][:n] for row in rows):
        raise InputError(
            f"the {together.size} processes of torchrun score different masks; give every process the same seed and "
            "data, leave out budgets in seconds, and on CUDA --set run.deterministic=true"
        )
    joined = []
    for number, score in enumerate(scores):
        value, exact, seconds, images = rows[0][n + 4 * number : n + 4 * number + 4]
        if weight is not None:
            counted = [(row[n + 4 * number], row[-1]) for row in rows if row[-1]]
            value = sum(mean * size for mean, size in counted) / sum(size for _, size in counted)
            images = sum(row[n + 4 * number + 3] for row in rows)
        joined.append(replace(score, value=value, exact=bool(exact), seconds=seconds, images=int(images)))
    return joined
