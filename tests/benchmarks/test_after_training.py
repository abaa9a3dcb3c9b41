"""Scripts for sweeps after training: power of a pilot, scores against fine-tuning, pruners of other packages."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import masksearch as ms
from benchmarks import power, score_ranking
from benchmarks.rows import read_csv
from masksearch.experiment import Settings, load_recipe, run_sweep
from masksearch.experiment.sweep_grid import grid
from masksearch.plugin import load_plugins, scoped
from masksearch.pruning.reconstruction import Reconstruction, recalibrate
from masksearch.utils.files import read_json, write_json

SMALL = {
    "model": "resnet20:0.25",
    "granularity": "filter",
    "hold": "macs",
    "sparsity": [0.5],
    "seeds": 2,
    "epochs": 1,
    "lr": 0.05,
    "train_examples": 200,
    "val_examples": 200,
    "search_examples": 100,
    "calibration_examples": 64,
    "objective": "reconstructed",
    "reconstruct": "independent",
    "retrain_epochs": 1,
    "threads": 1,
    "latency_seconds": 0.0,
    "on_empty": "keep_one",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two small sweeps on the same dense networks: criteria, and a search."""
    runs = tmp_path_factory.mktemp("runs")
    parts = {"criteria": {"methods": ["filter_l1", "fpgm"]}, "search": {"methods": ["random_search", "annealing"]}}
    for name, own in parts.items():
        run_sweep(Settings().updated(SMALL | {"runs": str(runs), "name": name, "budget": 3} | own, "test"))
    return [runs / name for name in parts]


def test_power_and_seeds_needed_match_a_paired_t_test():
    assert power.seeds_needed(1.0, 1.0) == 11  # a paired t-test needs 10, and the signed-rank test 1 / 0.955 as many
    assert power.seeds_needed(1.0, 0.1) == 6  # fewer can't reach 5 %
    assert power.seeds_needed(0.001, 1.0) is None
    assert power.power(12, 1.0, 1.0) == pytest.approx(0.85, abs=0.03)
    assert power.power(12, 0.0, 1.0) == pytest.approx(0.05, abs=0.001)


def test_contrast_pairs_values_by_seed():
    found = {"one": {0: 90.0, 1: 91.0, 2: 92.0}, "other": {1: 90.0, 2: 90.0, 3: 1.0}}
    own = power.contrast(found, "one", "other")
    assert (own.mean, own.seeds) == (1.5, 2)
    assert own.deviation == pytest.approx(0.5**0.5)
    assert own.upper > own.deviation


def test_pilot_contrast_ignores_test_results(folders, tmp_path, capsys):
    assert power.main([str(folder) for folder in folders]) == 0
    out = capsys.readouterr().out
    copies = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    for file in tmp_path.rglob("metrics.json"):
        text = re.sub(r'"test_accuracy": *[0-9.]+', '"test_accuracy": 0.5', json.dumps(read_json(file)))
        write_json(file, json.loads(text))
    assert power.main([str(folder) for folder in copies]) == 0
    assert capsys.readouterr().out == out
    assert re.search(r"Contrast: annealing minus (filter_l1|fpgm) layerwise\. Deviation .* \(2 seeds", out)
    assert all(f"| {name}" in out for name in ("random_search", "annealing", "filter_l1 layerwise", "fpgm layerwise"))
    assert power.main([str(folders[0])]) == 0
    assert "50 %: no search" in capsys.readouterr().out
    assert power.main([str(folders[0] / "nothing")]) == 2


