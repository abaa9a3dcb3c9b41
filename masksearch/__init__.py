"""masksearch: pruning masks of neural networks, found by black-box search and compared fairly with every criterion."""

from masksearch import analysis, cost, criteria, data, models, schedules, searchers, supermasks
from masksearch.core.history import History
from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import Budget, Problem, Proposal, Score, Trial
from masksearch.core.space import MaskSpace
from masksearch.criteria.gradual import gradual_saliency
from masksearch.data import Data, Split, load_data
from masksearch.models import build_model
from masksearch.plugin import load_plugins
from masksearch.pruning import deploy, export
from masksearch.pruning.physical import load_pruned, prune, restore_state, save_pruned, slice_state
from masksearch.pruning.ticket import draw_ticket
from masksearch.schedules.rounds import run_rounds
from masksearch.scoring import LatencyShare, Scorer, ShortTraining
from masksearch.searching.loop import search
from masksearch.spaces import FilterSpace, WeightSpace, filter_space, weight_space
from masksearch.training import TrainSettings, evaluate, train
from masksearch.utils.errors import InputError

__all__ = [
    "Budget",
    "Data",
    "FilterSpace",
    "History",
    "InputError",
    "LatencyShare",
    "Mask",
    "MaskSpace",
    "Move",
    "Problem",
    "Proposal",
    "Score",
    "Scorer",
    "ShortTraining",
    "Split",
    "TrainSettings",
    "Trial",
    "WeightSpace",
    "analysis",
    "build_model",
    "cost",
    "criteria",
    "data",
    "deploy",
    "draw_ticket",
    "evaluate",
    "export",
    "filter_space",
    "gradual_saliency",
    "load_data",
    "load_plugins",
    "load_pruned",
    "models",
    "prune",
    "restore_state",
    "run_rounds",
    "save_pruned",
    "schedules",
    "search",
    "searchers",
    "slice_state",
    "supermasks",
    "train",
    "weight_space",
]
