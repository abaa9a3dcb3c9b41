"""Cells: the grid, and folder names that depend on the settings that decide the result."""

from dataclasses import replace

import pytest

from masksearch.core.density_allocation import Amount
from masksearch.core.space import MaskSpace
from masksearch.experiment import Settings, grid
from masksearch.experiment.cell import dense_identity
from masksearch.experiment.identity import short_hash
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.experiment.settings.search_settings import SearchSettings
from masksearch.experiment.sweep_grid import with_distinct_labels
from masksearch.searchers import EDA, Annealing, RandomSearch
from masksearch.training import TrainSettings

SWEEP = SweepSettings(methods=("annealing", "snip"), sparsity=(0.5, 0.9), seeds=2, find_at=("0", "1ep"))
BASE = Settings(sweep=SWEEP)


def first(settings, method="annealing"):
    return next(cell for cell in grid(settings) if cell.method == method)


def test_grid_has_every_combination_once_ordered_by_seed():
    cells = grid(BASE)
    points = [(cell.method, cell.sparsity, cell.find_at, cell.seed) for cell in cells]
    assert len(set(points)) == len(points) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert len({cell.folder for cell in cells}) == len({cell.label for cell in cells}) == 16


def test_criteria_of_trained_weights_find_masks_at_the_end_by_default():
    own = replace(SWEEP, methods=("magnitude", "mag_sign", "snip", "random"), find_at=())
    assert {cell.method: cell.find_at for cell in grid(replace(BASE, sweep=own))} == {
        "magnitude": "end",
        "mag_sign": "end",
        "snip": "0",
        "random": "0",
    }


def test_find_at_setting_applies_to_every_method_without_its_own_moment():
    asked = replace(SWEEP, methods=("magnitude", "mag_sign@best", "snip", "random"), find_at=("1ep", "end"))
    moments = {}
    for cell in grid(replace(BASE, sweep=asked)):
        moments.setdefault(cell.method, set()).add(cell.find_at)
    assert moments == {
        "magnitude": {"1ep", "end"},
        "mag_sign": {"best"},
        "snip": {"1ep", "end"},
        "random": {"0"},  # it looks at no weights
    }


def test_random_criterion_has_several_moments_only_when_training_continues_from_find_at():
    def moments(method, **schedules):
        asked = replace(SWEEP, methods=(method,), find_at=("1ep", "end") if method == "random" else ())
        return {cell.find_at for cell in grid(replace(BASE, sweep=asked, schedules=ScheduleSettings(**schedules)))}

    assert moments("random", rewind_to=("none",)) == moments("random", rewind_to=("lr",)) == {"1ep", "end"}
    assert moments("random", rewind_to=("end",)) == {"0"}
    assert moments("random@end", rewind_to=("0",)) == {"end"}


def test_equal_moments_give_a_single_cell():
    assert len(grid(replace(BASE, sweep=replace(SWEEP, find_at=("0", "0ep", "0it"))))) == 8


def test_densities_carry_no_rounding_error():
    cells = grid(replace(BASE, sweep=replace(SWEEP, sparsity=(0.7, 0.9, 0.999))))
    assert [cell.density for cell in cells[:6:2]] == [0.3, 0.1, 0.001]


def test_amounts_of_a_cell_follow_density_hold_scope_and_policy_of_settings():
    flat = {"granularity": "filter", "model": "lenet5", "hold": "macs", "schedule": ["iterative"], "rounds": [2]}
    [cell] = grid(Settings().updated(flat | {"methods": ["filter_l1"], "sparsity": [0.75], "seeds": 1}, "test"))
    space = MaskSpace([("fc", (4,), 4)], "filter")
    assert cell.amounts(space) == [Amount(density, "macs", "layerwise", "keep_one") for density in (0.5, 0.25)]


