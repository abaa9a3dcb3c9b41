"""Mistakes on the command line: each is one line and exit code 2, before anything is written."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_commands import elsewhere, one_line  # noqa: F401 (a fixture)

from masksearch.cli import dispatch as cli
from masksearch.experiment import sweep

MISTAKES = {  # flags: what the line has to hold, as patterns
    "--sparsity 1.5": ["sparsity: 1.5", "between 0 and 1"],
    "--sparsity 90": ["sparsity: 90.0", "between 0 and 1"],
    "--sparsity abc": ["--sparsity", "abc", "a number is needed"],
    "--sparsity": ["sparsity: nothing given"],
    "--sparsity 0.99999": ["density: 1e-05", "fewer than the 3 layers", "at least 5.98e-05"],
    "--sparsity 0.5 --max-macs 0.25 --granularity filter --methods filter_l1": [
        "sparsity: 0.5",
        "max_macs replaces it",
    ],
    "--methods anneling": ["unknown method 'anneling': did you mean 'annealing'"],
    "--methods annealing annealing": ["methods: annealing annealing", "once"],
    "--methods magnitude --granularity filter": ["methods: magnitude ranks weight units only"],
    "--model lenet_300": ["unknown model 'lenet_300': did you mean 'lenet_300_100'"],
    "--model resnet20:wide": ["'wide' is no width", "numbers above 0"],
    "--model torchvision:resnet19": ["unknown torchvision classifier 'resnet19': did you mean"],
    "--model vgg16": ["vgg16", "1x8x8"],
    "--dataset mnits": ["unknown data set 'mnits': did you mean 'mnist'"],
    "--dataset mnist": ["no complete MNIST", "--data-root", "--download"],
    "--dataset imagefolder": ["imagefolder", "imagefolder:PATH"],
    "--dataset imagefolder:nowhere": ["nowhere/train", "allowed is"],
    "--objective relative_width": ["objective 'relative_width': removed after 0.1.0", "docs/results/tried.md"],
    "--objective acc": ["unknown objective 'acc': did you mean 'accuracy'"],
    "--granularity filtre": ["unknown granularity 'filtre': did you mean 'filter'"],
    "--hold macs": ["hold: macs", "weight masks hold units"],
    "--hold flops": ["unknown hold 'flops'", "units, params, macs"],
    "--budget 0": ["budget: 0", "from 1 to"],
    "--budget ten": ["--budget", "'ten'", "a whole number is needed"],
    "--budgett 10": ["--budgett", "did you mean --budget?"],
    "--seeds 2.5": ["--seeds", "'2.5'", "a whole number is needed"],
    "--seconds -1": ["seconds", "more than 0"],
    "--seconds 2m": ["--seconds: '2m'; a number is needed"],
    "--methods magnitude@gradual:2ep": ["magnitude@gradual:2ep", "saliencies and warm_start"],
    "--find-at 3": ["find_at: '3'", "3ep"],
    "--find-at 11ep": ["11ep is longer than the training of 10ep"],
    "--find-at 0 9999it": ["9999it is longer than the training"],
    "--rewind-to back": ["rewind_to", "'back'", "none, lr, random"],
    "--epochs -1": ["epochs: -1", "0 or more"],
    "--lr nan": ["lr: nan", "finite number above 0"],
    "--optimizer sdg": ["unknown optimizer 'sdg': did you mean 'sgd'", "sgd, adam, adamw, adadelta"],
    "--optimizer AdamW": ["unknown optimizer 'AdamW': did you mean 'adamw'"],
    "--lr-schedule multistep": ["milestones", "at least one epoch"],
    "--set train.milestones=3,2": ["milestones: (3, 2)", "ascending"],
    "--scope globl": ["unknown scope 'globl': did you mean 'global'"],
    "--on-empty never": ["unknown on_empty 'never'", "keep_one"],
    "--set scoring.layers=conv": ["has no conv layer"],
    "--set annealing.radius_start=2": ["radius_start 2.0", "(0, 1)"],
    "--annealing.temperature-start 1": ["--annealing.temperature-start: removed after 0.1.0: "],
    "--set annealing.temperature_start=1": ["annealing.temperature_start: removed after 0.1.0: "],
    "--annealing.heat 1": ["--annealing.heat"],
    "--annealing.chains 4": ["--annealing.chains: give --set annealing.chains=4"],
    "--momentum=0.5": ["--momentum: give --set train.momentum=0.5"],
    "--milestones 3 5": ["--milestones: give --set train.milestones=3,5"],
    "--nesterov": ["--nesterov: give --set train.nesterov=true"],
    "--supermask.no-rescale": ["give --set supermask.rescale=false"],
    "--train.lr 1": ["--train.lr: give --lr"],
    "--set momentum=0.9": ["'momentum' has no group: give train.momentum"],
    "--set train.momentun=0.9": ["unknown setting 'train.momentun': did you mean 'train.momentum'"],
    "--set trian.momentum=0.9": ["'trian.momentum'", "did you mean 'train'"],
    "--set train.momentum=fast": ["train.momentum: 'fast'", "a number is needed"],
    "--set train.momentum=2": ["momentum: 2.0", "in [0, 1)"],
    "--set train.milestones=3,x": ["train.milestones: 'x'", "a whole number"],
    "--set train.nesterov=yes": ["train.nesterov: 'yes'", "true or false"],
    "--set optuna.parametrisation=mix": ["unknown optuna.parametrisation 'mix': did you mean 'mixture'"],
    "--set train.momentum": ["train.momentum=VALUE"],
    "--set": ["set: nothing given", "--set KEY=VALUE"],
    "--sparsity 0.9,0.8": ["separate values with spaces: --sparsity 0.9 0.8"],
    "--methods snip,magnitude": ["separate values with spaces: --methods snip magnitude"],
    "--methods": ["methods: nothing given"],
    "--model timm:resnet19": ["timm"] + ["timm has no 'resnet19'", "did you mean"] * (find_spec("timm") is not None),
    "--dense nowhere.pt": ["nowhere.pt is no file"],
    "--set scoring.examples_per_class=5000": ["examples_per_class: 5000", "smallest class has"],
    "--search-examples 5000": ["search_examples is 5000", "allowed is 1 to"],
    "--subsets growing": ["--subsets: removed after 0.1.0: ", "not better", "docs/results/tried.md"],
    "--subset-stages=3": ["--subset-stages: removed after 0.1.0: "],
    "--subset_stages 3": ["--subset_stages: removed after 0.1.0: "],
    "--objective width --granularity filter --methods eda --rescore 3": [
        "rescore: 3",
        "width uses no validation examples",
        "rescore_by",
    ],
    "--train-examples 0": ["train_examples", "0"],
    "--device gpu": ["device: 'gpu'", "cpu, cuda"],
    "--device cuda:99": ["device: 'cuda:99'; allowed are auto, cpu", "PyTorch finds only", "give --device auto"],
    "--threads 0": ["threads: 0", "at least 1"],
    "--name a/b": ["name: 'a/b'", "without /"],
    "--name": ["--name: nothing given"],
    "--download maybe": ["maybe"],
    "--download=maybe": ["--download", "takes no value, but got 'maybe'"],
    "--epochs": ["--epochs: nothing given; give --epochs N"],
    "--epochs 3 4": ["--epochs: 3 4; one value is needed"],
    "--recipe thesis_mlp thesis_cnn": ["--recipe: thesis_mlp thesis_cnn; one value is needed"],
    "--list=yes": ["--list", "takes no value, but got 'yes'"],
    "-x": ["unknown flag -x", "masksearch run --help-all"],
    "--recipe": ["--recipe: nothing given"],
    "--recipe thesis": ["unknown recipe 'thesis': did you mean 'thesis_mlp'"],
    "--parts global": ["parts: global", "give --recipe NAME"],
    "--recipe thesis_mlp --parts global": ["parts: global", "'thesis_mlp' has no named parts"],
    "--recipe search_trained --parts globl": [
        "unknown part of recipe 'search_trained' 'globl'",
        "did you mean 'global'",
    ],
    "--recipe thesis_mlp --scale tiny": ["unknown scale 'tiny'", "smoke, cpu, paper"],
    "--recipe thesis_mlp --scale smoke --sparsity 3": ["sparsity: 3.0"],
    "--scale tiny": ["unknown scale 'tiny'", "smoke, cpu, paper"],
    "--no-such-flag 3": ["--no-such-flag"],
    "stray": ["stray"],
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_in_run_flags_are_a_single_line_before_anything_is_written(flags, capsys, tmp_path):
    assert cli.main(["run", *flags.split()]) == 2
    line = one_line(capsys)
    for words in MISTAKES[flags]:
        assert words in line
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "sho": "unknown command 'sho': did you mean 'show'",
    "--sparsity 0.5": "unknown command '--sparsity'",
    "show": "show: no folder; give one folder",
    "show a b": "show: a b; give one folder",
    "show nowhere": "nowhere holds no sweep",
    "show a --measure b": "unknown flag --measure: masksearch show --help lists all flags",
    "compare a b --outt c": "unknown flag --outt: did you mean --out?",
    "compare a b --out": "--out: nothing given; give --out FILE",
    "analyse a --what": "--what: nothing given; give --what NAME ...",
    "analyse a --out b c": "--out: b c; one value is needed",
}


@pytest.mark.parametrize("args", COMMANDS)
def test_mistakes_in_other_commands_are_a_single_line(args, capsys):
    assert cli.main(args.split()) == 2
    assert COMMANDS[args] in one_line(capsys)


def test_mistakes_are_shown_on_terminals_without_unicode():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "masksearch.cli", "run", "--budget", "ten"]
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(command, env={**environment, "PYTHONPATH": root}, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "--budget" in ended.stderr
    assert "'ten'" in ended.stderr


@pytest.mark.parametrize("flags", ["--dense nowhere.pt", "--model torchvision:resnet19", "--device cuda:99"])
def test_flags_independent_of_data_are_checked_before_data_is_read(flags, monkeypatch, capsys):
    def read(*_):
        raise AssertionError("data are read")

    monkeypatch.setattr(sweep, "load_part", read)
    assert cli.main(["run", *flags.split()]) == 2
    assert one_line(capsys)
