"""Rows of plugins in tables, sweeps and folder names; messages of mistakes name the module and the row or line."""

import re
from pathlib import Path

import pytest
import torch

from masksearch import plugin
from masksearch.cli import dispatch as cli
from masksearch.criteria import CRITERIA
from masksearch.experiment import read_sweep
from masksearch.plugin import load_plugins
from masksearch.searchers import SEARCHERS
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json
from masksearch.utils.registry import Table

MODULE = '''\
from dataclasses import dataclass

import torch
from torch import nn

from masksearch.criteria import Criterion
from masksearch.models import ModelRow
from masksearch.searchers import RandomSearch


def columns(model, space, batches, *, initial=None, alive=None):
    """Later units are kept."""
    return torch.arange(space.n_units).float()


@dataclass
class Patient(RandomSearch):
    """Random search with a setting of its own."""

    patience: int = 3


def two_layers(shape, classes, width):
    hidden = max(1, round(20 * width))
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, classes))


MASKSEARCH = {
    "criteria": {"columns": Criterion(columns, "the last units", weights="none")},
    "searchers": {"patient": Patient},
    "models": {"two_layers": ModelRow(two_layers, "64-20-10")},
}
'''
SWEEP = [
    *("run", "--model", "two_layers", "--methods", "columns", "patient", "--sparsity", "0.5", "--seeds", "1"),
    *("--budget", "8", "--epochs", "1", "--train-examples", "200", "--search-examples", "50"),
    *("--device", "cpu", "--threads", "1", "--set", "run.latency_seconds=0.002"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run each test in an empty folder; rows that it adds are removed from the tables afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with plugin.scoped():
        yield
    torch.set_num_threads(threads)


def test_list_flag_describes_a_partial_with_its_settings(tmp_path, capsys):
    head = "from functools import partial\n" + MODULE
    (tmp_path / "own.py").write_text(head.replace('"patient": Patient', '"hasty": partial(Patient, patience=1)'))
    assert cli.main(["run", "--list", "--plugin", "own.py"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^  hasty +Random search with a setting of its own\. \(patience=1\)$", listed, re.MULTILINE)


@pytest.mark.parametrize("name", ["own_rows_of_a_test", "own_rows_of_a_test.py"])
def test_plugin_criterion_searcher_and_model_run_and_finished_cells_are_reused(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_rows_of_a_test.py").write_text(MODULE)
    assert cli.main(["--list", "--plugin", name]) == 0
    listed = capsys.readouterr().out
    for row, about in (("columns", "the last units"), ("patient", "Random search"), ("two_layers", "64-20-10")):
        assert re.search(rf"^  {row} +{about}", listed, re.MULTILINE)
    assert cli.main([*SWEEP, "--plugin", name]) == 0
    result = read_sweep(Path("runs/sweep"))
    assert [cell.method for cell in result.cells] == ["columns", "patient"]
    assert result.settings[0].run.plugin == (name,)
    assert all(len(read_json(folder / "settings.json")["identity"]["plugin"]) == 1 for folder in result.folders)
    capsys.readouterr()
    assert cli.main([*SWEEP, "--plugin", name]) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().out


def test_show_names_the_plugin_that_a_sweep_needs(tmp_path, capsys):
    (tmp_path / "own.py").write_text(MODULE)
    with plugin.scoped():
        assert cli.main([*SWEEP, "--plugin", "own.py"]) == 0
    capsys.readouterr()
    assert cli.main(["show", "runs/sweep"]) == 2
    error = capsys.readouterr().err
    assert "unknown model 'two_layers'; the sweep used the plugin own.py: add --plugin own.py" in error
    assert "lenet_300_100" not in error


def test_exception_of_a_criterion_without_batches_has_a_note(tmp_path):
    (tmp_path / "own.py").write_text(MODULE.replace("torch.arange(space.n_units)", "next(iter(batches))[0]"))
    with pytest.raises(StopIteration) as caught:
        cli.main([*SWEEP, "--plugin", "own.py"])
    assert "needs_batches=True" in caught.value.__notes__[0]


def test_digest_of_plugin_rows_depends_on_the_module_text(tmp_path):
    digests = []
    for text in (MODULE, MODULE + "# changed\n", MODULE):
        (tmp_path / "own.py").write_text(text)
        with plugin.scoped():
            load_plugins(["own.py"])
            digests.append(CRITERIA.added("columns"))
        assert "columns" not in CRITERIA
    assert digests[0] == digests[2] != digests[1]
    assert CRITERIA.added("snip") is None


def test_plugin_module_is_loaded_once_for_all_its_names(tmp_path):
    (tmp_path / "own_twice_of_a_test.py").write_text(MODULE)
    load_plugins(["own_twice_of_a_test", "own_twice_of_a_test.py", str(tmp_path / "own_twice_of_a_test.py")])
    assert "columns" in CRITERIA


ROW = 'Criterion(columns, "x")'
WRONG = {  # what replaces the dictionary: what the line has to hold
    "": ["own.py", "no dictionary MASKSEARCH"],
    "MASKSEARCH = [1]": ["own.py", "no dictionary MASKSEARCH"],
    'MASKSEARCH = {"criterions": {}}': ["own.py", "did you mean 'criteria'"],
    'MASKSEARCH = {"criteria": [1]}': ["own.py", "criteria is a list", "dictionary of rows"],
    'MASKSEARCH = {"criteria": {"mine": columns}}': ["own.py", "mine is a function", "Criterion"],
    f'MASKSEARCH = {{"criteria": {{"snip": {ROW}}}}}': ["own.py", "criterion 'snip' already"],
    f'MASKSEARCH = {{"criteria": {{"annealing": {ROW}}}}}': ["own.py", "'annealing' already"],
    f'MASKSEARCH = {{"criteria": {{"a": {ROW}}}, "searchers": {{"a": Patient}}}}': ["own.py", "'a' already"],
    f'MASKSEARCH = {{"criteria": {{"a@b": {ROW}}}}}': ["own.py", "'a@b' is no name"],
    'MASKSEARCH = {"searchers": {"mine": 3}}': ["own.py: mine is a int", "function"],
    'MASKSEARCH = {"searchers": {"mine": dict}}': ["own.py: mine makes a dict", "searchers.Searcher"],
    'MASKSEARCH = {"searchers": {"mine": lambda: 1 / 0}}': ["own.py: mine, line 29", "ZeroDivisionError"],
    "x = 1\ny = x.missing": ["own.py, line 30", "AttributeError", "missing"],
    "import a_module_that_is_not": ["own.py, line 29", "ModuleNotFoundError", "a_module_that_is_not"],
    "def broken(:": ["own.py, line 29", "SyntaxError"],
    "import sys\nsys.exit(3)": ["own.py, line 30", "SystemExit: 3"],
    'MASKSEARCH = {"searchers": {"mine": exit}}': ["own.py: mine", "SystemExit"],
}


@pytest.mark.parametrize("code", WRONG, ids=[" ".join(words)[:60] for words in WRONG.values()])
def test_plugin_mistakes_name_module_and_line_and_change_no_table(code, tmp_path, capsys):
    (tmp_path / "own.py").write_text(MODULE[: MODULE.index("MASKSEARCH")] + code + "\n")
    before = {kind: list(table) for kind, table in plugin.TABLES.items()}
    assert cli.main([*SWEEP, "--plugin", "own.py"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in WRONG[code]:
        assert words in error
    assert {kind: list(table) for kind, table in plugin.TABLES.items()} == before
    assert not (tmp_path / "runs").exists()


def test_searcher_with_different_settings_each_time_raises_input_error(tmp_path):
    changing = MODULE.replace("patience: int = 3", "patience: float = field(default_factory=random)")
    imports = "from dataclasses import dataclass, field\nfrom random import random"
    (tmp_path / "own.py").write_text(changing.replace("from dataclasses import dataclass", imports))
    with pytest.raises(InputError, match="patient makes searchers with other settings each time"):
        load_plugins(["own.py"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "plugin nowhere.py: no such file"),
        ("nowhere", "plugin nowhere: .*No module named 'nowhere'"),
        ("nowhere.within", "plugin nowhere.within: .*No module named 'nowhere'"),
        ("a/b", "plugin a/b: .*No module named 'a/b'"),
        ("math", "plugin math: has no dictionary MASKSEARCH"),
    ],
)
def test_missing_plugin_modules_raise_input_error(name, message):
    with pytest.raises(InputError, match=message):
        load_plugins([name])


def test_plugin_file_does_not_replace_a_module_with_its_name(tmp_path):
    (tmp_path / "random.py").write_text(MODULE)
    load_plugins(["random.py"])
    import random

    assert not hasattr(random, "MASKSEARCH")


def install(folder, name, module, text):
    """A package with one module and an entry point for it, in a folder."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[masksearch]\nrows = {module}\n")


def test_installed_packages_add_rows_by_entry_points(tmp_path, capsys, monkeypatch):
    install(tmp_path, "installed", "installed_rows_of_a_test", MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert SEARCHERS["patient"]().patience == 3
    assert "columns" in list(CRITERIA)
    assert CRITERIA.added("columns")
    assert cli.main(["--list"]) == 0
    assert "two_layers" in capsys.readouterr().out
    assert cli.main(SWEEP) == 0


def test_installed_package_with_an_error_is_left_out_with_a_warning(tmp_path, monkeypatch):
    install(tmp_path, "broken", "broken_rows_of_a_test", "raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="plugin rows of package broken.*: SystemExit: ; its rows are left out"):
        assert "columns" not in CRITERIA
    assert "snip" in CRITERIA


def test_table_with_an_existing_name_raises_input_error():
    table = Table("letter", {"a": 1})
    table.add("b", 2, "x")
    assert (table["b"], table.added("b"), table.added("a")) == (2, "x", None)
    with pytest.raises(InputError, match="letter 'a': there is one already"):
        table.add("a", 2, "x")


def test_worker_processes_have_the_rows_of_plugins(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    for workers in "12":
        assert (
            cli.main([*SWEEP, "--plugin", "mine.py", "--executor", f"processes:{workers}", "--name", f"by{workers}"])
            == 0
        )
    one, two = (read_sweep(Path(f"runs/by{workers}")) for workers in "12")
    assert [folder.name for folder in one.folders] == [folder.name for folder in two.folders]
    assert [cell.trained for cell in one.cells] == [cell.trained for cell in two.cells]
