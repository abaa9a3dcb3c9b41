"""Settings: every mistake raises an input error of a single line; recipes are named settings."""

import dataclasses
import re

import pytest

from masksearch.experiment import SCALES, Settings, load_recipe, methods, recipe_names, recipe_text, recipes
from masksearch.experiment.settings.all_settings import NESTED, RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.searchers import Annealing
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError

BAD_SWEEPS = {
    "sparsity 0": ({"sparsity": (0.0,)}, "sparsity: 0.0; it must lie between 0 and 1"),
    "sparsity 1": ({"sparsity": (0.5, 1.0)}, "sparsity: 1.0"),
    "sparsity in percent": ({"sparsity": (90,)}, "sparsity: 90"),
    "sparsity nan": ({"sparsity": (float("nan"),)}, "sparsity: nan"),
    "no sparsity": ({"sparsity": ()}, "sparsity: nothing given"),
    "a sparsity twice": ({"sparsity": (0.5, 0.5)}, "sparsity: 0.5 0.5; each may be given once"),
    "method": ({"methods": ("anneling",)}, "unknown method 'anneling': did you mean 'annealing'"),
    "criterion": ({"methods": ("snp",)}, "did you mean 'snip'"),
    "model": ({"model": "lenet_300"}, "unknown model 'lenet_300': did you mean 'lenet_300_100'"),
    "data set": ({"dataset": "mnits"}, "unknown data set 'mnits': did you mean 'mnist'"),
    "objective": ({"objective": "acuracy"}, "unknown objective 'acuracy': did you mean 'accuracy'"),
    "seeds": ({"seeds": 0}, "seeds: 0; at least 1"),
    "budget": ({"budget": 0}, "budget: 0"),
    "find_at": ({"find_at": ("3",)}, "find_at: '3' is not a moment"),
    "method's moment": ({"methods": ("snip@3",)}, "methods: snip@3: '3' is not a moment"),
    "layer_sparsity": ({"layer_sparsity": ("fc1",)}, "layer_sparsity: 'fc1'; a layer and its sparsity"),
    "layer_sparsity 1": ({"layer_sparsity": ("fc1=1",)}, "layer_sparsity: 'fc1=1'"),
    "a supermask of filters": (
        {"methods": ("edge_popup",), "granularity": "filter"},
        "edge_popup ranks weight units only, and granularity is filter",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_SWEEPS.values(), ids=BAD_SWEEPS)
def test_wrong_sweep_settings_raise_input_error(change, message):
    with pytest.raises(InputError, match=message) as caught:
        SweepSettings(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        (ScoringSettings, {"seconds": 0.0}, "seconds"),
        (ScoringSettings, {"examples_per_class": 0}, "examples_per_class: 0"),
        (ScoringSettings, {"weights": "signed"}, "unknown weights 'signed': did you mean 'signed_constant'"),
        (ScoringSettings, {"scope": "globl"}, "unknown scope 'globl': did you mean 'global'"),
        (ScoringSettings, {"on_empty": "alow"}, "unknown on_empty 'alow': did you mean 'allow'"),
        (ScoringSettings, {"layers": "convs"}, "unknown layers 'convs': did you mean 'conv'"),
        (ScheduleSettings, {"rewind_to": ("nowhere",)}, "rewind_to.*'nowhere'"),
        (ScheduleSettings, {"retrain_epochs": -1}, "retrain_epochs: -1"),
        (ScheduleSettings, {"between_epochs": -1}, "between_epochs: -1"),
        (ScheduleSettings, {"schedule": ("itterative",)}, "unknown schedule 'itterative': did you mean 'iterative'"),
        (ScheduleSettings, {"schedule": ()}, "schedule: nothing given"),
        (
            ScheduleSettings,
            {"rounds": (4,)},
            "rounds: 4; one_shot prunes in one round; schedules with rounds are iterative, ",
        ),
        (ScheduleSettings, {"rounds": (0, 4)}, "rounds: 0 4; allowed is 0, for the dense network alone, by itself"),
        (ScheduleSettings, {"rounds": (-1,)}, "rounds: -1"),
        (ScheduleSettings, {"retrain_lr": (0.0,)}, "retrain_lr: 0.0"),
        (ScheduleSettings, {"control": ("shufle",)}, "unknown control 'shufle': did you mean 'shuffle'"),
        (ScheduleSettings, {"early_bird_threshold": 1.0}, "threshold: 1.0"),
        (ScheduleSettings, {"update_every": 0}, "update_every: 0"),
        (ScheduleSettings, {"drop_share": 1.0}, "drop_share: 1.0"),
        (ScheduleSettings, {"save_at": ("3",)}, "save_at: '3' is not a moment"),
        (RunSettings, {"name": ""}, "name: ''"),
        (RunSettings, {"name": "a/b"}, "name: 'a/b'"),
        (RunSettings, {"name": "../up"}, "name: '../up'"),
        (RunSettings, {"threads": 0}, "threads: 0"),
        (RunSettings, {"latency_seconds": -1.0}, "latency_seconds: -1.0; a finite number from 0 on"),
        (TrainSettings, {"epochs": -1}, "epochs: -1"),
        (TrainSettings, {"optimizer": "sdg"}, "did you mean 'sgd'"),
    ],
    ids=str,
)
def test_wrong_settings_of_other_groups_raise_input_error(group, change, message):
    with pytest.raises(InputError, match=message):
        group(**change)


