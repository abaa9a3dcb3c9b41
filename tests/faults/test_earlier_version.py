"""Files of an earlier version (commit 362d615): finished sweep, search, training and mask are read and continued."""

import shutil
from pathlib import Path

import pytest
import torch

import masksearch as ms
from masksearch.cli import main
from masksearch.experiment import read_sweep

EARLIER = Path(__file__).parent / "earlier_version"
FLAGS = (
    "--model lenet_300_100:0.05 --methods magnitude annealing --budget 12 --seeds 1 --sparsity 0.8 --epochs 2 "
    "--train-examples 100 --device cpu --threads 1 --executor inline --name old"
)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(EARLIER, tmp_path / "copy"))


def run(folder, *flags):
    return main(["run", *FLAGS.split(), *flags, "--runs", str(folder / "sweeps")])


def contents(folder):
    names = ("metrics.json", "mask.safetensors", "retrained.safetensors", "history.jsonl")
    return {path: path.read_bytes() for name in names for path in (folder / "sweeps").rglob(name)}


def test_finished_sweep_of_an_earlier_version_is_shown_and_not_run_again(folder, capsys, monkeypatch):
    monkeypatch.setattr("masksearch.experiment.sweep.run_groups", None)
    before = contents(folder)
    assert main(["show", str(folder / "sweeps" / "old")]) == 0
    assert "magnitude" in capsys.readouterr().out
    assert run(folder, "--warm-start", "none") == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().out
    assert contents(folder) == before
    assert len(read_sweep(folder / "sweeps" / "old").cells) == 2


def test_changed_default_is_named_and_the_earlier_sweep_is_kept(folder, capsys):
    before = contents(folder)
    assert run(folder) == 0  # searches start from a criterion's mask since then
    assert "old-2 (other settings: search.warm_start)" in capsys.readouterr().out.splitlines()[0]
    assert contents(folder).items() >= before.items()


def network():
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(40, 1, 2, 2, generator=generator), torch.arange(40) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    for number, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    return model, ms.Split(images, labels)


def test_search_of_an_earlier_version_continues(folder, tmp_path):
    model, split = network()
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, split, objective="loss")
    continued = ms.search(space, "annealing", scorer, 0.5, 12, folder=folder / "search")
    ms.search(space, "annealing", scorer, 0.5, 6, folder=tmp_path / "new")
    whole = ms.search(space, "annealing", scorer, 0.5, 12, folder=tmp_path / "new")
    assert [trial.mask_hash for trial in continued] == [trial.mask_hash for trial in whole]


def test_training_of_an_earlier_version_continues(folder):
    def train(**checkpoint):
        model, split = network()
        val = ms.Split(split.inputs[:8], split.targets[:8])
        return ms.train(model, split, ms.TrainSettings(epochs=3), val=val, **checkpoint)

    continued, whole = train(checkpoint=folder / "training"), train()
    assert [row.train_loss for row in continued.epochs] == pytest.approx([row.train_loss for row in whole.epochs])


def test_mask_of_an_earlier_version_is_read(folder):
    space = ms.weight_space(network()[0])
    drawn = space.random(0.5, generator=torch.Generator().manual_seed(3))
    assert ms.Mask.load(folder / "mask.safetensors", space) == drawn
