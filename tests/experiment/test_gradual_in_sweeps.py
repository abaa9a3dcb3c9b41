"""Saliencies from gradual pruning in sweeps: reused after a resume, counted in the seconds, sent to callbacks."""

import re
import time

import pytest
from small_sweeps import (  # noqa: F401
    DEVICE,
    MIXTURE,
    MLP,
    SHORT,
    TRAINED,
    settings_in,
    small_data,
    small_world,
    sweep_in,
)

from masksearch.criteria import Connectivity, select
from masksearch.criteria.gradual import gradual_saliency
from masksearch.experiment import SweepCallback, run_sweep
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.scoring import Scorer
from masksearch.searching.history_store import read_rows
from masksearch.searching.search_function import search
from masksearch.training import TrainSettings, train
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive

GRADUAL = "magnitude@gradual:2ep"


def interrupt(*given):
    raise KeyboardInterrupt


def test_gradual_saliency_starts_from_the_weights_of_find_at(tmp_path):
    [cell] = sweep_in(tmp_path, **TRAINED, **MIXTURE | {"saliencies": [GRADUAL, "snip@0"]}, budget=1)
    data, network, space = small_data(), cell.build(cell.moment("end")), cell.space

    def choose(density, alive):
        return select("magnitude", network, space, density=density, alive=alive, on_empty="keep_one")

    gradual = Gradual(network, space, choose, 0.1, steps=8)
    training = TrainSettings(epochs=2, lr=0.1, batch_size=64)
    train(network, data.train, training, remask=gradual, seed=derive(0, "gradual saliency"), device=DEVICE)
    assert cell.mask == gradual.mask


def test_resumed_search_reuses_the_gradual_saliency_and_its_seconds(tmp_path, monkeypatch):
    """A resumed search doesn't prune again, and counts the time of the earlier process."""
    calls = []

    def slow(*given, **named):
        calls.append(given)
        time.sleep(0.3)
        return gradual_saliency(*given, **named)

    monkeypatch.setattr("masksearch.experiment.steps.search_inputs.gradual_saliency", slow)
    flat = TRAINED | MIXTURE | {"saliencies": [GRADUAL, "snip@0"], "budget": 4, "seconds": 60.0}
    [whole] = sweep_in(tmp_path / "whole", **flat)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep_in(tmp_path / "parts", **flat)
    [parts] = sweep_in(tmp_path / "parts", **flat)
    assert len(calls) == 2
    assert parts.mask == whole.mask
    assert parts.metrics.search_seconds >= 0.3


def test_time_of_gradual_pruning_counts_towards_the_seconds_of_a_search(tmp_path, monkeypatch):
    budgets = []

    def slow(*given, **named):
        time.sleep(0.3)
        return gradual_saliency(*given, **named)

    def noting(*given, **named):
        budgets.append(named["budget"])
        return search(*given, **named)

    monkeypatch.setattr("masksearch.experiment.steps.search_inputs.gradual_saliency", slow)
    monkeypatch.setattr("masksearch.experiment.steps.mask_search.search", noting)
    flat = TRAINED | MIXTURE | {"saliencies": [GRADUAL, "snip@0"], "budget": 4}
    sweep_in(tmp_path, **flat, seconds=60.0)
    [cell] = sweep_in(tmp_path, **flat, seconds=0.1, name="short")
    sweep_in(tmp_path, **flat, name="free")
    assert 0 < budgets[0].seconds < 59.7
    assert len(list(read_rows(cell.folder))) == 1
    assert budgets[2].seconds is None


def test_callback_receives_gradual_pruning_before_the_search(tmp_path):
    calls_seen = []

    class RecordsCalls(SweepCallback):
        def gradual_begins(self, cell, criterion, epochs):
            calls_seen.append((criterion, epochs))

        def search_begins(self, cell):
            calls_seen.append("search")

        def epoch(self, row):
            calls_seen.append("epoch")

        def trial(self, cell, trial):
            calls_seen.append("trial")

    flat = TRAINED | MIXTURE | {"saliencies": [GRADUAL, "snip@0"], "budget": 1, "retrain_epochs": 0}
    run_sweep([settings_in(tmp_path, **flat)], RecordsCalls())
    assert calls_seen[calls_seen.index(("magnitude", 2)) :] == [("magnitude", 2), "epoch", "epoch", "search", "trial"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": ["iterative"], "rounds": [2], "between_epochs": 1},
        {"granularity": "filter", "model": "tiny_residual", "saliencies": ["filter_l1@gradual:1ep", "fpgm"]},
        {"scope": "erk", "lr_schedule": "plateau"},
    ],
    ids=["rounds", "filters", "scope and schedule"],
)
def test_gradual_saliencies_work_with_rounds_filters_scopes_and_lr_schedules(changes, tmp_path):
    [cell] = sweep_in(
        tmp_path, **TRAINED | MIXTURE | {"saliencies": [GRADUAL, "snip@0"], "sparsity": [0.75], "budget": 3} | changes
    )
    assert cell.mask.density == pytest.approx(0.25, abs=0.02)


def test_warm_start_uses_the_mask_of_gradual_pruning(tmp_path):
    flat = TRAINED | {"methods": ["annealing"], "warm_start": GRADUAL, "budget": 1}
    [cell] = sweep_in(tmp_path, **flat)
    [mixture] = sweep_in(tmp_path, **TRAINED, **MIXTURE | {"saliencies": [GRADUAL, "snip@0"]}, budget=1, name="mixture")
    assert cell.mask == mixture.mask
    [connected] = sweep_in(
        tmp_path, **flat | {"methods": ["optuna_random"], "saliencies": [GRADUAL], "connected": True}, name="connected"
    )
    assert (
        not Connectivity(connected.build(connected.moment("0")), connected.space, small_data().test.images[:1])
        .dead(connected.mask)
        .any()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"saliencies": ["magnitude@gradual:0ep"]},
            "magnitude@gradual:0ep; write magnitude@gradual:2ep, for 1 epoch or more",
        ),
        ({"saliencies": ["magnitude@gradual:2"]}, "magnitude@gradual:2; write magnitude@gradual:2ep"),
        ({"warm_start": GRADUAL, "layer_sparsity": ["1=0.5"]}, "gradual pruning follows one density"),
        (
            {"saliencies": ["filter_l1@gradual:2ep"], "granularity": "filter", "max_macs": [0.5]},
            "filter_l1@gradual:2ep; with max_macs there is no single density",
        ),
    ],
)
def test_gradual_saliency_with_wrong_settings_raises_input_error(changes, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        settings_in(tmp_path, **TRAINED | changes)
