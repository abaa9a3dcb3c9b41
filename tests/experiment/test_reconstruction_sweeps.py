"""Sweeps that repair masked networks before retraining, and that score masks after repair."""

import pytest
from small_sweeps import cells_of, settings_in, small_world, sweep_in  # noqa: F401

from masksearch.experiment import run_sweep
from masksearch.experiment.sweep_grid import grid
from masksearch.utils.errors import InputError

FILTERS = {
    "model": "tiny_residual",
    "granularity": "filter",
    "methods": ["filter_l1", "random_search"],
    "sparsity": [0.5],
    "epochs": 4,
    "retrain_epochs": 1,
    "calibration_examples": 64,
    "objective": "reconstructed",
}


@pytest.mark.parametrize("how", ["independent", "sequential"])
def test_reconstruction_lowers_the_loss_before_retraining_for_every_method(how, tmp_path):
    cells = sweep_in(tmp_path, reconstruct=how, **FILTERS)
    assert [cell.metrics.method for cell in cells] == ["filter_l1", "random_search"]
    for cell in cells:
        assert (cell.metrics.find_at, cell.metrics.rewind_to) == ("end", "none")
        masked, repaired = cell.metrics.last.found, cell.metrics.last.untrained
        assert repaired.test_loss < masked.test_loss
        assert cell.metrics.last.score.search_score < 0


def test_reconstruct_changes_the_cell_folder_and_a_finished_cell_is_reused(tmp_path):
    settings = settings_in(tmp_path, reconstruct="independent", **FILTERS | {"methods": ["filter_l1"]})
    [first], [again] = (cells_of(run_sweep(settings)) for _ in range(2))
    assert first.folder == again.folder
    plain = {"methods": ["magnitude"], "rewind_to": ["none"], "find_at": ["end"]}
    folders = [grid(settings_in(tmp_path, **plain, **own))[0].folder for own in (
        {}, {"reconstruct": "off"}, {"calibration_examples": 9}, {"reconstruct": "independent"},
        {"reconstruct": "independent", "calibration_examples": 9},
    )]  # fmt: skip
    assert len(set(folders[:3])) == 1
    assert len(set(folders)) == 3


def test_reconstructed_objective_finds_masks_in_the_trained_network_by_default(tmp_path):
    own = FILTERS | {"methods": ["random_search"]}
    [cell] = grid(settings_in(tmp_path, **own))
    assert (cell.find_at, cell.rewind_to) == ("end", "0")
    [cell] = grid(settings_in(tmp_path, **own, find_at=["1ep"], rewind_to=["lr"], reconstruct="independent"))
    assert (cell.find_at, cell.rewind_to) == ("1ep", "lr")


def test_retrain_warmup_works_with_a_cosine_of_retrain_lr(tmp_path):
    own = {"retrain_lr": [0.1], "retrain_epochs": 4, "lr_schedule": "cosine", "retrain_warmup": 2.0}
    [cell] = sweep_in(tmp_path, reconstruct="independent", **FILTERS | own | {"methods": ["filter_l1"]})
    rates = [row.lr for row in cell.metrics.last.epochs]
    assert rates[0] < rates[1]
    assert rates[1] > rates[2] > rates[3]


WRONG = {
    "reconstruct: independent; it repairs trained weights, not rewind_to 0": {"rewind_to": ["0"]},
    "reconstruct: independent; it repairs trained weights, not rewind_to random": {"rewind_to": ["random"]},
    "reconstruct: independent; gradual changes masks while it trains": {"schedule": ["gradual"]},
    "calibration_examples: 7; at least 8": {"calibration_examples": 7},
    "retrain_warmup: -1.0; allowed is a finite number of epochs": {"retrain_warmup": -1.0},
}


@pytest.mark.parametrize("message", WRONG)
def test_reconstruction_with_wrong_settings_raises_input_error(message, tmp_path):
    with pytest.raises(InputError, match=message):
        settings_in(tmp_path, reconstruct="independent", **WRONG[message])
