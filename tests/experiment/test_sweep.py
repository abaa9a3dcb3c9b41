"""Sweeps: all cells end, nothing is done twice, wrong settings raise an input error before any work."""

import copy
import json
from dataclasses import replace

import msgspec
import pytest
import torch

from masksearch.core.mask import Mask
from masksearch.data import load_data
from masksearch.experiment import Settings, SweepCallback, grid, read_sweep, run_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.experiment.store.run_folder import locked
from masksearch.models import build_model
from masksearch.scoring import Scorer
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings, evaluate
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json

METHODS = ("annealing", "random_search", "magnitude", "mag_sign", "snip", "random")
SWEEP = SweepSettings(model="lenet_300_100:0.1", methods=METHODS, sparsity=(0.5, 0.9), seeds=2, budget=25)
TRAIN = TrainSettings(epochs=2, lr=0.1)


def settings_in(folder, sweep=SWEEP, **groups):
    run = RunSettings(runs=str(folder / "runs"), data_root=str(folder / "data"), device="cpu")
    return Settings(**{"sweep": sweep, "train": TRAIN, "run": run, **groups})


class Log(SweepCallback):
    """Records the calls of its hooks."""

    def __init__(self):
        self.begun, self.ended, self.trials, self.epochs, self.to_do = [], [], 0, 0, None

    def sweep_begins(self, cells, to_do):
        self.to_do = len(to_do)

    def cell_begins(self, cell):
        self.begun.append(cell.label)

    def trial(self, cell, trial):
        self.trials += 1

    def epoch(self, row):
        self.epochs += 1

    def cell_ends(self, cell, metrics):
        self.ended.append(cell.label)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished sweep, its settings and its log."""
    settings = settings_in(tmp_path_factory.mktemp("sweep"))
    log = Log()
    torch.set_num_threads(1)
    return settings, run_sweep(settings, log), log


def test_callback_receives_every_cell_trial_and_epoch_and_every_cell_ends(finished):
    settings, result, log = finished
    cells = grid(settings)
    assert log.to_do == len(cells) == 24
    assert log.begun == log.ended == [cell.label for cell in cells]
    assert log.trials == 2 * 2 * 2 * 25
    assert log.epochs == 2 * 2 + 24 * 2  # two dense networks and the retrainings
    assert [folder.name for folder in result.folders] == [cell.folder for cell in cells]
    for cell, metrics, folder in zip(cells, result.cells, result.folders, strict=True):
        assert (metrics.method, metrics.sparsity, metrics.seed) == (cell.method, cell.sparsity, cell.seed)
        assert read_json(folder / "status.json") == {"stage": "done"}
        assert of_files(folder) == metrics
        for name in ("settings.json", "mask.safetensors", "retrained.safetensors"):
            assert (folder / name).exists()
        assert (folder / "history.jsonl").exists() == cell.searches
    left_over = [*result.path.rglob("retraining.safetensors"), *result.path.parent.rglob("dense/*/checkpoint*")]
    assert left_over == []


def test_metrics_match_values_computed_from_the_files(finished):
    settings, result, _ = finished
    data = load_data("digits")
    for cell, metrics, folder in zip(grid(settings), result.cells, result.folders, strict=True):
        model = build_model(SWEEP.model, data, seed=cell.seed)
        space = weight_space(model)
        mask = Mask.load(folder / "mask.safetensors", space)
        assert mask.n_kept == metrics.mask.kept == space.count(cell.density)
        initial = copy.deepcopy(model)
        space.apply(initial, mask)
        assert metrics.untrained.test_accuracy == evaluate(initial, data.test).accuracy
        weights = load_tensors(folder / "retrained.safetensors")[0]
        assert (space.unit_sums(weights)[~mask.bits] == 0).all()  # pruned weights stayed exactly zero
        model.load_state_dict(weights)
        assert metrics.trained.test_accuracy == evaluate(model, data.test).accuracy
        if cell.searches:
            rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            scorer = Scorer(build_model(SWEEP.model, data, seed=cell.seed), space, data.search, SWEEP.objective)
            assert len(rows) == metrics.scorings == 25
            assert max(row["score"] for row in rows) == pytest.approx(scorer(mask).value, abs=1e-6)
            assert metrics.score.search_score == pytest.approx(scorer(mask).value, abs=1e-6)
        gap = metrics.score.search_score - metrics.score.rest_score
        assert metrics.score.gap == pytest.approx(gap)


def test_masks_differ_by_method_and_seed_and_methods_share_the_dense_network(finished):
    settings, result, _ = finished
    masks, dense = set(), {}
    for cell, metrics, folder in zip(grid(settings), result.cells, result.folders, strict=True):
        masks.add((folder / "mask.safetensors").read_bytes())
        dense.setdefault(cell.seed, set()).add(metrics.dense.test_accuracy)
    assert len(masks) == 24
    assert all(len(values) == 1 for values in dense.values())


def test_finished_sweep_runs_again_without_work(finished):
    settings, result, _ = finished
    before = {path: path.stat().st_mtime_ns for path in result.path.parent.rglob("*.safetensors")}
    log = Log()
    again = run_sweep(settings, log)
    assert (log.to_do, log.begun, log.trials, log.epochs) == (0, [], 0, 0)
    assert again.cells == result.cells == read_sweep(result.path).cells
    assert {path: path.stat().st_mtime_ns for path in result.path.parent.rglob("*.safetensors")} == before


def test_extended_sweep_runs_only_the_new_cells(finished):
    settings, _result, _ = finished
    log = Log()
    more = replace(settings, sweep=replace(SWEEP, methods=("random", "snip"), sparsity=(0.5, 0.7)))
    assert len(run_sweep(more, log).cells) == 8
    assert len(log.begun) == log.to_do == 4
    assert all("s0.7" in label for label in log.begun)
    assert log.epochs == 4 * 2  # retraining; the dense networks are there
    run_sweep(settings)  # leaves the plan of the larger sweep, for the other tests


def of_files(folder):
    """The result of a cell as its sweep reads it, with the settings that decide it."""
    return CellResult.load(folder)


def strip_seconds(node):
    """Values without wall-clock fields."""
    if isinstance(node, CellResult):
        return strip_seconds(msgspec.to_builtins(node))
    if isinstance(node, dict):
        return {name: strip_seconds(value) for name, value in node.items() if name not in ("seconds", "latency")}
    return [strip_seconds(value) for value in node] if isinstance(node, list) else node


def test_sweep_in_another_folder_has_equal_results_and_keeps_the_global_random_state(finished, tmp_path):
    _settings, result, _ = finished
    small = replace(SWEEP, methods=("annealing", "snip"), sparsity=(0.9,), seeds=1)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = run_sweep(settings_in(tmp_path, small))
    assert torch.equal(torch.get_rng_state(), state)
    for folder, metrics in zip(again.folders, again.cells, strict=True):
        other = result.path / folder.name
        assert (folder / "mask.safetensors").read_bytes() == (other / "mask.safetensors").read_bytes()
        assert (folder / "retrained.safetensors").read_bytes() == (other / "retrained.safetensors").read_bytes()
        assert strip_seconds(metrics) == strip_seconds(of_files(other))


def test_masks_are_found_at_find_at_and_weights_rewound_to_rewind_to(tmp_path):
    methods = ("magnitude@end", "snip", "random")
    sweep = replace(SWEEP, methods=methods, sparsity=(0.5,), seeds=1, find_at=("0", "1ep", "end"))
    schedules = ScheduleSettings(rewind_to=("5it",), retrain_epochs=0)
    result = run_sweep(settings_in(tmp_path, sweep, schedules=schedules))
    assert [cell.find_at for cell in result.cells] == ["end", "0", "0", "1ep", "end"]
    rewound = load_tensors(next((tmp_path / "runs" / "dense").glob("*/weights_5it.safetensors")))[0]
    for folder, metrics in zip(result.folders, result.cells, strict=True):
        weights = load_tensors(folder / "retrained.safetensors")[0]  # no epochs: the rewound weights under the mask
        for name, tensor in weights.items():
            assert torch.equal(tensor, torch.where(tensor != 0, rewound[name], 0.0))
        assert metrics.trained.test_accuracy == metrics.untrained.test_accuracy
    assert len({cell.last.found.test_accuracy for cell in result.cells[1:]}) > 1


def test_exception_of_a_callback_ends_the_sweep_and_keeps_finished_cells(finished, tmp_path):
    _, result, _ = finished
    settings = settings_in(tmp_path, replace(SWEEP, methods=("annealing", "snip"), sparsity=(0.9,), seeds=1))

    class Stops(Log):
        def retraining_begins(self, cell, epochs):
            if cell.method == "snip":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings, Stops())
    assert len(read_sweep(tmp_path / "runs" / "sweep").cells) == 1
    log = Log()
    ended = run_sweep(settings, log)
    assert log.begun == ["snip_s0.9_k0_seed0"]
    for folder, metrics in zip(ended.folders, ended.cells, strict=True):
        assert strip_seconds(metrics) == strip_seconds(of_files(result.path / folder.name))


BAD = {
    "too sparse": ({"sweep": replace(SWEEP, sparsity=(0.9999,))}, "fewer than the 3 layers"),
    "find_at in steps": ({"sweep": replace(SWEEP, find_at=("37it",))}, "37it is longer than the training.*2ep = 36it"),
    "rewind_to in steps": ({"schedules": ScheduleSettings(rewind_to=("37it",))}, "37it is longer"),
    "images per class": (
        {"scoring": ScoringSettings(examples_per_class=500)},
        "examples_per_class: 500; the smallest class",
    ),
    "search images": ({"scoring": ScoringSettings(search_examples=10**6)}, "search_examples"),
    "no search images": ({"scoring": ScoringSettings(search_examples=0)}, "search_examples"),
    "train images": ({"scoring": ScoringSettings(train_examples=10**6)}, "train_examples"),
    "no conv layers": ({"scoring": ScoringSettings(layers="conv")}, "has no conv layer"),
    "model for other images": ({"sweep": replace(SWEEP, model="vgg16")}, "vgg16"),
    "width of a model": ({"sweep": replace(SWEEP, model="fc:wide")}, "wide"),
    "missing data": ({"sweep": replace(SWEEP, dataset="mnist")}, "no complete MNIST in .*--data-root .*--download"),
}


@pytest.mark.parametrize(("groups", "message"), BAD.values(), ids=BAD)
def test_sweep_with_wrong_settings_raises_input_error_before_any_work(groups, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, **groups))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_unknown_device_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="device: 'gpu'") as caught:
        run_sweep(settings_in(tmp_path, run=RunSettings(device="gpu", runs=str(tmp_path / "runs"))))
    assert "\n" not in str(caught.value)


def test_criterion_without_images_ignores_examples_per_class(tmp_path):
    settings = settings_in(
        tmp_path,
        replace(SWEEP, methods=("random",), sparsity=(0.5,), seeds=1),
        scoring=ScoringSettings(examples_per_class=500),
    )
    assert len(run_sweep(settings).cells) == 1


def test_sweep_in_use_raises_input_error_and_changes_no_file(finished):
    settings, result, _ = finished
    before = {path: path.stat().st_mtime_ns for path in result.path.rglob("*.json")}
    with locked(result.path), pytest.raises(InputError, match="another process"):
        run_sweep(settings)
    assert {path: path.stat().st_mtime_ns for path in result.path.rglob("*.json")} == before


def test_read_sweep_of_an_empty_folder_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="holds no sweep"):
        read_sweep(tmp_path)
