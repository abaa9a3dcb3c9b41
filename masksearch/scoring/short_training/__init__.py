"""Scores of masks from short trainings of the masked network."""

from masksearch.scoring.short_training.short_training import ShortTraining

__all__ = ["ShortTraining"]
