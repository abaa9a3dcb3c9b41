"""Sweeps of block masks, of block and filter masks together (union), and of 2:4 masks, and their input errors."""

import numpy as np
import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.experiment import Settings, run_sweep
from masksearch.experiment.settings.sweep_settings import METHODS
from masksearch.models import MODELS, ModelRow
from masksearch.report import write_report
from masksearch.spaces import space_of
from masksearch.utils.errors import InputError

SMALL = {
    "model": "residual_mlp",
    "seeds": 1,
    "budget": 6,
    "epochs": 1,
    "retrain_epochs": 1,
    "train_examples": 200,
    "val_examples": 100,
    "search_examples": 40,
    "device": "cpu",
    "threads": 1,
    "latency_seconds": 0.0,
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))

    def forward(self, x):
        return x + self.layers(x)


def residual_mlp(shape, classes, width=1.0):
    n_inputs = int(np.prod(shape))
    blocks = [Block() for _ in range(4)]
    return nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, 16), *blocks, nn.Linear(16, classes))


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    monkeypatch.setitem(MODELS._rows, "residual_mlp", ModelRow(residual_mlp, "MLPs with residual connections"))


def settings(folder, **flat):
    return Settings().updated({**SMALL, "runs": str(folder), **flat}, "test")


@pytest.mark.parametrize("granularity", ["block", "union", "nm"])
def test_default_methods_of_block_union_and_nm_masks_run_and_are_reported(granularity, tmp_path):
    flat = {"granularity": granularity} if granularity == "nm" else {"granularity": granularity, "sparsity": [0.5]}
    own = settings(tmp_path, **flat)
    assert own.sweep.methods == METHODS[granularity]
    assert own.sweep.sparsity == (0.5,)
    result = run_sweep(own)
    assert len(result.cells) == len(METHODS[granularity])
    for cell, folder in zip(result.cells, result.folders, strict=True):
        assert cell.granularity == granularity
        assert cell.mask.density == pytest.approx(0.5, abs=0.01)
        assert not cell.mask.empty_layers
        assert (folder / "pruned").exists() == (granularity != "nm")
        if granularity != "nm":
            assert cell.cost.macs < 0.75 * sum(layer.macs for layer in cell.layers.values())
    write_report(result, own.run.runs)
    assert (result.path / "report.html").exists() or any(result.path.rglob("*.html"))


def test_pruned_networks_of_a_union_sweep_load_with_equal_accuracy_and_cost(tmp_path):
    result = run_sweep(settings(tmp_path, granularity="union", methods=["taylor"], sparsity=[0.5]))
    [cell], [folder] = result.cells, result.folders
    data = ms.load_data("digits")
    small = ms.load_pruned(folder / "pruned", residual_mlp((1, 8, 8), 10))
    assert ms.evaluate(small, data.test).accuracy == pytest.approx(cell.trained.test_accuracy)
    space = space_of("union", residual_mlp((1, 8, 8), 10), data.example(1))
    mask = ms.Mask.load(folder / "mask.safetensors", space)
    assert space.kept_params(mask) == cell.cost.params == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("granularity", ["block", "union"])
@pytest.mark.parametrize(
    "flat",
    [
        {"max_macs": [0.6], "methods": ["taylor", "annealing", "optuna_tpe"]},
        {"schedule": ["iterative"], "methods": ["taylor"], "rounds": [2], "sparsity": [0.5]},
        {"schedule": ["gradual"], "methods": ["mag"], "sparsity": [0.5]},
        {"methods": ["annealing"], "sparsity": [0.5], "warm_start": "taylor:isomorphic"},
    ],
    ids=["caps", "iterative", "gradual", "warm start"],
)
def test_block_and_union_masks_work_with_schedules_and_caps(granularity, flat, tmp_path):
    result = run_sweep(settings(tmp_path, granularity=granularity, **flat))
    for cell in result.cells:
        if "max_macs" in flat:
            assert cell.cost.macs <= 0.6 * sum(layer.macs for layer in cell.layers.values())
        else:
            assert cell.mask.density == pytest.approx(0.5, abs=0.01)


def test_searches_of_blocks_continue_in_later_rounds(tmp_path):
    flat = {"schedule": ["iterative"], "methods": ["annealing"], "rounds": [2], "sparsity": [0.5]}
    [cell] = run_sweep(settings(tmp_path, granularity="block", **flat)).cells
    assert [round_.mask.kept for round_ in cell.rounds] == [3, 2]


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"granularity": "nm", "sparsity": [0.6]}, "with granularity nm it is 0.5"),
        ({"granularity": "nm", "hold": "macs"}, "all weights cost the same"),
        ({"granularity": "nm", "max_macs": [0.5]}, "units of nm masks cost the same"),
        ({"granularity": "nm", "schedule": ["gradual"]}, "2:4 masks have one density"),
        ({"granularity": "nm", "schedule": ["iterative"]}, "2:4 masks have one density"),
        ({"granularity": "nm", "connected": True}, "breaks 2:4 patterns"),
        ({"granularity": "nm", "methods": ["fpgm"]}, "fpgm ranks filter units only, and granularity is nm"),
        ({"granularity": "nm", "methods": ["edge_popup"]}, "edge_popup ranks weight units only, and granularity is nm"),
        ({"granularity": "block", "methods": ["magnitude"]}, "magnitude ranks weight units only"),
        ({"granularity": "block", "layers": "linear"}, "it chooses layers of weight masks"),
        ({"granularity": "block", "layer_sparsity": ["2=0.5"]}, "layers of blocks have no sparsity of their own"),
        ({"granularity": "union", "scope": "erk"}, "layers of blocks and filters have no densities of their own"),
        ({"granularity": "union", "methods": ["block_cosine"]}, "block_cosine ranks block units only"),
        ({"granularity": "union", "methods": ["annealing"], "schedule": ["iterative"]}, "in one round only"),
        ({"granularity": "union", "objective": "width"}, "it scores filter masks only"),
        (
            {"granularity": "block", "schedule": ["rigl"], "methods": ["mag"]},
            "regrows weights, and granularity is block",
        ),
    ],
)
def test_granularity_with_unsupported_settings_raises_input_error(flat, message, tmp_path):
    with pytest.raises(InputError, match=message):
        settings(tmp_path, **flat)


def test_change_of_granularity_brings_its_default_values(tmp_path):
    nm = settings(tmp_path, granularity="nm")
    weights = nm.with_changes({"sweep": {"granularity": "weight"}})
    assert weights.sweep.sparsity == Settings().sweep.sparsity
    assert weights.sweep.methods == METHODS["weight"]
    assert weights.with_changes({"sweep": {"granularity": "union"}}).scope == "layerwise"


def test_network_without_blocks_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="no residual branch"):
        run_sweep(settings(tmp_path, granularity="block", model="lenet_300_100:0.1"))
    assert torch.get_default_dtype() == torch.float32
