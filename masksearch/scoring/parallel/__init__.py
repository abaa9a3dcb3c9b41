"""Scoring by several workers at once: processes of this machine, Ray actors, or coroutines of this process."""

from masksearch.scoring.parallel.parallel_scorer import WORKERS, ParallelScorer

__all__ = ["WORKERS", "ParallelScorer"]
