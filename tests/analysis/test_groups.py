"""Groups: cells that differ only in their seed, and names that distinguish the groups."""

from pathlib import Path

from analysis_cases import make_cell
from changed_results import changed

from masksearch.analysis import group_cells, paired_rows
from masksearch.experiment import Settings, SweepResult
from masksearch.experiment.cell_results import EarlyBirdResult


def names(cells):
    return [(group.variant, group.label) for group in group_cells(cells)]


def test_cells_of_different_seeds_form_a_group_with_their_places():
    cells = [make_cell(method, 0.5, seed) for seed in (0, 1) for method in ("a", "b")]
    first, second = group_cells(cells)
    assert (first.method, first.places, second.places) == ("a", (0, 2), (1, 3))
    assert [cell.seed for cell in first.cells] == [0, 1]
    assert names(cells) == [("", ""), ("", "")]  # nothing differs, so nothing is named


def test_variant_names_only_the_settings_that_differ():
    cells = [make_cell(), make_cell(rounds=4), make_cell(rounds=4, rewind_to="none")]
    assert [variant for variant, _ in names(cells)] == [
        "one shot, rewound to 0",
        "lottery ticket, 4 rounds, rewound to 0",
        "lottery ticket, 4 rounds, training continued",
    ]
    assert [variant for variant, _ in names(cells[:1])] == [""]
    both = [make_cell(), make_cell(granularity="filter")]
    assert [variant for variant, _ in names(both)] == ["weights", "filters"]


def test_labels_name_only_moments_that_differ_within_a_method():
    own = [make_cell("a", find_at="0"), make_cell("b", find_at="end")]
    assert names(own) == [("", ""), ("", "")]
    same = [make_cell("a", find_at="0"), make_cell("a", find_at="end"), make_cell("b", find_at="end")]
    assert names(same) == [("", "found at 0"), ("", "found at end"), ("", "")]


def test_variants_always_name_controls():
    group, shuffled, fresh = group_cells([make_cell(control=control) for control in ("none", "shuffle", "reinit")])
    assert [g.variant for g in (group, shuffled, fresh)] == ["", "shuffled", "reinitialised"]
    assert [g.control for g in (group, shuffled, fresh)] == ["none", "shuffle", "reinit"]


def early(relative, find_at="5ep", **changes):
    fires = {"absolute": 5, "relative": None}
    seen = EarlyBirdResult(0.1, relative, fired=5, fires=fires, distances=[[0.0]])
    return make_cell(schedule="early_bird", find_at=find_at, early_bird=seen, **changes)


def test_early_bird_cells_of_all_seeds_form_a_group_despite_different_epochs():
    [group] = group_cells([early(False, "5ep", seed=0), early(False, "7ep", seed=1)])
    assert (group.find_at, group.variant, len(group.cells)) == ("early", "", 2)


def test_absolute_and_relative_early_bird_thresholds_are_separate_groups():
    absolute, relative = group_cells([early(False), early(True)])
    assert absolute.variant == "threshold 0.1"
    assert relative.variant == "threshold 0.1 of unrelated masks' distance"


def test_best_learning_rate_is_chosen_by_validation_per_method():
    cells = []
    for rate, accuracies in ((0.1, (0.6, 0.9)), (0.01, (0.7, 0.7))):
        for method, accuracy in zip("ab", accuracies, strict=True):
            cells.append(make_cell(method, retrain_lr=rate, trained={"val_accuracy": accuracy}))
    assert [(group.method, group.places) for group in group_cells(cells)] == [("b", (1,)), ("a", (2,))]


def part(seed=0, method="a", **settings):
    return make_cell(method, seed=seed, settings={"dense": {"seed": seed, "file": f"{seed}"}} | settings)


def test_variants_name_settings_that_differ_between_parts_of_a_sweep():
    cells = [part(seed, scope=scope, connected=False) for scope in ("global", "erk") for seed in (0, 1)]
    searches = [part(seed, "b", budget=9, searcher={"tabu": 0, "scope": "global"}) for seed in (0, 1)]
    groups = group_cells([*cells, part(method="c", scope="layerwise", connected=True), *searches])
    assert [(g.method, g.variant, g.places) for g in groups] == [
        ("a", "global", (0, 1)),
        ("a", "ERK", (2, 3)),
        ("c", "layerwise", (4,)),
        ("b", "", (5, 6)),
    ]


def test_cells_of_different_parts_are_separate_groups_named_by_their_settings():
    cells = [part(0, connected=False), part(1, connected=True)]
    assert [g.variant for g in group_cells(cells)] == ["", "connected"]
    cells = [part(searcher={"tabu": tabu, "ends": [1, 2]}, search_examples=20 * tabu) for tabu in (1, 2)]
    assert [g.variant for g in group_cells(cells)] == ["tabu 1, search examples 20", "tabu 2, search examples 40"]


def test_results_of_a_sweep_with_parts_are_paired_by_part():
    accuracies = {"global": 0.5, "erk": 0.7}
    cells = [changed(part(0, scope=scope), trained={"test_accuracy": a}) for scope, a in accuracies.items()]
    both = SweepResult(Path("both"), [Settings()], {}, cells, [], [])
    alone = SweepResult(Path("alone"), [Settings()], {}, cells[1:], [], [])
    assert [(row.kind.label, row.trained[0].mean) for row in paired_rows([both, both])] == [
        ("global", 0.5),
        ("ERK", 0.7),
    ]
    assert [row.kind.label for row in paired_rows([alone, alone])] == [""]


def test_cells_without_distillation_pair_with_a_sweep_without_distillation():
    plain = part(train={"distill": 0.0})
    cells = [plain, part(train={"distill": 0.5, "distill_temperature": 4.0})]
    crossed, alone = (SweepResult(Path("s"), [Settings()], {}, chosen, [], []) for chosen in (cells, [plain]))
    rows = paired_rows([alone, crossed])
    assert [row.kind.label for row in rows] == ["", "distill 0.5, distill temperature 4.0"]
    assert rows[0].trained[0] == rows[0].trained[1]
    assert [group.variant for group in group_cells(cells)] == ["", "distillation 0.5"]
    warmer = [*cells, part(train={"distill": 0.5, "distill_temperature": 1.0})]
    texts = ["", "distillation 0.5, temperature 4", "distillation 0.5, temperature 1"]
    assert [group.variant for group in group_cells(warmer)] == texts
