"""Searchers: what proposes masks. The table below is the catalogue."""

from collections.abc import Callable

from masksearch.searchers.annealing import Annealing
from masksearch.searchers.base import Searcher
from masksearch.searchers.random_search import RandomSearch
from masksearch.searchers.thesis_annealing import ThesisAnnealing
from masksearch.table import Table

__all__ = ["SEARCHERS", "Annealing", "RandomSearch", "Searcher", "ThesisAnnealing"]

SEARCHERS: Table[Callable[[], Searcher]] = Table(
    "searcher",
    {
        "annealing": Annealing,
        "annealing_thesis_mlp": ThesisAnnealing.mlp,
        "annealing_thesis_cnn": ThesisAnnealing.cnn,
        "random_search": RandomSearch,
    },
)
