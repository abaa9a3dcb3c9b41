"""Searchers: algorithms that propose masks and learn from their scores. The table ``SEARCHERS`` lists them."""

from collections.abc import Callable

from masksearch.searchers.annealing import Annealing
from masksearch.searchers.eda import EDA
from masksearch.searchers.energy_annealing import EnergyAnnealing
from masksearch.searchers.evolution import Evolution
from masksearch.searchers.evopress import LevelSwitches
from masksearch.searchers.fastnas import OneTolerance
from masksearch.searchers.layer_coefficients import LayerCoefficients
from masksearch.searchers.optuna.optuna_search import OptunaSearch
from masksearch.searchers.random_search import RandomSearch
from masksearch.searchers.searcher import Searcher
from masksearch.searchers.thesis_annealing import ThesisAnnealing
from masksearch.searchers.width_regression import WidthRegression
from masksearch.utils.registry import Table

__all__ = [
    "EDA",
    "SEARCHERS",
    "Annealing",
    "EnergyAnnealing",
    "Evolution",
    "LayerCoefficients",
    "LevelSwitches",
    "OneTolerance",
    "OptunaSearch",
    "RandomSearch",
    "Searcher",
    "ThesisAnnealing",
    "WidthRegression",
]

SEARCHERS: Table[Callable[[], Searcher]] = Table(
    "searcher",
    {
        "annealing": Annealing,
        "annealing_thesis_mlp": ThesisAnnealing.mlp,
        "annealing_thesis_cnn": ThesisAnnealing.cnn,
        "energy_annealing": EnergyAnnealing,
        "random_search": RandomSearch,
        "eda": EDA,
        "evolution": Evolution,
        "spdy": LayerCoefficients.spdy,
        "ziplm": LayerCoefficients.ziplm,
        "legr": LayerCoefficients.legr,
        "evopress": LevelSwitches,
        "fastnas": OneTolerance,
        "width_regression": WidthRegression,
        "optuna_random": OptunaSearch.random,
        "optuna_tpe": OptunaSearch.tpe,
        "optuna_cmaes": OptunaSearch.cmaes,
        "optuna_gp": OptunaSearch.gp,
        "optuna_qmc": OptunaSearch.qmc,
        "optuna_nsga2": OptunaSearch.nsga2,
        "optuna_nsga3": OptunaSearch.nsga3,
    },
)
