"""Hostile names and texts in folders: they are not executed, and escaped where they are printed."""

import pytest
from fault_cases import settings_in

from masksearch.cli import main
from masksearch.experiment import run_sweep
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
MASKSEARCH = {"objectives": {}}
def network():
    raise SystemExit(3)
"""


@pytest.mark.parametrize("place", ["plugin", "model"])
def test_show_runs_no_code_named_in_a_folder(tmp_path, monkeypatch, capsys, place):
    run_sweep(settings_in(tmp_path / "runs"))
    sweep = tmp_path / "runs" / "sweep"
    (tmp_path / "evil.py").write_text(EVIL)
    plan = read_json(sweep / "sweep.json")
    if place == "plugin":
        plan["settings"][0]["run"]["plugin"] = [str(tmp_path / "evil.py")]
        plan["settings"][0]["sweep"]["methods"] = ["unheard"]
    else:
        plan["settings"][0]["sweep"]["model"] = "evil:network"
    write_json(sweep / "sweep.json", plan)
    monkeypatch.chdir(tmp_path)
    code = main(["show", str(sweep)])
    assert not (tmp_path / "executed").exists()
    if place == "plugin":
        assert code == 2
        assert "--plugin" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dense", "fronts", "a/b", "..", "a\nb", "a\x1b[2J", "\udcff", "x" * 300, ""])
def test_invalid_run_name_raises_input_error(name):
    with pytest.raises(InputError, match=r"^name: "):
        settings_in("runs", name=name)


def test_markup_and_special_characters_in_names_are_kept_literally(tmp_path, capsys):
    flags = "--model lenet_300_100:0.05 --methods optuna_random --budget 3 --epochs 1 --seeds 1 --sparsity 0.8"
    runs, name = str(tmp_path / "a[/b]"), "[red]a?b#c%41"
    assert main(["run", *flags.split(), "--train-examples", "100", "--runs", runs, "--name", name]) == 0
    out = capsys.readouterr().out
    report = tmp_path / "a[" / "b]" / name / "report.html"
    assert report.exists()
    assert str(report) in out
    assert list(report.parent.glob("*/optuna.db"))


def test_texts_of_a_sweep_are_escaped_in_its_report(tmp_path):
    run_sweep(settings_in(tmp_path))
    file = tmp_path / "sweep" / "sweep.json"
    plan = read_json(file)
    plan["machine"]["masksearch"] = "<script>alert(1)</script>"
    write_json(file, plan)
    main(["show", "--report", str(file.parent)])
    assert "<script>alert" not in (file.parent / "report.html").read_text()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_shared_study_in_memory_raises_input_error_before_any_work(url):
    with pytest.raises(InputError, match="in memory"):
        settings_in("runs", optuna={"study": "x", "storage": url}, methods=["optuna_random"])