def test_score_ranking_continues_its_rows(folders, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    arguments = [str(folders[0]), "--epochs", "1", "--rows", str(rows)]
    assert score_ranking.main([*arguments, "--masks", "3"]) == 0
    first = read_csv(rows)
    assert len(first) == 6
    assert {row["seed"] for row in first} == {"0", "1"}
    assert all(float(row[name]) < float("inf") for row in first for name in score_ranking.SCORES)
    assert all(0 <= float(row[f"{name}_after"]) <= 1 for row in first for name in score_ranking.AFTER)
    out = capsys.readouterr().out
    assert all(f"| {name} | 2 | 3 |" in out for name in score_ranking.SCORES)
    assert score_ranking.main([*arguments, "--masks", "4"]) == 0
    again = read_csv(rows)
    assert len(again) == 8
    assert [row for row in again if row["mask"] != "3"] == first


def trained():
    data = ms.load_data("digits", train_examples=200, val_examples=100, search_examples=50)
    model = ms.build_model("resnet20:0.25", data, seed=0)
    ms.train(model, data.train, ms.TrainSettings(epochs=1, lr=0.05), seed=0)
    return model.eval(), ms.filter_space(model, data.search.images[:1]), data


METHODS = ["tp_l1", "tp_group_norm", "tp_isomorphic", "modelopt_fastnas"]


@pytest.mark.parametrize("name", METHODS)
def test_pruners_of_other_packages_keep_a_share_of_the_macs(name, monkeypatch):
    pytest.importorskip("modelopt.torch.prune" if "modelopt" in name else "torch_pruning")
    other_packages = importlib.import_module("benchmarks.other_packages")
    monkeypatch.setattr(other_packages, "STEPS", 20)
    model, space, data = trained()
    mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    assert torch.equal(other_packages.kept_units(space, model, ms.prune(model, space, mask)), mask.bits)
    with scoped():
        load_plugins(["benchmarks.other_packages"])
        amount = ms.Amount(0.73, hold="macs", scope="global", on_empty="keep_one")
        mask = ms.criteria.select(name, model, space, data.train, amount)
    assert 0.3 < space.share(mask, "macs") <= 0.73
    assert not mask.empty_layers()


def test_methods_of_other_packages_reuse_the_dense_networks_of_a_sweep(folders, monkeypatch):
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(importlib.import_module("benchmarks.other_packages"), "STEPS", 20)
    before = set((folders[0].parent / "dense").iterdir())
    with scoped():
        own = {"plugin": ["benchmarks.other_packages"], "methods": ["tp_l1"], "scope": "global", "seeds": 1}
        settings = SMALL | {"runs": str(folders[0].parent), "name": "other"} | own
        result = run_sweep(Settings().updated(settings, "test"))
    assert [cell.method for cell in result.cells] == ["tp_l1"]
    assert set((folders[0].parent / "dense").iterdir()) == before


def test_repair_energy_ranks_masks_of_inverted_bottlenecks():
    model = ms.build_model("mobilenet_v2:0.1", (1, 8, 8), seed=0)
    inputs = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    recalibrate(model.eval(), [inputs])
    space = ms.filter_space(model, inputs[:1])
    energy = ms.repair_energy(model, space, inputs)
    amount = ms.Amount(0.5, hold="macs", scope="layerwise", on_empty="keep_one")
    best, worst = (space.top_k(sign * energy.saliency(), amount) for sign in (1, -1))
    assert energy(best) < energy(worst)
    errors = Reconstruction(model, space, inputs).errors(best)
    assert len(errors) > 20  # expansions and projections; depthwise convolutions lose no inputs
    assert not any(name.endswith("conv2") for name in errors)
    assert all(0 <= error < 1 for error in errors.values())


def test_post_training_recipe_has_its_parts_seeds_and_settings():
    final = {part.run.name.rpartition("_")[2]: part for part in load_recipe("post_training", "final")}
    assert {"uniform", "energy", "programme", "random", "dense"} <= set(final)
    assert all(part.sweep.seed_range == range(10, 22) for part in final.values())
    fastnas = load_recipe("post_training", "fastnas", ["global"])[0]
    assert (fastnas.sweep.sparsity, fastnas.train.epochs, fastnas.schedules.retrain_epochs) == ((0.27,), 60, 15)
    distilled = load_recipe("post_training", "paper", ["distilled"])
    assert {cell.distill for part in distilled for cell in grid(part)} == {0.9}
