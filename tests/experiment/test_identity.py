"""Identity of cells: every field of every settings class decides the result, unless a table says that it does not."""

import dataclasses
import json
from pathlib import Path

import pytest

from masksearch.experiment import Settings
from masksearch.experiment.identity import DENSE, NEVER, ONLY_IF, short_hash
from masksearch.experiment.sweep_grid import grid
from masksearch.utils.errors import InputError

FROZEN = Path(__file__).with_name("frozen_identities.json")

BASES = {  # cells of all kinds: every field decides the result of at least one of them
    "annealing": {"methods": ["annealing"]},
    "short trainings": {
        "methods": ["evolution"],
        "objective": "short_training",
        "rescore": 2,
        "warm_start": "snip",
        "saliencies": ["magnitude"],
    },
    "optuna": {"methods": ["optuna_tpe"], "saliencies": ["magnitude"], "find_at": ["1ep"]},
    "mixture": {
        "methods": ["optuna_gp"],
        "saliencies": ["magnitude", "lamp"],
        "optuna": {"parametrisation": "mixture"},
    },
    "shared study": {"methods": ["optuna_tpe"], "optuna": {"storage": "sqlite:///a.db", "study": "mine"}},
    "criterion": {"methods": ["snip"], "objective": "short_training"},
    "supermask": {"methods": ["edge_popup"]},
    "rigl": {"methods": ["magnitude"], "schedule": ["rigl"]},
    "early bird": {"methods": ["magnitude"], "schedule": ["early_bird"]},
    "iterative": {"methods": ["magnitude"], "schedule": ["iterative"], "rounds": [3]},
    "distillation": {"methods": ["magnitude"], "distill": 0.5},
    "filters": {"methods": ["filter_l1"], "granularity": "filter"},
    "repaired": {"methods": ["filter_l1"], "granularity": "filter", "reconstruct": "independent"},
    "front": {"methods": ["optuna_nsga2"], "granularity": "filter", "max_macs": [0.5], "objective": "width"},
    "slimming": {
        "methods": ["bn_scale"],
        "granularity": "filter",
        "model": "resnet20",
        "schedule": ["network_slimming"],
    },
}

OTHER = {  # another value, where the type alone does not give one
    "sweep.dataset": "mnist",
    "run.executor": "inline",
    "sweep.model": "conv2",
    "sweep.task": "classification",
    "sweep.image_size": 32,
    "sweep.granularity": "filter",
    "sweep.methods": ["random"],
    "sweep.sparsity": [0.5],
    "sweep.max_macs": [0.25],
    "sweep.max_params": [0.25],
    "sweep.max_latency": [0.25],
    "sweep.layer_sparsity": ["fc1=0.5"],
    "sweep.objective": "loss",
    "sweep.find_at": ["2ep"],
    "sweep.dense": "elsewhere.pt",
    "sweep.train_fn": "own_tasks:own_loop",
    "train.optimizer": "adam",
    "train.lr_schedule": "cosine",
    "train.milestones": [1],
    "train.precision": "bfloat16",
    "train.augment": "none",
    "schedules.schedule": ["lottery_ticket"],
    "schedules.rounds": [2],
    "schedules.rewind_to": ["1ep"],
    "schedules.retrain_lr": [0.3],
    "schedules.retrain_distill": [0.25],
    "schedules.retrain_temperature": [2.0],
    "schedules.control": ["reinit"],
    "schedules.reconstruct": "sequential",
    "schedules.save_at": ["1ep"],
    "scoring.weights": "signed_constant",
    "scoring.scope": "erk",
    "scoring.hold": "macs",
    "scoring.on_empty": "keep_one",
    "scoring.layers": "conv",
    "search.saliencies": ["lamp"],
    "search.warm_start": "grasp",
    "search.rescore_by": "accuracy",
    "search.finalists": ["grasp"],
    "search.scorer_order": "as_finished",
    "annealing.scope": "erk",
    "optuna.parametrisation": "blocks",
    "optuna.storage": "sqlite:///b.db",
    "optuna.study": "other",
    "run.name": "other",
    "run.plugin": None,
    "run.device": "cuda",
    "run.runs": "elsewhere",
    "run.cache": "elsewhere",
    "run.data_root": "elsewhere",
}


def fields():
    for group in dataclasses.fields(Settings):
        values = getattr(Settings(), group.name)
        for item in dataclasses.fields(values):
            yield f"{group.name}.{item.name}"


