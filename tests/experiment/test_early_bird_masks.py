"""Early-bird tickets: the mask is found at the epoch where the rule fires, and later epochs have no influence."""

import math

import numpy as np
import pytest
from small_sweeps import cells_of, same, settings_in, small_world, sweep_in  # noqa: F401

from masksearch.core.mask import Mask
from masksearch.experiment import SweepCallback, run_sweep
from masksearch.schedules import EarlyBird
from masksearch.training import training_loop
from masksearch.training.epoch import EpochPass
from masksearch.utils.errors import InputError

FILTERS = {"model": "tiny_residual", "granularity": "filter", "methods": ["bn_scale"], "scope": "layerwise"}
EARLY = {"schedule": ["early_bird"], "epochs": 8, "retrain_epochs": 1, "early_bird_threshold": 0.2}


@pytest.mark.parametrize(("density", "relative"), [(0.5, False), (0.5, True), (0.1, True)])
def test_early_bird_fires_at_epoch_five_when_masks_never_change(density, relative, tmp_path):
    flat = {"sparsity": [1 - density], "early_bird_relative": relative, "early_bird_threshold": 0.01}
    [cell] = sweep_in(tmp_path, **EARLY | flat, lr=1e-20)
    assert cell.metrics.early_bird.fired == 5
    assert cell.metrics.find_at == "5ep"
    assert not np.any(cell.metrics.early_bird.distances)


def test_early_bird_never_fires_on_equal_batch_norm_scales(tmp_path):
    """BatchNorm's scales all begin at 1; a mask that ties alone decide is no mask."""
    [cell] = sweep_in(tmp_path, **FILTERS, **EARLY, lr=1e-30)
    seen = cell.metrics.early_bird
    assert seen.fired is None
    assert seen.fires == {"absolute": None, "relative": None}
    assert cell.metrics.find_at == "end"
    assert seen.distances == [[None] * 8] * 8


def test_early_bird_never_fires_in_a_training_shorter_than_its_memory(tmp_path):
    [cell] = sweep_in(tmp_path, **EARLY | {"epochs": 4}, lr=1e-20)
    assert cell.metrics.early_bird.fired is None
    assert same(cell.moment("end"), cell.moment(cell.metrics.find_at))


POINTS = {
    "bn_scale": FILTERS,
    "magnitude": {"methods": ["magnitude"]},
    "snip": {"methods": ["snip"], "early_bird_threshold": 0.36},
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_early_bird_ticket_equals_one_shot_ticket_of_the_firing_epoch(point, tmp_path):
    early = sweep_in(tmp_path, **EARLY | point, rewind_to=["none", "0"])
    fired = early[0].metrics.early_bird.fired
    assert fired is not None
    assert 5 <= fired < 8  # else this test sees nothing
    one_shot = sweep_in(
        tmp_path, **EARLY | point | {"schedule": ["one_shot"]}, rewind_to=["none", "0"], find_at=[f"{fired}ep"]
    )
    for one, other in zip(early, one_shot, strict=True):
        assert one.metrics.find_at == other.metrics.find_at == f"{fired}ep"
        assert one.mask == other.mask
        assert same(one.raw(), other.raw())
        for moment in ("found", "untrained", "trained"):
            assert getattr(one.metrics.last, moment) == getattr(other.metrics.last, moment)
    assert early[0].metrics.epochs[0].epoch == fired + 1
    assert early[1].metrics.epochs[0].epoch == 1


def test_early_bird_distances_and_firing_match_the_one_shot_masks_of_every_epoch(tmp_path):
    """Computed twice: by the watch, and by one-shot cells at the end of each epoch."""
    [cell] = sweep_in(tmp_path, **EARLY)
    every = sweep_in(
        tmp_path, **EARLY | {"schedule": ["one_shot"], "retrain_epochs": 0}, find_at=[f"{e}ep" for e in range(1, 9)]
    )
    masks = [Mask(cell.space, other.mask.bits) for other in every]
    distances = [[one.hamming(other) / cell.space.n_units for other in masks] for one in masks]
    seen = cell.metrics.early_bird
    np.testing.assert_allclose(seen.distances, distances)
    assert np.array_equal(seen.distances, np.transpose(seen.distances))
    assert not np.diag(seen.distances).any()
    assert len({d for row in distances for d in row}) > 8
    for relative, name in ((False, "absolute"), (True, "relative")):
        rule = EarlyBird(0.2, relative)
        assert seen.fires[name] == next((e for e, mask in enumerate(masks, 1) if rule.see(mask)), None)
    assert seen.fired == seen.fires["absolute"]
    assert (seen.threshold, seen.relative) == (0.2, False)


class StopError(Exception):
    pass


class Stops(SweepCallback):
    """Ends the sweep after so many epochs of the dense training."""

    def __init__(self, after):
        self.after = after

    def epoch(self, row):
        if row.epoch == self.after:
            raise StopError


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_world):  # noqa: F811
    """Two cells that watch one training, uninterrupted."""
    cells = sweep_in(tmp_path_factory.mktemp("whole"), **EARLY, sparsity=[0.5, 0.8])
    assert [cell.metrics.early_bird.fired for cell in cells] == [5, 5]
    return cells


