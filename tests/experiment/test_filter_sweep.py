"""Sweeps of filter masks: the masked, pruned, saved and retrained networks agree in accuracy and cost."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_sweeps import BegunCells

from masksearch import cost, load_pruned
from masksearch.core.mask import Mask
from masksearch.data import load_data
from masksearch.experiment import Settings, grid, run_sweep
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.models import build_model
from masksearch.report import write_report
from masksearch.scoring import Scorer
from masksearch.spaces import filter_space
from masksearch.training import TrainSettings, evaluate
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors

SWEEP = SweepSettings(
    model="conv2:0.25",
    granularity="filter",
    methods=("annealing", "mag", "mag_sign", "random"),
    sparsity=(0.5,),
    seeds=1,
    budget=20,
)
SCORING = ScoringSettings(train_examples=300, search_examples=60, scope="global", on_empty="allow")


def settings_in(folder, sweep=SWEEP, scoring=SCORING):
    run = RunSettings(runs=str(folder / "runs"), device="cpu", threads=1, latency_seconds=0.005)
    return Settings(sweep, TrainSettings(epochs=2, lr=0.05), scoring=scoring, run=run)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", search_examples=60, train_examples=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    # Within layers, because these norms, compared over layers, empty one at this sparsity.
    settings = settings_in(tmp_path_factory.mktemp("filters"), scoring=replace(SCORING, scope="layerwise"))
    return settings, run_sweep(settings)


def build(data, path=None):
    """The sweep's network, with the weights of a file."""
    model = build_model(SWEEP.model, data, seed=0)
    if path is not None:
        model.load_state_dict(load_tensors(path)[0])
    return model.eval()


LOADER = """
import json, sys, torch
from masksearch import evaluate, load_data, load_pruned
torch.set_num_threads(1)
test = load_data("digits").test
print(json.dumps([evaluate(load_pruned(path), test).accuracy for path in sys.argv[1:]]))
"""


def test_pruned_networks_load_in_a_new_process_with_the_recorded_accuracy(finished):
    _, result = finished
    assert len(result.folders) == 4
    paths = [str(folder / "pruned") for folder in result.folders]
    answer = subprocess.run([sys.executable, "-c", LOADER, *paths], capture_output=True, text=True, check=True)
    accuracies = [cell.trained.test_accuracy for cell in result.cells]
    assert json.loads(answer.stdout) == accuracies
    assert len(set(accuracies)) > 1


def test_masked_and_pruned_networks_have_equal_accuracy(finished, data):
    _, result = finished
    [initial] = (result.path.parent / "dense").glob("*/init.safetensors")
    space = filter_space(build(data), data.test.images[:1])
    for cell, folder in zip(result.cells, result.folders, strict=True):
        mask = Mask.load(folder / "mask.safetensors", space)
        assert mask.n_kept == space.count(0.5) == cell.mask.kept
        model = build(data, initial)
        space.apply(model, mask)
        masked = evaluate(model, data.test)
        assert masked.accuracy == cell.untrained.test_accuracy  # what was noted is the pruned network's
        assert masked.loss == pytest.approx(cell.untrained.test_loss, rel=1e-5)


def conv2_costs(c1, c2, h1, h2):
    """Parameters and MACs of conv2 on 1x8x8 images by hand: biases are parameters, and no MACs."""
    weights = [(9 * c1, 64), (9 * c1 * c2, 64), (16 * c2 * h1, 1), (h1 * h2, 1), (10 * h2, 1)]
    return sum(w for w, _ in weights) + c1 + c2 + h1 + h2 + 10, sum(w * places for w, places in weights)


def test_recorded_costs_match_the_pruned_network(finished):
    _, result = finished
    for cell, folder in zip(result.cells, result.folders, strict=True):
        kept = {
            name: round(density * {"conv1": 16, "conv2": 16, "fc1": 64, "fc2": 64}[name])
            for name, density in cell.mask.densities.items()
        }
        params, macs = conv2_costs(*(kept[name] for name in ("conv1", "conv2", "fc1", "fc2")))
        spent = cell.cost
        assert (spent.params, spent.macs, spent.effective_macs) == (params, macs, macs)
        assert spent.params == sum(p.numel() for p in load_pruned(folder / "pruned").parameters())
        assert spent.nonzero_params <= params
        assert spent.uncounted == {}
        assert 4 * params <= spent.bytes < 4 * params + 4096
        dense = cell.dense.cost
        assert (dense.params, dense.macs) == conv2_costs(16, 16, 64, 64)
        for name in ("ticket_batch_1", "dense_batch_1", "ticket_batch_64"):
            assert 0 < getattr(cell.latency, name) < 1