DECIDES = {
    "sparsity": replace(BASE, sweep=replace(SWEEP, sparsity=(0.6,))),
    "find_at": replace(BASE, sweep=replace(SWEEP, find_at=("2ep",))),
    "layer_sparsity": replace(BASE, sweep=replace(SWEEP, layer_sparsity=("fc1=0.9",))),
    "rewind_to": replace(BASE, schedules=ScheduleSettings(rewind_to=("1ep",))),
    "retrain_epochs": replace(BASE, schedules=ScheduleSettings(retrain_epochs=3)),
    "retrain_lr": replace(BASE, schedules=ScheduleSettings(retrain_lr=(0.3,))),
    "retrain_distill": replace(BASE, schedules=ScheduleSettings(retrain_distill=(0.5,))),
    "schedule": replace(BASE, schedules=ScheduleSettings(schedule=("iterative",))),
    "rounds": replace(BASE, schedules=ScheduleSettings(schedule=("iterative",), rounds=(3,))),
    "between_epochs": replace(BASE, schedules=ScheduleSettings(schedule=("iterative",), between_epochs=1)),
    "save_at": replace(BASE, schedules=ScheduleSettings(save_at=("1ep",))),
    "dataset": replace(BASE, sweep=replace(SWEEP, dataset="mnist")),
    "model": replace(BASE, sweep=replace(SWEEP, model="fc")),
    "budget": replace(BASE, sweep=replace(SWEEP, budget=7)),
    "objective": replace(BASE, sweep=replace(SWEEP, objective="loss")),
    "epochs": replace(BASE, train=TrainSettings(epochs=3)),
    "lr": replace(BASE, train=TrainSettings(lr=0.1)),
    "search_examples": replace(BASE, scoring=ScoringSettings(search_examples=9)),
    "train_examples": replace(BASE, scoring=ScoringSettings(train_examples=99)),
    "val_examples": replace(BASE, scoring=ScoringSettings(val_examples=99)),
    "weights": replace(BASE, scoring=ScoringSettings(weights="signed_constant")),
    "layers": replace(BASE, scoring=ScoringSettings(layers="linear")),
    "on_empty": replace(BASE, scoring=ScoringSettings(on_empty="keep_one")),
    "seconds": replace(BASE, scoring=ScoringSettings(seconds=9.0)),
    "rescore": replace(BASE, search=SearchSettings(rescore=2)),
    "rescore_by": replace(BASE, search=SearchSettings(rescore=2, rescore_by="loss")),
    "finalists": replace(BASE, search=SearchSettings(finalists=("snip",))),
    "scope of a finalist": replace(BASE, search=SearchSettings(finalists=("snip:erk",))),
    "annealing": replace(BASE, annealing=Annealing(chains=3)),
}


@pytest.mark.parametrize("changed", DECIDES.values(), ids=DECIDES)
def test_setting_that_decides_the_result_changes_the_cell_folder(changed):
    assert first(changed).folder != first(BASE).folder


def test_criterion_folder_depends_on_settings_of_criteria_and_not_of_searches():
    for scoring in (ScoringSettings(scope="erk"), ScoringSettings(examples_per_class=3)):
        assert first(replace(BASE, scoring=scoring), "snip").folder != first(BASE, "snip").folder
        assert first(replace(BASE, scoring=scoring)).folder == first(BASE).folder
    # A criterion's mask is compared with those of searches by the same short training.
    short = replace(BASE, sweep=replace(SWEEP, objective="short_training"))
    longer = replace(short, search=SearchSettings(training_steps=9))
    assert first(longer, "snip").folder != first(short, "snip").folder
    assert first(replace(BASE, search=longer.search), "snip").folder == first(BASE, "snip").folder
    for changed in (DECIDES["budget"], DECIDES["annealing"], DECIDES["seconds"]):
        assert first(changed, "snip").folder == first(BASE, "snip").folder


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, run=RunSettings(name="other", runs="elsewhere", device="cpu", threads=3)),
        replace(BASE, search=SearchSettings(rescore_steps=3)),
        replace(BASE, sweep=replace(SWEEP, seeds=9)),
        replace(BASE, sweep=replace(SWEEP, methods=("annealing", "random"))),
        replace(BASE, sweep=replace(SWEEP, sparsity=(0.5, 0.7))),
    ],
    ids=["run", "rescore_steps without rescore", "seeds", "methods", "sparsities"],
)
def test_setting_that_does_not_decide_the_result_keeps_the_cell_folder(changed):
    assert first(changed).folder == first(BASE).folder


