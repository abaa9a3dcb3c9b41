"""The command line: every mistake is one line and exit code 2, before anything is written."""

import errno
import io
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from masksearch import models
from masksearch.cli import commands as cli
from masksearch.cli.flags import parse
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment import Settings, group, read_sweep, recipe_names, sweep
from masksearch.experiment import cell_run as run_cell
from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key
from masksearch.experiment.settings.text_values import parse_value, value_text
from masksearch.experiment.store.run_folder import locked
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.utils.errors import InputError

TINY = [
    *("run", "--model", "lenet_300_100:0.05", "--methods", "annealing", "snip", "--sparsity", "0.8", "--seeds", "1"),
    *("--budget", "20", "--epochs", "1", "--train-examples", "200", "--search-examples", "50"),
    *("--device", "cpu", "--threads", "1", "--set", "run.latency_seconds=0.002"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


def one_line(capsys):
    """What was said on stderr: one line; and nothing on stdout (but the place of the progress bars)."""
    captured = capsys.readouterr()
    assert captured.out.strip() == ""
    assert captured.err.startswith("masksearch: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert len(captured.err) < 2000
    return captured.err


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_one_line_before_anything_is_written(flags, capsys, tmp_path):
    assert cli.main(["run", *flags.split()]) == 2
    line = one_line(capsys)
    for words in MISTAKES[flags]:
        assert words in line
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "sho": "unknown command 'sho': did you mean 'show'",
    "--sparsity 0.5": "unknown command '--sparsity'",
    "show": "show: takes one folder",
    "show a b": "show: takes one folder",
    "show nowhere": "nowhere holds no sweep",
    "show a --measure b": "unknown flag --measure: masksearch show --help lists all flags",
    "compare a b --outt c": "unknown flag --outt: did you mean --out?",
    "compare a b --out": "--out: nothing given; give --out FILE",
    "analyse a --what": "--what: nothing given; give --what NAME ...",
    "analyse a --out b c": "--out: b c; one value is needed",
}


@pytest.mark.parametrize("args", COMMANDS)
def test_mistakes_in_commands_are_one_line(args, capsys):
    assert cli.main(args.split()) == 2
    assert COMMANDS[args] in one_line(capsys)


def test_mistakes_are_told_on_terminals_without_unicode():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "masksearch.cli", "run", "--budget", "ten"]
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(command, env={**environment, "PYTHONPATH": root}, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "--budget" in ended.stderr
    assert "'ten'" in ended.stderr


@pytest.mark.parametrize("args", [["--list"], ["run", "--list"], ["run", "--list", "--recipe", "thesis_mlp"]], ids=str)
def test_the_list_holds_every_row_of_every_table(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    named = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    for table in (SEARCHERS, CRITERIA, OBJECTIVES, models.MODELS, DATASETS):
        assert set(table) <= named
    assert set(recipe_names()) <= named
    assert "torchvision:NAME" in named
    for line in out.splitlines():
        if line.startswith("  "):
            assert len(line.split()) > 1, f"no word about {line}"


def printed(capsys, *args):
    """What a command prints that ends well."""
    assert cli.main(list(args)) == 0
    return capsys.readouterr().out


def test_the_full_help_has_at_most_sixty_flags_and_every_setting(capsys):
    out = printed(capsys, "run", "--help-all")
    flags = set(re.findall(r"^  (--[a-z][a-z-]*)", out, re.MULTILINE))
    assert {f"--{key.partition('.')[2].replace('_', '-')}" for key in flag_keys()} <= flags
    assert {"--recipe", "--scale", "--parts", "--list", "--set", "--help", "--help-all"} <= flags
    assert len(flags) <= 60
    others = set(re.findall(r"^  ([a-z]+\.[a-z0-9_]+)=", out, re.MULTILINE))
    assert others == set(settings_by_key()) - flag_keys()
    assert all(setting.text.endswith(".") for setting in settings_by_key().values())
    assert max(map(len, out.splitlines())) <= 100


def test_the_full_help_shows_the_settings_of_a_recipe(capsys):
    out = printed(capsys, "run", "--recipe", "early_bird", "--scale", "smoke", "--help-all")
    assert re.search(r"--methods TEXT [^=]*?\(default:\s+bn_scale\)", out)
    assert "train.nesterov=true" in out


def test_the_short_help_fits_two_screens_and_tells_defaults(capsys):
    out = printed(capsys, "run", "--help")
    assert len(out.splitlines()) <= 44
    assert max(map(len, out.splitlines())) <= 100
    assert len(re.findall(r"^  masksearch run --", out, re.MULTILINE)) == 3
    known = {settings_by_key()[key].flag: settings_by_key()[key] for key in flag_keys()}
    entries = re.findall(r"^  (--[a-z-]+)(.*?)(?=^  --|^$)", out, re.MULTILINE | re.DOTALL)
    assert 12 <= len(entries) <= 20
    for flag, text in entries:
        if flag in known:
            first_line = known[flag].text.partition("\n")[0]
            assert first_line in " ".join(text.split())
            assert len(first_line.split()) <= 25
            default = re.search(r"\(default: ([^)]*)\)", " ".join(text.split()))
            if default:
                assert default[1] == value_text(known[flag].default).replace(",", " ")
        else:
            assert flag in ("--recipe", "--set", "--help-all", "--list", "--methods")
    filters = Settings().with_changes({"sweep": {"granularity": "filter"}}).sweep
    words = " ".join(out.split())
    assert f"for filters: {' '.join(filters.methods)})" in words
    assert f"(default for weights: {' '.join(Settings().sweep.methods)};" in words


def test_the_examples_of_the_helps_are_commands(capsys):
    text = printed(capsys, "--help") + printed(capsys, "run", "--help")
    examples = re.findall(r"^  masksearch run((?: --[a-z-]+(?: [a-z0-9_.]+)*)*)", text, re.MULTILINE)
    assert len(examples) >= 6
    for flags in examples:
        if "--help" not in flags:
            assert parse(flags.split(), "masksearch run")


def test_the_version_is_printed(capsys):
    assert re.fullmatch(r"masksearch \d+\.\d+\.\d+\S*\n", printed(capsys, "--version"))


@pytest.mark.parametrize("command", ["show", "compare", "analyse"])
def test_other_commands_have_help(command, capsys):
    assert f"usage: masksearch {command}" in printed(capsys, command, "--help")


def settings_of(flags):
    [settings] = parse(flags.split(), "masksearch run")
    return settings


def test_any_setting_may_be_set():
    asked = settings_of("--set train.momentum=0.5 annealing.chains=4 --lr 0.1 --set train.milestones=3,5")
    assert (asked.train.momentum, asked.annealing.chains, asked.train.milestones) == (0.5, 4, (3, 5))
    assert asked.train.lr == 0.1
    asked = settings_of("--set supermask.rescale=false supermask.lr=none optuna.spread=2 sweep.layer_sparsity=fc1=0.5")
    assert (asked.supermask.rescale, asked.supermask.lr, asked.optuna.spread) == (False, None, 2.0)
    assert asked.sweep.layer_sparsity == ("fc1=0.5",)
    for key, setting in settings_by_key().items():
        text = value_text(setting.default)
        assert parse_value(text, setting.type, key) == setting.default, key


def test_flags_may_have_underscores_equal_signs_and_none():
    asked = settings_of("--train_examples 300 --sparsity=0.5 --seconds None --retrain-epochs none --set train.lr=0.2")
    assert (asked.scoring.train_examples, asked.sweep.sparsity, asked.train.lr) == (300, (0.5,), 0.2)
    assert (asked.scoring.seconds, asked.schedules.retrain_epochs) == (None, None)


def test_every_first_line_of_a_setting_is_a_sentence():
    for setting in settings_by_key().values():
        assert setting.text.partition("\n")[0].endswith("."), setting.key


def test_booleans_may_be_switched_off_again():
    assert not settings_of("--no-connected").scoring.connected
    [part, *_] = parse(["--recipe", "search_trained", "--parts", "search", "--no-connected"], "masksearch run")
    assert not part.scoring.connected


def test_usual_settings_fit_the_granularity():
    weights, filters = settings_of(""), settings_of("--granularity filter")
    assert (weights.scoring.scope, weights.scoring.on_empty) == ("global", "allow")
    assert (filters.scoring.scope, filters.scoring.on_empty) == ("layerwise", "keep_one")
    assert "magnitude" in weights.sweep.methods
    assert "filter_l1" in filters.sweep.methods
    given = settings_of("--granularity filter --scope global --methods fpgm")
    assert (given.scoring.scope, given.scoring.on_empty, given.sweep.methods) == ("global", "keep_one", ("fpgm",))
    with pytest.raises(InputError, match="granularity is filter"):
        settings_of(f"--granularity filter --methods {' '.join(weights.sweep.methods)}")


def test_filters_are_pruned_above_chance_without_any_other_flag(tmp_path):
    flags = ["--train-examples", "600", "--epochs", "4", "--budget", "20", "--seeds", "1", "--threads", "1"]
    assert cli.main(["run", "--granularity", "filter", "--sparsity", "0.5", "--device", "cpu", *flags, *TINY[-2:]]) == 0
    cells = read_sweep(tmp_path / "runs" / "sweep").cells
    assert len(cells) == 6
    for cell in cells:
        assert cell.mask.empty_layers == []
        assert cell.trained.test_accuracy > 0.4


def test_a_sweep_with_other_settings_gets_another_name(capsys, tmp_path):
    assert cli.main(TINY) == 0
    files = {name: (tmp_path / "runs/sweep" / name).read_bytes() for name in ("sweep.json", "results.csv")}
    capsys.readouterr()
    other = [*TINY, "--lr", "0.01"]
    says = "runs/sweep holds a sweep with other settings, which is kept; this sweep is runs/sweep-2"
    says += " (other settings: train.lr)"
    assert printed(capsys, *other).splitlines()[0] == says
    assert len(read_sweep(tmp_path / "runs/sweep-2").cells) == 2
    again = printed(capsys, *other)
    assert again.splitlines()[0] == says
    assert "2 of 2 cells are finished already" in again
    assert "sweep-2" not in printed(capsys, *TINY)
    assert files == {name: (tmp_path / "runs/sweep" / name).read_bytes() for name in files}


@pytest.mark.parametrize("flags", ["--dense nowhere.pt", "--model torchvision:resnet19", "--device cuda:99"])
def test_what_needs_no_data_is_checked_before_they_are_read(flags, monkeypatch, capsys):
    def read(*_):
        raise AssertionError("data are read")

    monkeypatch.setattr(sweep, "load_part", read)
    assert cli.main(["run", *flags.split()]) == 2
    assert one_line(capsys)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]], ids=str)