FIELDS = list(fields())
NEEDED = {
    "sweep.image_size": {"dataset": "imagefolder:here"},
    "sweep.text_length": {"dataset": "standard_library"},
    "search.scorers": {"proposals": 2},
    "scoring.channel_swaps": {
        "granularity": "nm",
        "reconstruct": "blockwise",
        "methods": ["magnitude"],
        "schedule": ["one_shot"],
        "rounds": [],
        "max_macs": [],
        "objective": "loss",
    },
}  # what a field is for
RESOLVED = ("schedules.retrain_epochs", "schedules.between_epochs", "scoring.hold")  # the cell has their outcome


def other_value(name, settings):
    """A value that differs from the field's."""
    if name in OTHER:
        return OTHER[name]
    group, _, field = name.partition(".")
    value = getattr(getattr(settings, group), field)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if value is None:
        [item] = [item for item in dataclasses.fields(getattr(settings, group)) if item.name == field]
        return 3 if "int" in str(item.type) else 0.05
    raise AssertionError(f"{name}: {value!r} has no other value; add one to OTHER")


def changed(base, name):
    """The settings of a base with another value of one field; None where that can't be."""
    settings = Settings().updated(BASES[base] | NEEDED.get(name, {}), "here")
    group, _, field = name.partition(".")
    value = other_value(name, settings)
    value = tuple(value) if isinstance(value, list) else value
    if value == getattr(getattr(settings, group), field):
        return None
    try:
        values = dataclasses.replace(getattr(settings, group), **{field: value})
        return settings, dataclasses.replace(settings, **{group: values})
    except InputError:
        return None


def point(cell):
    """The cell's place in the grid."""
    return tuple(getattr(cell, item.name) for item in dataclasses.fields(cell) if item.name != "settings")


def hashes(settings):
    return [short_hash(cell.identity) for cell in grid(settings)]


@pytest.mark.parametrize("name", [name for name in FIELDS if OTHER.get(name, "") is not None])
def test_every_settings_field_decides_a_result_unless_exempt(name):
    axis = {name, name.partition(".")[0]} & NEVER
    different = []
    for base in BASES:
        pair = changed(base, name)
        if pair is None:
            continue
        before, after = (grid(settings) for settings in pair)
        if axis:  # cells may be others, or others may be there; equal cells have equal identities
            before_by_point = {point(cell): short_hash(cell.identity) for cell in before}
            for cell in after:
                if point(cell) in before_by_point and name not in RESOLVED:
                    assert before_by_point[point(cell)] == short_hash(cell.identity), (base, name)
        else:
            different.append([short_hash(cell.identity) for cell in before] != [short_hash(c.identity) for c in after])
    assert axis or any(different), f"{name} decides nothing; if that is right, add it to NEVER"
    if not axis and name not in ONLY_IF and name.partition(".")[0] not in ONLY_IF and different:
        assert all(different), f"{name} decides the results of some cells only; if that is right, add it to ONLY_IF"


def test_identity_tables_name_existing_fields_and_conditions():
    groups = {group.name for group in dataclasses.fields(Settings)}
    assert {*NEVER, *DENSE, *ONLY_IF} <= {*FIELDS, *groups}
    [cell, *_] = grid(Settings())
    assert {*ONLY_IF.values()} <= {*cell.conditions}


def test_default_settings_add_nothing_to_the_identity():
    plain = grid(Settings())[0].identity
    assert plain["settings"] == {}
    assert plain["dense"]["training"] == {}


def test_data_digest_is_part_of_the_identity():
    cell = grid(Settings())[0]
    other = dataclasses.replace(cell, data_digest="0123")
    assert other.folder != cell.folder
    assert other.identity["dense"]["data"] == "0123"


def variants():
    """Fifty sweeps: the bases that there were when the file was written, and every one with some fields changed."""
    bases = {base: values for base, values in BASES.items() if base != "distillation"}
    named = {base: Settings().updated(values, "here") for base, values in bases.items()}
    for base in bases:
        for name in ("train.lr", "scoring.search_examples", "sweep.budget", "scoring.scope", "annealing.chains"):
            pair = changed(base, name)
            if pair is not None:
                named[f"{base}, {name}"] = pair[1]
    return dict(list(named.items())[:50])


def test_identities_of_fifty_sweeps_are_frozen():
    """A hash that changes makes users train again what they have: change it only with a new major version.

    ``python tests/experiment/test_identity.py`` writes the file.
    """
    frozen = json.loads(FROZEN.read_text())
    assert {name: hashes(settings) for name, settings in variants().items()} == frozen
    assert len(frozen) == 50


if __name__ == "__main__":
    FROZEN.write_text(json.dumps({name: hashes(settings) for name, settings in variants().items()}, indent=1) + "\n")
