"""Groups: cells that differ in their seed alone, and names that tell the others apart."""

from analysis_cases import make_cell

from masksearch.analysis import group_cells


def names(cells):
    return [(group.variant, group.way) for group in group_cells(cells)]


def test_seeds_are_one_group_and_know_their_places():
    cells = [make_cell(method, 0.5, seed) for seed in (0, 1) for method in ("a", "b")]
    first, second = group_cells(cells)
    assert (first.method, first.places, second.places) == ("a", (0, 2), (1, 3))
    assert [cell["seed"] for cell in first.cells] == [0, 1]
    assert names(cells) == [("", ""), ("", "")]  # nothing differs, so there is nothing to tell


def test_only_what_differs_is_told():
    cells = [make_cell(), make_cell(rounds=4), make_cell(rounds=4, rewind_to="none")]
    assert [variant for variant, _ in names(cells)] == [
        "one shot, from 0",
        "lottery ticket, 4 rounds, from 0",
        "lottery ticket, 4 rounds, goes on",
    ]
    assert [variant for variant, _ in names(cells[:1])] == [""]
    both = [make_cell(), make_cell(granularity="filter")]
    assert [variant for variant, _ in names(both)] == ["weights", "filters"]


def test_moments_tell_lines_of_one_method_apart_and_not_of_two():
    own = [make_cell("a", find_at="0"), make_cell("b", find_at="end")]
    assert names(own) == [("", ""), ("", "")]
    same = [make_cell("a", find_at="0"), make_cell("a", find_at="end"), make_cell("b", find_at="end")]
    assert names(same) == [("", "found at 0"), ("", "found at end"), ("", "")]


def test_controls_are_always_told_and_known():
    group, shuffled, fresh = group_cells([make_cell(control=control) for control in ("none", "shuffle", "reinit")])
    assert [g.variant for g in (group, shuffled, fresh)] == ["", "shuffled", "reinitialised"]
    assert [g.control for g in (group, shuffled, fresh)] == ["none", "shuffle", "reinit"]


def early(relative, find_at="5ep", **changes):
    fires = {"absolute": 5, "relative": None}
    seen = {"fired": 5, "fires": fires, "threshold": 0.1, "relative": relative, "distances": [[0.0]]}
    return make_cell(schedule="early_bird", find_at=find_at, early_bird=seen, **changes)


def test_early_birds_of_all_seeds_are_one_group_whenever_they_were_drawn():
    [group] = group_cells([early(False, "5ep", seed=0), early(False, "7ep", seed=1)])
    assert (group.find_at, group.variant, len(group.cells)) == ("early", "", 2)


def test_both_forms_of_the_threshold_are_groups_of_their_own():
    absolute, relative = group_cells([early(False), early(True)])
    assert absolute.variant == "threshold 0.1"
    assert relative.variant == "threshold 0.1 of unrelated masks' distance"


def test_of_several_learning_rates_the_best_by_validation_counts_for_all():
    cells = []
    for rate, accuracies in ((0.1, (0.6, 0.9)), (0.01, (0.7, 0.7))):
        for method, accuracy in zip("ab", accuracies, strict=True):
            cells.append(make_cell(method, retrain_lr=rate))
            cells[-1]["trained"]["val_accuracy"] = accuracy
    assert [(group.method, group.places) for group in group_cells(cells)] == [("a", (0,)), ("b", (1,))]
