"""Optuna's samplers as searchers of masks."""

from masksearch.searchers.optuna.optuna_search import OptunaSearch

__all__ = ["OptunaSearch"]
