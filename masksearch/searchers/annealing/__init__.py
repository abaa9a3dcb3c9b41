"""Simulated annealing, and the variant of the annealing thesis."""

from masksearch.searchers.annealing.annealing import Annealing
from masksearch.searchers.annealing.thesis import ThesisAnnealing

__all__ = ["Annealing", "ThesisAnnealing"]