@pytest.mark.parametrize("moments", [[2], [5], [6], [8], [1, 3, 5, 7]], ids=str)
@pytest.mark.parametrize("checkpoints", [True, False], ids=["checkpoints", "none"])
def test_resumed_early_bird_training_equals_uninterrupted_training(moments, checkpoints, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0 if checkpoints else math.inf)
    trained, run = [], EpochPass.run
    monkeypatch.setattr(
        EpochPass, "run", lambda self, epoch, *rest: (trained.append(epoch), run(self, epoch, *rest))[1]
    )
    settings = settings_in(tmp_path, **EARLY, sparsity=[0.5, 0.8])
    for after in moments:
        with pytest.raises(StopError):
            run_sweep(settings, Stops(after))
    cells = cells_of(run_sweep(settings))
    if checkpoints:
        # Nothing is trained twice, and the two cells are retrained for an epoch each.
        assert sorted(trained[:8]) == list(range(8))
        assert len(trained) == 8 + 2
    for one, other in zip(whole, cells, strict=True):
        assert one.folder.name == other.folder.name
        assert one.metrics.early_bird == other.metrics.early_bird
        assert one.mask == other.mask
        assert same(one.raw(), other.raw())
        assert same(one.moment("5ep"), other.moment("5ep"))
    files = [
        {path.name for path in cell.dense.iterdir() if "tfevents" not in path.name} for cell in (cells[0], whole[0])
    ]
    assert files[0] == files[1]
    assert not list(cells[0].dense.glob("checkpoint*"))


def test_new_early_bird_watch_of_a_finished_dense_training_repeats_the_training(whole, tmp_path):
    """It runs again, to the same weights."""
    sweep_in(tmp_path, **EARLY | {"schedule": ["one_shot"]}, sparsity=[0.5])
    cells = sweep_in(tmp_path, **EARLY, sparsity=[0.5])
    assert cells[0].metrics.early_bird == whole[0].metrics.early_bird
    assert same(cells[0].raw(), whole[0].raw())


def test_cells_with_the_same_early_bird_settings_share_a_watch_file(tmp_path):
    cells = sweep_in(tmp_path, **EARLY, rewind_to=["0", "none", "random"], control=["reinit"])
    assert len(cells) == 6
    assert len(list(cells[0].dense.glob("watch_*"))) == 1
    assert len({cell.metrics.find_at for cell in cells}) == 1


def test_diverged_early_bird_training_raises_input_error(tmp_path):
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"dense network of seed 0: its loss was not finite .* --lr 1e\+30"
        ) as caught:
            run_sweep(settings_in(tmp_path, **EARLY, lr=1e30))
        assert "\n" not in str(caught.value)
