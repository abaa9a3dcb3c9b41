"""Imports: `import masksearch` is light, and no module hides a public function of its package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "tensorboard", "sklearn", "scipy", "optuna", "rich")


def in_a_new_process(code):
    """Return the output of the code in a new process, read as JSON."""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def loaded_by(statements):
    """Names of the modules that a fresh process has loaded after some statements."""
    return set(in_a_new_process(f"import json, sys\n{statements}\nprint(json.dumps(sorted(sys.modules)))"))


def test_import_loads_no_dependency_before_a_name_is_used():
    loaded = loaded_by("import masksearch")
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("masksearch")} == {"masksearch"}


def test_library_names_load_neither_experiments_nor_drawing():
    names = "search prune filter_space train load_data searchers criteria cost deploy export supermasks load_plugins"
    loaded = loaded_by(f"import masksearch as ms\nfor name in {names.split()!r}: getattr(ms, name)")
    assert "torch" in loaded
    assert loaded.isdisjoint(("matplotlib", "tensorboard", "sklearn", "scipy.stats", "optuna", "torchvision"))
    assert not [name for name in loaded if name.startswith(("masksearch.experiment", "masksearch.report"))]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], []], ids=" ".join)
def test_help_and_version_load_no_torch(args):
    loaded = loaded_by(f"from masksearch.cli import main\nmain({args!r})")
    assert loaded.isdisjoint(("torch", "numpy", "matplotlib"))


def test_wrong_flags_are_reported_without_loading_drawing_packages():
    loaded = loaded_by("from masksearch.cli import main\nmain(['run', '--budget', '0'])")
    assert loaded.isdisjoint(("matplotlib", "tensorboard", "sklearn", "scipy.stats", "optuna", "torchvision"))


WALK = """
import importlib, json, pkgutil, sys
import masksearch as ms
names = [module.name for module in pkgutil.walk_packages(ms.__path__, "masksearch.")]
for name in names:
    importlib.import_module(name)
hidden = []
for name in ["masksearch", *names]:
    module = sys.modules[name]
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        is_module = f"{name}.{public}" in sys.modules
        if is_module and (name != "masksearch" or value is not sys.modules[f"{name}.{public}"]):
            hidden.append(f"{name}.{public}")
modules = sorted(name for name in ms.__all__ if type(getattr(ms, name)).__name__ == "module")
uncallable = [name for name in ms.__all__ if name not in modules and not callable(getattr(ms, name))]
print(json.dumps({"hidden": hidden, "uncallable": uncallable, "modules": modules}))
"""


def test_no_module_has_the_name_of_a_public_function_of_its_package():
    found = in_a_new_process(WALK)
    assert found["hidden"] == []
    assert found["uncallable"] == []
    modules = "analysis cost criteria data deploy export models schedules searchers supermasks tasks"
    assert found["modules"] == modules.split()


def test_public_names_are_listed_and_unknown_names_raise_attribute_error():
    import masksearch as ms

    assert set(ms.__all__) <= set(dir(ms))
    assert ms.__version__
    assert ms.search is __import__("masksearch.searching.search_function", fromlist=["search"]).search
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = ms.serach