@pytest.mark.parametrize("own", [{"training_lr": 0.3}, {"training_steps": 9}, {}], ids=str)
def test_rescoring_settings_leave_the_identities_of_front_and_shared_study(own):
    front = replace(SWEEP, methods=("optuna_tpe",), max_macs=(0.5,), granularity="filter", model="conv2:0.25")
    search = SearchSettings(rescore=2, rescore_by="short_training")
    one, other = (first(replace(BASE, sweep=front, search=replace(search, **more)), "optuna_tpe") for more in ({}, own))
    plain = first(replace(BASE, sweep=front), "optuna_tpe")
    assert plain.front_identity == one.front_identity == other.front_identity
    assert plain.folder != one.folder
    assert (one.folder == other.folder) is (not own)


def test_cells_of_a_seed_share_the_dense_network():
    identities = {cell.seed: short_hash(cell.identity["dense"]) for cell in grid(BASE)}
    assert len(set(identities.values())) == 2
    for cell in grid(BASE):
        assert cell.identity["dense"] == dense_identity(BASE, "one_shot", cell.seed)
    schedules = ScheduleSettings(schedule=("lottery_ticket",), retrain_epochs=1, rewind_to=("end",))
    shared = replace(BASE, sweep=replace(SWEEP, budget=7), schedules=schedules, annealing=Annealing(chains=2))
    assert dense_identity(shared, "lottery_ticket", 0) == dense_identity(BASE, "one_shot", 0)
    slimmed = dense_identity(BASE, "network_slimming", 0)
    assert slimmed["training"]["bn_l1"] == 1e-4
    assert slimmed != dense_identity(BASE, "one_shot", 0)


def test_cell_labels_are_readable_and_folder_names_are_valid():
    cell = first(BASE)
    assert cell.label == "annealing_s0.5_k0_seed0"
    assert cell.folder.startswith(cell.label + "_")
    assert len(cell.folder) == len(cell.label) + 9
    assert "/" not in cell.folder


def test_searcher_has_the_settings_of_its_sweep():
    assert first(DECIDES["annealing"]).searcher() == Annealing(chains=3)
    random = replace(BASE, sweep=replace(SWEEP, methods=("random_search",)))
    assert first(random, "random_search").searcher() == RandomSearch()


def test_eda_starts_from_the_first_saliency():
    asked = replace(BASE, sweep=replace(SWEEP, methods=("eda",)))
    ranked = replace(asked, search=SearchSettings(saliencies=("snip@0", "magnitude")))
    assert first(asked, "eda").searcher() == EDA()
    assert first(ranked, "eda").searcher() == EDA(saliency="snip@0")
    assert first(BASE).searches
    assert not first(BASE, "snip").searches


def test_short_hash_is_frozen():
    """Run folders of earlier versions are found again only as long as this is so."""
    assert short_hash({"b": 1, "a": [1.5, None]}) == short_hash({"a": [1.5, None], "b": 1}) == "ad387916"


def test_labels_of_cells_with_equal_names_show_the_settings_that_differ():
    sweep = SweepSettings(methods=("magnitude", "random"), sparsity=(0.9,), seeds=1)
    parts = [Settings(sweep=sweep, scoring=ScoringSettings(scope=scope)) for scope in ("global", "layerwise")]
    cells = [cell for part in parts for cell in grid(part)]
    own = with_distinct_labels(cells)
    assert [cell.label for cell in own[::2]] == [
        "magnitude_s0.9_kend_seed0 (scope global)",
        "magnitude_s0.9_kend_seed0 (scope layerwise)",
    ]
    assert [cell.folder for cell in own] == [cell.folder for cell in cells]
    assert [cell.identity for cell in own] == [cell.identity for cell in cells]
    alone = grid(parts[0])
    assert with_distinct_labels(alone) == alone


def test_each_search_of_a_cell_has_a_new_searcher():
    cell = first(BASE)
    assert cell.searcher() == cell.settings.annealing
    assert cell.searcher() is not cell.settings.annealing  # a search leaves its state in its searcher
