"""Optuna's samplers as searchers of masks."""

from masksearch.searchers.optuna.samplers import OptunaSearch

__all__ = ["OptunaSearch"]
