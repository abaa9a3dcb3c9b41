"""Scorers: what a mask is worth, measured on images."""

from masksearch.scoring.latency import LatencyShare
from masksearch.scoring.objectives import OBJECTIVES
from masksearch.scoring.scorer import Scorer
from masksearch.scoring.short_training.short_training import ShortTraining
from masksearch.scoring.signed_constants import signed_constants

__all__ = ["OBJECTIVES", "LatencyShare", "Scorer", "ShortTraining", "signed_constants"]
