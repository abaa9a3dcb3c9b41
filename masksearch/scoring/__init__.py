"""Scorers: they measure how good pruning masks of a network are, on examples."""

from masksearch.scoring.constant_weights import signed_constants
from masksearch.scoring.latency import LatencyShare
from masksearch.scoring.objectives import OBJECTIVES
from masksearch.scoring.parallel import ParallelScorer
from masksearch.scoring.scorer import Scorer
from masksearch.scoring.short_training.short_training import ShortTraining

__all__ = ["OBJECTIVES", "LatencyShare", "ParallelScorer", "Scorer", "ShortTraining", "signed_constants"]
