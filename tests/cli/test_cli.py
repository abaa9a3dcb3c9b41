"""The command line: help, settings from flags, and runs."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_commands import TINY, elsewhere, one_line, printed  # noqa: F401 (a fixture)

from masksearch import models
from masksearch.cli import dispatch as cli
from masksearch.cli.run_arguments import parse
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment import Settings, dense_group, read_sweep, recipe_names
from masksearch.experiment import cell_run as run_cell
from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key
from masksearch.experiment.settings.text_values import parse_value, value_text
from masksearch.experiment.store.run_folder import locked
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("args", [["--list"], ["run", "--list"], ["run", "--list", "--recipe", "thesis_mlp"]], ids=str)
def test_list_flag_shows_every_row_of_every_table(args, capsys):
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


def test_help_all_has_at_most_sixty_flags_and_every_setting(capsys):
    out = printed(capsys, "run", "--help-all")
    flags = set(re.findall(r"^  (--[a-z][a-z-]*)", out, re.MULTILINE))
    assert {f"--{key.partition('.')[2].replace('_', '-')}" for key in flag_keys()} <= flags
    assert {"--recipe", "--scale", "--parts", "--list", "--set", "--help", "--help-all"} <= flags
    assert len(flags) <= 60
    others = set(re.findall(r"^  ([a-z]+\.[a-z0-9_]+)=", out, re.MULTILINE))
    assert others == set(settings_by_key()) - flag_keys()
    assert all(setting.text.endswith(".") for setting in settings_by_key().values())
    assert max(map(len, out.splitlines())) <= 100


def test_help_all_shows_the_settings_of_a_recipe(capsys):
    out = printed(capsys, "run", "--recipe", "early_bird", "--scale", "smoke", "--help-all")
    assert re.search(r"--methods TEXT [^=]*?\(default:\s+bn_scale\)", out)
    assert "train.nesterov=true" in out


def test_short_help_fits_two_screens_and_shows_defaults(capsys):
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


def test_examples_in_help_are_valid_commands(capsys):
    text = printed(capsys, "--help") + printed(capsys, "run", "--help")
    examples = re.findall(r"^  masksearch run((?: --[a-z-]+(?: [a-z0-9_.]+)*)*)", text, re.MULTILINE)
    assert len(examples) >= 6
    for flags in examples:
        if "--help" not in flags:
            assert parse(flags.split(), "masksearch run")


def test_version_flag_prints_the_version(capsys):
    assert re.fullmatch(r"masksearch \d+\.\d+\.\d+\S*\n", printed(capsys, "--version"))


@pytest.mark.parametrize("command", ["show", "compare", "analyse"])
def test_result_commands_have_help(command, capsys):
    assert f"usage: masksearch {command}" in printed(capsys, command, "--help")


def settings_of(flags):
    [settings] = parse(flags.split(), "masksearch run")
    return settings


def test_set_flag_sets_every_setting():
    asked = settings_of("--set train.momentum=0.5 annealing.chains=4 --lr 0.1 --set train.milestones=3,5")
    assert (asked.train.momentum, asked.annealing.chains, asked.train.milestones) == (0.5, 4, (3, 5))
    assert asked.train.lr == 0.1
    asked = settings_of("--set supermask.rescale=false supermask.lr=none optuna.spread=2 sweep.layer_sparsity=fc1=0.5")
    assert (asked.supermask.rescale, asked.supermask.lr, asked.optuna.spread) == (False, None, 2.0)
    assert asked.sweep.layer_sparsity == ("fc1=0.5",)
    for key, setting in settings_by_key().items():
        text = value_text(setting.default)
        assert parse_value(text, setting.type, key) == setting.default, key


def test_flags_accept_underscores_equal_signs_and_none():
    asked = settings_of("--train_examples 300 --sparsity=0.5 --seconds None --retrain-epochs none --set train.lr=0.2")
    assert (asked.scoring.train_examples, asked.sweep.sparsity, asked.train.lr) == (300, (0.5,), 0.2)
    assert (asked.scoring.seconds, asked.schedules.retrain_epochs) == (None, None)


def test_first_line_of_each_setting_text_is_a_sentence():
    for setting in settings_by_key().values():
        assert setting.text.partition("\n")[0].endswith("."), setting.key


def test_no_flags_switch_booleans_off():
    assert not settings_of("--no-connected").scoring.connected
    [part, *_] = parse(["--recipe", "search_trained", "--parts", "search", "--no-connected"], "masksearch run")
    assert not part.scoring.connected


def test_default_settings_depend_on_the_granularity():
    weights, filters = settings_of(""), settings_of("--granularity filter")
    assert (weights.scoring.scope, weights.scoring.on_empty) == ("global", "allow")
    assert (filters.scoring.scope, filters.scoring.on_empty) == ("layerwise", "keep_one")
    assert "magnitude" in weights.sweep.methods
    assert "filter_l1" in filters.sweep.methods
    given = settings_of("--granularity filter --scope global --methods fpgm")
    assert (given.scoring.scope, given.scoring.on_empty, given.sweep.methods) == ("global", "keep_one", ("fpgm",))
    with pytest.raises(InputError, match="granularity is filter"):
        settings_of(f"--granularity filter --methods {' '.join(weights.sweep.methods)}")


def test_default_filter_pruning_is_above_chance(tmp_path):
    flags = ["--train-examples", "600", "--epochs", "4", "--budget", "20", "--seeds", "1", "--threads", "1"]
    assert cli.main(["run", "--granularity", "filter", "--sparsity", "0.5", "--device", "cpu", *flags, *TINY[-2:]]) == 0
    cells = read_sweep(tmp_path / "runs" / "sweep").cells
    assert len(cells) == 6
    for cell in cells:
        assert cell.mask.empty_layers == []
        assert cell.trained.test_accuracy > 0.4


def test_sweep_with_other_settings_gets_another_name(capsys, tmp_path):
    assert cli.main(TINY) == 0
    files = {name: (tmp_path / "runs/sweep" / name).read_bytes() for name in ("sweep.json", "results.csv")}
    capsys.readouterr()
    other = [*TINY, "--lr", "0.01"]
    kept = "runs/sweep holds a sweep with other settings, which is kept"
    says = f"{kept}; this sweep is runs/sweep-2 (other settings: train.lr)"
    assert printed(capsys, *other).splitlines()[0] == says
    assert len(read_sweep(tmp_path / "runs/sweep-2").cells) == 2
    again = printed(capsys, *other)
    assert again.splitlines()[0] == says
    assert "2 of 2 cells are finished already" in again
    assert "sweep-2" not in printed(capsys, *TINY)
    assert files == {name: (tmp_path / "runs/sweep" / name).read_bytes() for name in files}


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]], ids=str)
def test_main_without_a_command_prints_the_usage(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "masksearch run" in out
    assert "masksearch show" in out


def test_run_prints_table_and_paths_and_show_prints_the_table_again(capsys, tmp_path):
    assert cli.main(TINY) == 0
    captured = capsys.readouterr()
    result = read_sweep(tmp_path / "runs" / "sweep")
    assert re.search(
        r"^curves +tensorboard --logdir runs/sweep +then http://localhost:6006/#custom_scalars&regexInput=\S{1,60}$",
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


def test_show_of_a_sweep_without_finished_cells_is_an_error(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dense_group, "dense_network", interrupted)
    assert cli.main(TINY) == 130
    assert capsys.readouterr().err.strip() == "interrupted; run the same command again to continue"
    assert cli.main(["show", "runs/sweep"]) == 2
    assert "no result is finished yet" in one_line(capsys)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_full_disk_error_is_a_single_line_and_keeps_finished_cells(code, capsys, monkeypatch, tmp_path):
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


def test_unwritable_and_locked_run_folders_are_errors(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert cli.main([*TINY, "--runs", "file"]) == 2
    assert "run folder file/sweep: can't be written to" in one_line(capsys)
    with locked(tmp_path / "runs" / "sweep"):
        assert cli.main(TINY) == 2
    assert "another process is working in it" in one_line(capsys)
    assert not (tmp_path / "runs" / "sweep" / "sweep.json").exists()


def test_run_succeeds_on_a_terminal_without_unicode(monkeypatch, tmp_path):
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding="ascii"))
    assert cli.main(TINY) == 0
    sys.stdout.flush()
    assert b"report  runs/sweep/report.html" in sink.getvalue()


def test_list_flag_ends_without_error_when_the_pipe_is_closed():
    code = "import sys; from masksearch.cli.dispatch import main; sys.exit(main(['--list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() in (0, 1)  # rich may end with 1


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no such signal on this system")
def test_sigterm_ends_a_sweep_with_exit_code_143_and_a_hint_to_continue(tmp_path):
    flags = "--methods annealing --model lenet_300_100:0.05 --epochs 1 --sparsity 0.5 --seeds 1 --find-at end"
    command = [sys.executable, "-m", "masksearch.cli", "run", *flags.split(), "--runs", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--budget", "1000000"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as sweep:
        while not list(tmp_path.glob("sweep/annealing*/history.jsonl")):
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(signal.SIGTERM)
        assert "ended by SIGTERM; run the same command again to continue" in sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 143
