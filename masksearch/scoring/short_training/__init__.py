"""Scores from short trainings."""

from masksearch.scoring.short_training.short_training import ShortTraining

__all__ = ["ShortTraining"]
