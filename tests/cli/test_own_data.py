"""``masksearch run`` with the user's own data, networks and tasks, and with networks of timm."""

import importlib.util
import sys

import pytest
import torch
from PIL import Image

from masksearch.cli import dispatch as cli
from masksearch.cli.run_arguments import parse
from masksearch.experiment import read_sweep
from masksearch.experiment.settings.catalogue import settings_by_key

OWN = """
from pathlib import Path

import torch
from torch import nn

import masksearch as ms


def images(train_examples=None, image_size=8):
    Path("data_is_read").touch()
    pixels = torch.randint(0, 256, (300, 1, image_size, image_size), generator=torch.manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(300) % 3
    train, test = (pixels[:200], labels[:200]), (pixels[200:], labels[200:])
    return ms.Data.from_tensors("mine", train, test, train_examples=train_examples)


def numbers():
    inputs = torch.randn(200, 4, generator=torch.manual_seed(0))
    targets = inputs[:, :1] - inputs[:, 1:2]
    train, test = (inputs[:150], targets[:150]), (inputs[150:], targets[150:])
    return ms.Data.from_tensors("numbers", train, test, task="regression")


def list_of_images():
    return []


def network(data):
    pixels = data.example(1).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, data.classes))


def number():
    return 3
"""
TINY = (
    "--methods snip --sparsity 0.5 --seeds 1 --epochs 1 --device cpu --threads 1 --set run.latency_seconds=0.002 "
    "scoring.examples_per_class=2"
)


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    """In a folder that contains own.py, with functions that return data and networks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(capsys, flags):
    """Run a tiny sweep, and return (exit code, standard error)."""
    code = cli.main(["run", *flags.split(), *TINY.split()])
    return code, capsys.readouterr().err


RUNS = {
    "own data and network": "--data own.py:images --model own.py:network",
    "own data of another size": "--dataset=own.py:images --image-size 12 --model own.py:network --task classification",
    "fewer own examples": "--data own.py:images --model lenet_300_100:0.05 --train-examples 100",
    "own network on a data set of the table": "--model own.py:network --train-examples 200",
    "a network of timm": "--data own.py:images --image-size 32 --model timm:resnet10t",
}


@pytest.mark.parametrize("flags", RUNS.values(), ids=RUNS)
def test_run_accepts_user_data_and_networks(flags, capsys, tmp_path):
    if "timm" in flags and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    code, err = run(capsys, flags)
    assert (code, err) == (0, "")
    [cell] = read_sweep(tmp_path / "runs/sweep").cells
    assert 0 <= cell.trained.test_accuracy <= 1


def test_run_accepts_user_functions_of_a_module(capsys, tmp_path, monkeypatch):
    (tmp_path / "own.py").rename(tmp_path / "my_own_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(capsys, "--data my_own_module:images --model my_own_module:network") == (0, "")


MISTAKES = {  # flags: what the line contains, and whether the data was read before
    "--data own.py:nothing": (["data set: own.py has no function 'nothing'"], False),
    "--data nowhere.py:images": (["nowhere.py: no such file", "path/to/file.py:function"], False),
    "--data no_such_module:images": (["data set: no_such_module can't be imported"], False),
    "--data own.py:": (["unknown data set 'own.py'"], False),
    "--data own.py:list_of_images": (["own.py:list_of_images returned a list; ms.Data is needed"], False),
    "--data own.py:images --task regression": (
        ["task: regression; own.py:images returns data for classification: leave task out"],
        True,
    ),
    "--data own.py:images --task regresion": (["unknown task 'regresion': did you mean 'regression'"], False),
    "--data own.py:images --val-examples 5": (["--val-examples: give --set scoring.val_examples=5"], False),
    "--data own.py:images --set scoring.val_examples=5": (
        ["val_examples: 5; own.py:images has no such parameter"],
        False,
    ),
    "--task segmentation": (["task: segmentation; digits has labels for classification: leave task out"], False),
    "--image-size 32": (["image_size: 32; images of digits have their own size"], False),
    "--dataset imagefolder:nowhere --image-size 0": (["image_size: 0; at least 1"], False),
    "--data": (["--dataset: nothing given; give --dataset TEXT"], False),
    "--data own.py:images --model own.py:nothing": (["model: own.py has no function 'nothing'"], False),
    "--data own.py:images --model own.py:number": (["own.py:number returned a int; an nn.Module is needed"], True),
    "--data own.py:images --model torchvision:resnet19": (["'resnet19': did you mean"], False),
    "--data own.py:images --model resnet19": (["unknown model 'resnet19': did you mean"], False),
    "--data own.py:images --model timm": (["unknown model 'timm': did you mean 'timm:NAME'"], False),
    "--data own.py:images --model timm:resnet19": (["timm", "resnet19"], False),
    "--data own.py:images --executor cluster": (["unknown executor 'cluster'"], False),
    "--data own.py:images --executor processes:0": (["executor: 'processes:0'; write processes:N"], False),
    "--data own.py:numbers": (["the data has no classes", "give module:function"], False),
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_with_user_data_are_a_single_line_before_data_is_read(flags, capsys, tmp_path):
    code, err = run(capsys, flags)
    words, is_read = MISTAKES[flags]
    assert code == 2
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert (tmp_path / "data_is_read").exists() == is_read
    assert not (tmp_path / "runs/sweep/sweep.json").exists()


def test_image_size_resizes_images_of_a_folder(capsys, tmp_path):
    for part, count in (("train", 12), ("test", 3)):
        for kind in ("a", "b"):
            (tmp_path / "pictures" / part / kind).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (14, 10 + number), (200 if kind == "a" else 20, 10 * number, 0))
                image.save(tmp_path / "pictures" / part / kind / f"{number}.png")
    flags = "--dataset imagefolder:pictures --model lenet_300_100:0.05"
    assert run(capsys, f"{flags} --image-size 8") == (0, "")
    assert run(capsys, f"{flags} --image-size 9") == (0, "")
    sizes = [read_sweep(tmp_path / "runs" / name).settings[0].sweep.image_size for name in ("sweep", "sweep-2")]
    assert sizes == [8, 9]
    code, err = run(capsys, flags)
    assert code == 2
    assert "image_size" in err


@pytest.mark.parametrize("change", [("% 3", "% 2"), ("nn.ReLU", "nn.Tanh")], ids=["data", "network"])
def test_changed_user_function_gives_another_sweep(change, capsys, tmp_path, monkeypatch):
    flags = "--data own.py:images --model own.py:network"
    assert run(capsys, flags) == (0, "")
    assert cli.main(["run", *flags.split(), *TINY.split()]) == 0
    assert "1 of 1 cells are finished already" in capsys.readouterr().out
    (tmp_path / "own.py").write_text(OWN.replace(*change))
    for name in [name for name in sys.modules if name.startswith("own_")]:  # as in another process
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["run", *flags.split(), *TINY.split()]) == 0
    assert "finished already" not in capsys.readouterr().out


def test_data_flag_equals_dataset_flag():
    one, other = (parse([flag, "own.py:images"], "masksearch run")[0] for flag in ("--data", "--dataset"))
    assert one == other
    assert one.sweep.has_own_data


def test_help_all_documents_user_functions(capsys):
    assert cli.main(["run", "--help-all"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--dataset, --data TEXT" in out
    for key in ("sweep.dataset", "sweep.task", "sweep.image_size", "sweep.model"):
        assert " ".join(settings_by_key()[key].text.split()) in out
