"""Rows of a user's module: in the tables, in sweeps and in folders' names; mistakes are told with module and line."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from masksearch import plugin
from masksearch.cli import commands as cli
from masksearch.experiment import read_sweep
from masksearch.plugin import load_plugins
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
    *("--device", "cpu", "--threads", "1", "--latency-seconds", "0.002"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder, with tables that forget what was added."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "_loaded", set())
    for kind in plugin._KINDS.values():
        for name in ("_rows", "_added"):
            monkeypatch.setattr(kind.table, name, dict(getattr(kind.table, name)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_list_says_of_a_partial_what_it_is_a_partial_of(tmp_path, capsys):
    head = "from functools import partial\n" + MODULE
    (tmp_path / "own.py").write_text(head.replace('"patient": Patient', '"hasty": partial(Patient, patience=1)'))
    assert cli.main(["run", "--list", "--plugin", "own.py"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^  hasty +Random search with a setting of its own\. \(patience=1\)$", listed, re.MULTILINE)


@pytest.mark.parametrize("name", ["own_rows_of_a_test", "own_rows_of_a_test.py"])
def test_a_users_criterion_searcher_and_model_run_and_run_on(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_rows_of_a_test.py").write_text(MODULE)
    assert cli.main(["--list", "--plugin", name]) == 0
    listed = capsys.readouterr().out
    for row, about in (("columns", "the last units"), ("patient", "Random search"), ("two_layers", "64-20-10")):
        assert re.search(rf"^  {row} +{about}", listed, re.MULTILINE)
    assert cli.main([*SWEEP, "--plugin", name]) == 0
    result = read_sweep(Path("runs/sweep"))
    assert [cell["method"] for cell in result.cells] == ["columns", "patient"]
    assert result.settings[0]["run"]["plugin"] == [name]
    assert all(len(read_json(folder / "settings.json")["plugin"]) == 1 for folder in result.folders)
    capsys.readouterr()
    assert cli.main([*SWEEP, "--plugin", name]) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().out


def test_another_text_of_the_module_makes_another_run(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(MODULE)
    load_plugins(["own.py"])
    before = plugin.CRITERIA.added("columns")
    assert before
    assert plugin.CRITERIA.added("snip") is None
    for kind in plugin._KINDS.values():
        for name in kind.table._added:
            del kind.table._rows[name]
        kind.table._added.clear()
    plugin._loaded.clear()
    (tmp_path / "own.py").write_text(MODULE + "# changed\n")
    load_plugins(["own.py"])
    assert plugin.CRITERIA.added("columns") != before


def test_a_module_is_loaded_once_whatever_it_is_called(tmp_path):
    (tmp_path / "own_twice_of_a_test.py").write_text(MODULE)
    load_plugins(["own_twice_of_a_test", "own_twice_of_a_test.py", str(tmp_path / "own_twice_of_a_test.py")])
    assert "columns" in plugin.CRITERIA


ROW = 'Criterion(columns, "x")'
WRONG = {  # what replaces the dictionary: what the line has to hold
    "": ["own.py", "no dictionary MASKSEARCH"],
    "MASKSEARCH = [1]": ["own.py", "no dictionary MASKSEARCH"],
    'MASKSEARCH = {\n  "criterions": {}}': ["own.py, line 30", "did you mean 'criteria'"],
    'MASKSEARCH = {"criteria": [1]}': ["own.py, line 29", "criteria is a list", "dictionary of rows"],
    'MASKSEARCH = {"criteria": {\n\n  "mine": columns}}': ["own.py, line 31", "mine is a function", "Criterion"],
    f'MASKSEARCH = {{"criteria": {{"snip": {ROW}}}}}': ["own.py, line 29", "criterion 'snip' already"],
    f'MASKSEARCH = {{"criteria": {{"annealing": {ROW}}}}}': ["own.py, line 29", "'annealing' already"],
    f'MASKSEARCH = {{"criteria": {{"a": {ROW}}}, "searchers": {{"a": Patient}}}}': ["line 29", "'a' already"],
    f'MASKSEARCH = {{"criteria": {{"a@b": {ROW}}}}}': ["own.py, line 29", "'a@b' is no name"],
    'MASKSEARCH = {"searchers": {"mine": 3}}': ["own.py, line 29", "mine is a int", "function"],
    'MASKSEARCH = {"searchers": {"mine": dict}}': ["own.py, line 29", "makes a dict", "searchers.Searcher"],
    'MASKSEARCH = {"searchers": {"mine": lambda: 1 / 0}}': ["own.py, line 29", "ZeroDivisionError"],
    "x = 1\ny = x.missing": ["own.py, line 30", "AttributeError", "missing"],
    "import a_module_that_is_not": ["own.py, line 29", "ModuleNotFoundError", "a_module_that_is_not"],
    "def broken(:": ["own.py, line 29", "SyntaxError"],
}


@pytest.mark.parametrize("code", WRONG, ids=[" ".join(words)[:60] for words in WRONG.values()])
def test_mistakes_name_the_module_and_the_line_and_change_no_table(code, tmp_path, capsys):
    (tmp_path / "own.py").write_text(MODULE[: MODULE.index("MASKSEARCH")] + code + "\n")
    before = {kind: list(one.table) for kind, one in plugin._KINDS.items()}
    assert cli.main([*SWEEP, "--plugin", "own.py"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in WRONG[code]:
        assert words in error
    assert {kind: list(one.table) for kind, one in plugin._KINDS.items()} == before
    assert not (tmp_path / "runs").exists()


def test_a_searcher_whose_settings_do_not_show_is_refused(tmp_path):
    plain = MODULE.replace("@dataclass\n", "")
    plain = plain.replace("    patience: int = 3\n", "    __repr__ = object.__repr__\n")
    (tmp_path / "own.py").write_text(plain)
    with pytest.raises(InputError, match="patient has another repr each time; make Patient a dataclass"):
        load_plugins(["own.py"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "plugin nowhere.py: no such file"),
        ("nowhere", "plugin nowhere: no such module"),
        ("nowhere.within", "plugin nowhere.within: no such module"),
        ("a/b", "plugin 'a/b': a module's dotted name"),
        ("math", "plugin math: no such module"),
    ],
)
def test_modules_that_are_not_there_are_told(name, message):
    with pytest.raises(InputError, match=message):
        load_plugins([name])


def test_a_file_called_as_another_module_does_not_stand_in_its_place(tmp_path):
    shutil.copy(Path(plugin.__file__).with_name("errors.py"), tmp_path / "random.py")
    (tmp_path / "random.py").write_text(MODULE)
    load_plugins(["random.py"])
    import random

    assert not hasattr(random, "MASKSEARCH")


def test_tables_take_no_name_twice():
    table = Table("letter", {"a": 1})
    table.add("b", 2, "x")
    assert (table["b"], table.added("b"), table.added("a")) == (2, "x", None)
    with pytest.raises(InputError, match="letter 'a': there is one already"):
        table.add("a", 2, "x")