@pytest.mark.parametrize(
    "change",
    [{"sweep": SweepSettings(find_at=("0", "11ep"))}, {"schedules": ScheduleSettings(rewind_to=("11ep",))}],
    ids=["find_at", "rewind_to"],
)
def test_moments_after_the_end_of_training_raise_input_error(change):
    with pytest.raises(InputError, match="11ep is longer than the training of 10ep"):
        Settings(train=TrainSettings(epochs=10), **change)
    Settings(train=TrainSettings(epochs=11), **change)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"schedule": ["gradual"], "methods": ["annealing"]}, "gradual ranks units repeatedly, and annealing"),
        ({"schedule": ["early_bird"], "methods": ["edge_popup"]}, "early_bird ranks .* edge_popup is no criterion"),
        ({"schedule": ["rigl"], "granularity": "filter", "methods": ["random"]}, "rigl regrows weights"),
        ({"schedule": ["early_bird"], "dense": "x.pt", "methods": ["snip"]}, "early_bird watches the dense training"),
        ({"find_at": ["1ep"], "dense": "x.pt"}, "a dense network from a file has only the moments 0 and end"),
    ],
    ids=str,
)
def test_schedules_with_incompatible_settings_raise_input_error(flat, message):
    with pytest.raises(InputError, match=message) as caught:
        Settings().updated(flat, "here")
    assert "\n" not in str(caught.value)


def test_methods_are_unique_and_include_searches_and_criteria():
    assert {"annealing", "random_search", "magnitude", "mag_sign", "snip", "random"} <= set(methods())
    assert len(set(methods())) == len(methods())


def test_updated_finds_the_group_of_every_setting():
    flat = {"sparsity": [0.5], "epochs": 3, "examples_per_class": 2, "name": "x", "annealing": {"radius_start": 0.5}}
    settings = Settings().updated(flat, "here")
    assert settings.sweep.sparsity == (0.5,)
    assert (settings.train.epochs, settings.scoring.examples_per_class, settings.run.name) == (3, 2, "x")
    assert settings.annealing == Annealing(radius_start=0.5)
    assert settings.updated({}, "here") == settings


def test_each_setting_name_belongs_to_a_single_group():
    names = [
        item.name for group in dataclasses.fields(Settings()) for item in dataclasses.fields(group.default_factory)
    ]
    nested = {item.name for group in (Annealing, SupermaskSettings) for item in dataclasses.fields(group)}
    plain = [name for name in names if name not in nested]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"sparsty": [0.5]}, "unknown key in recipe 'x' 'sparsty': did you mean 'sparsity'"),
        ({"annealing": {"radius": 1}}, "did you mean 'radius_end'"),
        ({"sparsity": [1.5]}, "sparsity: 1.5"),
        ({"annealing": {"accept_start": 2}}, "accept_start"),
    ],
    ids=str,
)
def test_updated_with_wrong_keys_or_values_raises_input_error(flat, message):
    with pytest.raises(InputError, match=message):
        Settings().updated(flat, "recipe 'x'")