def test_retraining_keeps_the_weights_and_the_size_of_the_pruned_network(finished, data):
    _, result = finished
    for folder in result.folders:
        small, retrained = load_pruned(folder / "pruned"), load_tensors(folder / "retrained.safetensors")[0]
        assert all(torch.equal(tensor, retrained[name]) for name, tensor in small.state_dict().items())
        assert cost.params(small) < cost.params(build(data))


def test_finished_filter_sweep_runs_again_without_work(finished):
    settings, result = finished
    before = {path: path.stat().st_mtime_ns for path in result.path.rglob("*.safetensors")}
    log = BegunCells()
    assert run_sweep(settings, log).cells == result.cells
    assert log.begun == []
    assert {path: path.stat().st_mtime_ns for path in result.path.rglob("*.safetensors")} == before


def test_mask_with_an_empty_layer_is_reported_and_retrained_masked(tmp_path, data):
    """The norms of fc1's rows, of 256 weights each, leave nothing of conv1, of 9 each."""
    settings = settings_in(tmp_path, replace(SWEEP, methods=("filter_l2", "random"), sparsity=(0.8,)))
    result = run_sweep(settings)
    collapsed, whole = result.cells
    assert "conv1" in collapsed.mask.empty_layers
    assert whole.mask.empty_layers == []
    folder = result.folders[0]
    assert not (folder / "pruned").exists()
    assert (result.folders[1] / "pruned").exists()
    space = filter_space(build(data), data.test.images[:1])
    weights = load_tensors(folder / "retrained.safetensors")[0]
    gone = space.parameter_masks(Mask.load(folder / "mask.safetensors", space))
    assert all((weights[name][~keep] == 0).all() for name, keep in gone.items())
    assert evaluate(build(data, folder / "retrained.safetensors"), data.test).accuracy == (
        collapsed.trained.test_accuracy
    )
    assert collapsed.cost.nonzero_params < whole.cost.params
    assert "empties a layer: 1 of 1" in write_report(result).read_text()


def test_mask_with_an_empty_layer_raises_input_error_under_policy_raise(tmp_path):
    settings = settings_in(
        tmp_path, replace(SWEEP, methods=("filter_l2",), sparsity=(0.8,)), replace(SCORING, on_empty="raise")
    )
    with pytest.raises(InputError, match="conv1") as caught:
        run_sweep(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hold", ["macs", "params"])
def test_every_scored_mask_costs_at_most_the_held_share(hold, tmp_path, data, monkeypatch):
    scored = []
    score = Scorer.score
    monkeypatch.setattr(
        Scorer, "score", lambda self, ps: (scored.extend(getattr(p, "mask", p) for p in ps), score(self, ps))[1]
    )
    sweep = replace(SWEEP, methods=("annealing", "random_search", "filter_l1"), sparsity=(0.6,), budget=30)
    result = run_sweep(settings_in(tmp_path, sweep, replace(SCORING, hold=hold)))
    space = filter_space(build(data), data.test.images[:1])
    kept = space.kept_macs if hold == "macs" else space.kept_params
    bound = 0.4 * kept(space.full())
    assert len({mask.hash for mask in scored}) > 40
    assert all(kept(mask) <= bound for mask in scored)
    for cell in result.cells:
        if not cell.mask.empty_layers:
            assert getattr(cell.cost, hold) <= bound
        assert cell.mask.kept != space.count(0.4)  # a share of units would be something else
    searched = result.cells[0]
    assert getattr(searched.cost, hold) > 0.8 * bound


def test_hold_setting_changes_the_cell_folder(tmp_path):
    cells = [grid(settings_in(tmp_path, scoring=replace(SCORING, hold=hold)))[0] for hold in ("units", "macs")]
    assert cells[0].folder != cells[1].folder


def test_energy_criterion_and_search_keep_equal_numbers_of_filters(tmp_path):
    sweep = replace(SWEEP, methods=("energy", "energy_annealing"), budget=5)
    scoring = replace(SCORING, scope="layerwise")
    ranked, searched = run_sweep(settings_in(tmp_path, sweep, scoring)).cells
    assert searched.scorings == 5
    assert ranked.mask.kept == searched.mask.kept
    with pytest.raises(InputError, match="energy_annealing ranks filter units only"):
        replace(sweep, methods=("energy_annealing",), granularity="weight")