def test_without_a_command_the_usage_is_shown(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "masksearch run" in out
    assert "masksearch show" in out


def test_a_run_prints_its_table_and_where_to_look_and_show_prints_it_again(capsys, tmp_path):
    assert cli.main(TINY) == 0
    captured = capsys.readouterr()
    result = read_sweep(tmp_path / "runs" / "sweep")
    assert re.search(
        r"^curves +tensorboard --logdir runs/sweep +then http://localhost:6006/#custom_scalars&runSelectionState=\S+$",
        captured.out,
        re.MULTILINE,
    )
    assert re.search(r"^report +runs/sweep/report.html$", captured.out, re.MULTILINE)
    for cell in result.cells:
        row = next(line for line in captured.out.splitlines() if re.match(rf" *{cell.method} .*80 %", line))
        assert f"{100 * cell.trained.test_accuracy:.2f}" in row
        assert f"{100 * cell.untrained.test_accuracy:.2f}" in row
    assert (tmp_path / "runs" / "sweep" / "report.html").exists()
    assert "Traceback" not in captured.err
    folder = tmp_path / "runs" / "sweep"
    (folder / "results.csv").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert cli.main(["show", "runs/sweep"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # show only reads
    shown = capsys.readouterr().out
    assert cli.main(["show", "runs/sweep", "--report"]) == 0
    assert (folder / "results.csv").exists()
    capsys.readouterr()
    table = captured.out[captured.out.index(" method") : captured.out.index("curves")]
    assert table.strip() in shown
    assert cli.main(TINY) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().out


def test_a_sweep_without_a_finished_cell_has_nothing_to_show(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(group, "dense_network", interrupted)
    assert cli.main(TINY) == 130
    assert capsys.readouterr().err.strip() == "interrupted; run the same command again to continue"
    assert cli.main(["show", "runs/sweep"]) == 2
    assert "no cell is finished yet" in one_line(capsys)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_is_told_and_what_was_finished_is_kept(code, capsys, monkeypatch, tmp_path):
    save = run_cell.save_tensors

    def fails(path, *args):
        if "snip" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        save(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(run_cell, "save_tensors", fails)
        assert cli.main(TINY) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert os.strerror(code) in err
    assert "retrained.safetensors" in err
    assert [cell.method for cell in read_sweep(tmp_path / "runs" / "sweep").cells] == ["annealing"]


def test_a_folder_that_can_not_be_made_and_one_in_use_are_told(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert cli.main([*TINY, "--runs", "file"]) == 2
    assert "run folder file/sweep: can't be written to" in one_line(capsys)
    with locked(tmp_path / "runs" / "sweep"):
        assert cli.main(TINY) == 2
    assert "another process is working in it" in one_line(capsys)
    assert not (tmp_path / "runs" / "sweep" / "sweep.json").exists()


def test_a_terminal_that_lacks_characters_does_not_end_a_sweep(monkeypatch, tmp_path):
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding="ascii"))
    assert cli.main(TINY) == 0
    sys.stdout.flush()
    assert b"report  runs/sweep/report.html" in sink.getvalue()


def test_whoever_reads_may_leave():
    code = "import sys; from masksearch.cli.commands import main; sys.exit(main(['--list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() in (0, 1)  # rich has ideas of its own