@pytest.mark.parametrize("name", REMOVED)
def test_removed_setting_raises_input_error_with_its_reason(name):
    group, _, inner = name.rpartition(".")
    flat = {group: {inner: 1}} if group else {name: 1}
    message = re.escape(f"{name} in recipe 'x': {REMOVED[name]}")
    with pytest.raises(InputError, match=f"^{message}$"):
        Settings().updated(flat, "recipe 'x'")


def test_removed_setting_in_an_old_run_folder_raises_input_error_with_its_reason():
    old = Settings().as_dict()
    old["scoring"] |= {"subsets": "fixed", "subset_stages": 4}
    with pytest.raises(InputError, match=r"^subsets in settings: removed after 0\.1\.0: .* docs/results/tried\.md$"):
        Settings.from_dict(old)


def test_removed_settings_are_absent_from_settings():
    names = set()
    for group, values in Settings().as_dict().items():
        names |= {f"{group}.{name}" if group in NESTED else name for name in values}
    assert not names & set(REMOVED)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_at_every_scale(name, scale):
    for part in load_recipe(name, scale):
        assert re.fullmatch(rf"{name}_{scale}(_[a-z]+)*", part.run.name)
    text = recipe_text(name)
    assert text
    assert "\n" not in text


def test_scales_of_a_recipe_differ():
    name = recipe_names()[0]
    assert len({repr(load_recipe(name, scale)) for scale in SCALES}) == len(SCALES)


@pytest.fixture
def own_recipe(tmp_path, monkeypatch):
    """Write a recipe into the folder that the package reads recipes from."""
    monkeypatch.setattr(recipes, "files", lambda package: tmp_path)
    return lambda text: (tmp_path / "own.toml").write_text(text)


RECIPES = {
    "unknown key": ("[settings]\nepochz = 3", "unknown key in recipe 'own' 'epochz': did you mean 'epochs'"),
    "unknown key of a scale": ("[scale.cpu]\nbuget = 3", "'buget': did you mean 'budget'"),
    "unknown table": ("[setings]\nepochs = 3", "'setings': did you mean 'settings'"),
    "no TOML": ("epochs 3", "recipe 'own': not valid TOML"),
    "bad value": ("[settings]\nsparsity = [2.0]", "sparsity: 2.0"),
}


@pytest.mark.parametrize(("text", "message"), RECIPES.values(), ids=RECIPES)
def test_recipe_with_mistakes_raises_input_error(own_recipe, text, message):
    own_recipe(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("own")
    assert "\n" not in str(caught.value)


def test_scale_overrides_the_recipe(own_recipe):
    own_recipe("[settings]\nepochs = 3\nbudget = 7\n[scale.cpu]\nepochs = 4")
    [part] = load_recipe("own", "cpu")
    assert (part.train.epochs, part.sweep.budget) == (4, 7)
    assert load_recipe("own", "paper")[0].train.epochs == 3


def test_parts_override_the_recipe_and_its_scales(own_recipe):
    own_recipe(
        "[settings]\nepochs = 3\nbudget = 7\n[scale.cpu]\nepochs = 4\nseeds = 2\n"
        "[[part]]\nepochs = 5\n[part.scale.cpu]\nseeds = 1\n[[part]]\nname = 'second'\nbudget = 8"
    )
    parts = load_recipe("own", "cpu")
    assert [(p.train.epochs, p.sweep.budget, p.sweep.seeds) for p in parts] == [(5, 7, 1), (4, 8, 2)]
    assert [p.run.name for p in parts] == ["own_cpu", "own_cpu_second"]


def test_unknown_recipe_or_scale_raises_input_error():
    with pytest.raises(InputError, match="unknown recipe"):
        load_recipe("no_such_recipe")
    with pytest.raises(InputError, match="unknown scale 'cup': did you mean 'cpu'"):
        load_recipe(recipe_names()[0], "cup")


def test_layers_setting_with_filter_masks_raises_input_error():
    flat = {"granularity": "filter", "methods": ["random"], "layers": "conv"}
    with pytest.raises(InputError, match="layers: conv; it chooses layers of weight masks"):
        Settings().updated(flat, "test")
