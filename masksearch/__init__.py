"""masksearch: pruning masks of neural networks, found by black-box search and compared fairly with every criterion."""

from masksearch import analysis, cost, criteria, data, deploy, export, models, schedules, searchers, supermasks
from masksearch.data import Data, Split, load_data
from masksearch.errors import InputError
from masksearch.gradual import gradual_saliency
from masksearch.history import History
from masksearch.loop import search
from masksearch.mask import Mask
from masksearch.models import build_model
from masksearch.move import Move
from masksearch.plugin import load_plugins
from masksearch.pruning import load_pruned, prune, restore_state, save_pruned, slice_state
from masksearch.rounds import run_rounds
from masksearch.scoring import LatencyShare, Scorer, ShortTraining
from masksearch.space import MaskSpace
from masksearch.spaces import FilterSpace, WeightSpace, filter_space, weight_space
from masksearch.ticket import draw_ticket
from masksearch.training import TrainSettings, evaluate, train
from masksearch.trial import Budget, Problem, Proposal, Score, Trial

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
