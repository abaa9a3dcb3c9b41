"""Sweeps of user data and user networks, for every kind of task, with reports."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_sweeps import small_world  # noqa: F401

from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.experiment.store.sweep_plan import free_name
from masksearch.report import write_report
from masksearch.training import training_loop
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json

OWN = Path(__file__).with_name("own_tasks.py")
TINY = {
    "methods": ["annealing", "snip"],
    "sparsity": [0.5],
    "seeds": 1,
    "budget": 4,
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
    "threads": 1,
    "executor": "inline",
    "latency_seconds": 0.0,
}
TASKS = {
    "regression": ("net", "R2", {"methods": ["annealing", "snip", "grasp", "synflow", "magnitude", "edge_popup"]}),
    "multilabel": ("labels_net", "macro F1", {"objective": "metric"}),
    "segmentation": ("PixelsNet", "mean IoU", {"granularity": "filter", "methods": ["annealing", "taylor"]}),
    "tokens": ("TokensNet", "perplexity", {"objective": "distance", "schedule": ["lottery_ticket"], "rounds": [2]}),
    "pairs": ("PairNet", "R2", {"objective": "short_training", "training_steps": 2}),
    "streamed": ("net", "R2", {"warm_start": "snip@gradual:1ep"}),
    "loaders": ("net", "R2", {"control": ["shuffle"]}),
}


def settings_of(folder, data="regression", model="net", **flat):
    names = {"dataset": f"{OWN}:{data}", "model": f"{OWN}:{model}", "runs": str(folder / "runs"), "name": "sweep"}
    return Settings().updated(TINY | names | flat, "test")


def without_times(node):
    """Results without what differs between two equal runs: seconds, and folders that hold them."""
    if isinstance(node, list):
        return list(map(without_times, node))
    if not isinstance(node, dict):
        return node
    return {name: without_times(value) for name, value in node.items() if name not in ("seconds", "latency")}


def results_in(runs):
    return {str(path.relative_to(runs)): without_times(read_json(path)) for path in runs.rglob("metrics.json")}


@pytest.mark.parametrize("data", TASKS)
def test_sweep_of_every_task_reports_the_metric_of_its_task(data, tmp_path):
    model, metric, flat = TASKS[data]
    result = run_sweep(settings_of(tmp_path, data, model, **flat))
    assert result.cells
    assert len(result.cells) == len(read_json(result.path / "sweep.json")["cells"])
    for cell in result.cells:
        assert cell.metric.name == result.metric.name == metric
        assert cell.score.objective == flat.get("objective", "loss")
        assert None not in (cell.trained.test_accuracy, cell.trained.test_loss, cell.score.search_accuracy)
    page = write_report(result).read_text()
    assert f"{metric} on validation examples" in page
    assert "ccuracy" not in page


def test_streamed_sweep_equals_sweep_in_memory(tmp_path):
    streamed, resident = (run_sweep(settings_of(tmp_path / data, data)) for data in ("streamed", "regression"))
    for one, other in zip(streamed.cells, resident.cells, strict=True):
        assert one.trained.test_accuracy == other.trained.test_accuracy
        assert one.score.search_score == other.score.search_score
        assert one.dense.test_loss == other.dense.test_loss


def test_interrupted_regression_sweep_equals_uninterrupted_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)

    class Interrupted(SweepCallback):
        seen = 0

        def epoch(self, row):
            self.seen += 1
            if self.seen in (1, 4):  # of the dense network, of the second cell
                raise KeyboardInterrupt

    whole, broken = (settings_of(tmp_path / name) for name in ("whole", "broken"))
    run_sweep(whole)
    callback = Interrupted()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_sweep(broken, callback)
    run_sweep(broken, callback)
    assert results_in(tmp_path / "broken" / "runs") == results_in(tmp_path / "whole" / "runs")


def test_distillation_changes_only_the_retraining(tmp_path):
    plain, distilled = (run_sweep(settings_of(tmp_path, name=f"d{d}", distill=d)) for d in (0.0, 0.5))
    assert len(list((tmp_path / "runs" / "dense").iterdir())) == 1
    for one, other in zip(plain.cells, distilled.cells, strict=True):
        assert one.score.search_score == other.score.search_score
        assert one.dense == other.dense
        assert one.trained.test_loss != other.trained.test_loss
    assert {path.name for path in plain.folders}.isdisjoint(path.name for path in distilled.folders)


def test_identity_depends_on_the_content_of_the_data(tmp_path):
    first = run_sweep(settings_of(tmp_path))
    again = run_sweep(settings_of(tmp_path))
    other = run_sweep(settings_of(tmp_path, "scaled_regression", name="other"))
    assert first.folders == again.folders
    identities = [read_json(result.folders[0] / "settings.json")["identity"]["dense"] for result in (first, other)]
    assert identities[0]["data"] != identities[1]["data"]


def test_free_name_finds_the_sweep_after_the_task_replaced_the_objective(tmp_path):
    settings = settings_of(tmp_path)
    result = run_sweep(settings)
    assert result.sweep.objective == "loss"
    assert free_name([settings]) == "sweep"
    other = replace(settings, sweep=replace(settings.sweep, sparsity=(0.25,)))
    assert free_name([other]) == "sweep-2"


@pytest.mark.parametrize("flat", [{"objective": "accuracy"}, {"rescore_by": "calibrated_loss", "rescore": 2}])
def test_classification_objectives_raise_input_error_for_other_tasks(flat, tmp_path):
    with pytest.raises(InputError, match=r"it is for classification; allowed for regression are metric, loss"):
        run_sweep(settings_of(tmp_path, **flat))


def test_checkpoints_left_in_finished_cells_by_an_interruption_are_removed(tmp_path):
    settings = settings_of(tmp_path)
    result = run_sweep(settings)
    dense = next((tmp_path / "runs" / "dense").iterdir())
    left = [result.folders[0] / "retraining.safetensors", dense / "checkpoint_0123.safetensors"]
    for file in left:
        file.write_bytes(b"rest")
        file.with_name(f"{file.name}.lock").touch()
    shutil.rmtree(result.folders[1])
    run_sweep(settings)
    assert not any(file.exists() or file.with_name(f"{file.name}.lock").exists() for file in left)


def test_report_of_a_regression_names_its_metric(tmp_path):
    result = run_sweep(settings_of(tmp_path, seeds=2, sparsity=[0.25, 0.5]))
    page = write_report(result).read_text()
    dense = sum(network.test_accuracy for network in result.dense) / 2
    assert f"The dense network reaches R2 {dense:.3f} (" in page
    assert " R2 " in page
    assert "than the dense network" in page
    table = (result.path / "results.md").read_text()
    assert "| untrained R2 | trained R2 |" in table
    assert "Test R2 after the last epoch" in table
    assert "trained %" not in table
    with (result.path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["trained.test_R2"]) for row in rows] == [cell.trained.test_accuracy for cell in result.cells]


def test_best_method_has_the_lowest_metric_when_lower_is_better(tmp_path):
    result = run_sweep(settings_of(tmp_path, "tokens", "TokensNet", methods=["magnitude", "random"], epochs=4, lr=0.2))
    values = {cell.method: cell.trained.val_accuracy for cell in result.cells}
    best = min(values, key=values.__getitem__)
    page = write_report(result).read_text()
    assert f"50 % sparse: <b>{best}" in page
    assert "perplexity (lower is better)" in page


def test_moment_after_an_early_stop_raises_input_error(tmp_path):
    early = {"epochs": 30, "stop_after": 1, "lr": 1e-30, "methods": ["magnitude"]}  # nothing gets better
    assert run_sweep(settings_of(tmp_path, **early)).cells[0].trained.best_val_epoch == 1
    with pytest.raises(InputError, match=r"20ep; early stopping ended the dense training of seed 0 after 2 epochs"):
        run_sweep(settings_of(tmp_path, find_at=["20ep"], name="late", **early))


def test_sweep_crosses_weights_and_temperatures_of_distillation_for_all_methods(tmp_path):
    crossed = {"retrain_distill": [0.0, 0.5], "retrain_temperature": [1.0, 4.0], "seeds": 2}
    result = run_sweep(settings_of(tmp_path, "multilabel", "labels_net", **crossed))
    assert len(list((tmp_path / "runs" / "dense").iterdir())) == 2  # one per seed: all cells share it
    points = [(cell.method, cell.seed, cell.distill, cell.distill_temperature) for cell in result.cells]
    pairs = [(0.0, None), (0.5, 1.0), (0.5, 4.0)]
    assert set(points) == {(m, seed, *pair) for m in ("annealing", "snip") for seed in (0, 1) for pair in pairs}
    assert len(points) == len(set(points))
    losses = {point: cell.trained.test_loss for point, cell in zip(points, result.cells, strict=True)}
    assert len(set(losses.values())) == len(losses)

    one = {"name": "one", "distill": 0.5, "distill_temperature": 1.0, "seeds": 2}
    for cell in run_sweep(settings_of(tmp_path, "multilabel", "labels_net", **one)).cells:
        assert cell.trained.test_loss == losses[cell.method, cell.seed, 0.5, 1.0]

    table = (write_report(result).parent / "results.md").read_text()
    for method in ("annealing", "snip"):
        for variant in ("", "distillation 0.5, temperature 1", "distillation 0.5, temperature 4"):
            assert f"| {method} | {variant} |" in table
    with (result.path / "results.csv").open() as file:
        rows = [(row["method"], float(row["distill"]), row["distill_temperature"]) for row in csv.DictReader(file)]
    assert set(rows) == {(method, w, "" if t is None else str(t)) for method, _, w, t in points}


def test_temperature_without_distillation_raises_input_error(tmp_path):
    with pytest.raises(InputError, match=r"retrain_temperature: 2; there is no distillation: give retrain_distill"):
        settings_of(tmp_path, retrain_temperature=[2.0])
    with pytest.raises(InputError, match=r"retrain_temperature: 1 2; distillation of regression has no temperature"):
        run_sweep(settings_of(tmp_path, retrain_distill=[0.5], retrain_temperature=[1.0, 2.0]))


LOOP = {"train_fn": f"{OWN}:own_loop", "batch_size": 64}  # the loop has batches of its own


def test_user_training_loop_trains_dense_and_masked_networks(tmp_path):
    flat = {"methods": ["magnitude", "annealing"], "schedule": ["one_shot", "lottery_ticket"]}
    flat |= {"rounds": [2], "control": ["reinit"]}
    result = run_sweep(settings_of(tmp_path / "one", **LOOP | flat))
    own, usual = result.dense[0], run_sweep(settings_of(tmp_path / "usual")).dense[0]
    assert own.test_loss != usual.test_loss
    assert [row.epoch for row in own.epochs] == [2]
    for cell, folder in zip(result.cells, result.folders, strict=True):
        assert cell.trained.val_accuracy is not None
        assert cell.retrain_seconds > 0
        weights = load_file(folder / "retrained.safetensors")
        kept = sum(int((weights[f"{n}.weight"] != 0).sum()) for n in (0, 2))
        assert kept == cell.mask.kept < cell.mask.n_units
        assert cell.trained.test_accuracy != cell.untrained.test_accuracy
    again = run_sweep(settings_of(tmp_path / "two", **LOOP | flat))
    assert results_in(tmp_path / "one" / "runs") == results_in(tmp_path / "two" / "runs")
    assert [path.name for path in again.folders] == [path.name for path in result.folders]


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"train_fn": "own"}, r"train_fn: 'own'; allowed is module:function"),
        ({"train_fn": f"{OWN}:missing"}, r"has no function 'missing'"),
        (
            {"train_fn": f"{OWN}:loop_without_masks"},
            r"train_fn: .*masks.*; a function f\(model, data, \*, masks, epochs",
        ),
        ({"schedule": ["gradual"], "methods": ["magnitude"]}, r"schedule gradual needs masksearch's own training loop"),
        ({"schedule": ["early_bird"], "methods": ["magnitude"]}, r"schedule early_bird needs masksearch's own"),
        ({"objective": "short_training"}, r"objective short_training needs masksearch's own training loop"),
        ({"warm_start": "snip@gradual:1ep"}, r"snip@gradual:1ep needs masksearch's own training loop"),
        ({"lr": 0.1, "retrain_lr": [0.1]}, r"the number of epochs only: leave train.lr, schedules.retrain_lr out"),
        ({"distill": 0.5}, r"the number of epochs only: leave train.distill out"),
        ({"find_at": ["1ep"]}, r"find_at or rewind_to: 1ep; with train_fn there are only the moments 0 and end"),
    ],
)
def test_user_training_loop_with_unsupported_settings_raises_input_error(flat, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_sweep(settings_of(tmp_path, **LOOP | flat))


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"control": ["shuffle"], "schedule": ["iterative"]}, "which a control does not have"),
        ({"methods": ["edge_popup"], "schedule": ["iterative"]}, "learns a mask of all weights in one round"),
        ({"layer_sparsity": ["0=0.5"], "schedule": ["iterative"]}, "can't hold layer_sparsity in several rounds"),
        (LOOP | {"train_fn": f"{OWN}:missing"}, "has no function 'missing'"),
        ({"model": "missing"}, "has no function 'missing'"),
        ({"dense": "missing.pt"}, "missing.pt"),
    ],
)
def test_settings_independent_of_data_are_checked_before_the_data_is_read(flat, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_sweep(settings_of(tmp_path, "unread", **flat))
