"""Parametrisations: how a few numbers become a mask of exact density. What a sampler sees of the mask space."""

from masksearch.searchers.optuna.parametrisations.densities import Layers, Mixture
from masksearch.searchers.optuna.parametrisations.free_density import RANGE, FreeDensity
from masksearch.searchers.optuna.parametrisations.parametrisation import Parametrisation
from masksearch.searchers.optuna.parametrisations.units import Bits, Blocks

__all__ = [
    "RANGE",
    "Bits",
    "Blocks",
    "FreeDensity",
    "Layers",
    "Mixture",
    "Parametrisation",
]
