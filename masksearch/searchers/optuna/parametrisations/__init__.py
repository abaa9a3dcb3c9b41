"""Parametrisations: mappings from a few numbers, which a sampler proposes, to a mask of exact density."""

from masksearch.searchers.optuna.parametrisations.base import Parametrisation
from masksearch.searchers.optuna.parametrisations.densities_and_saliencies import Layers, Mixture
from masksearch.searchers.optuna.parametrisations.free_density import RANGE, FreeDensity
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
