"""Verdicts on rows with known answers."""

import numpy as np
import pytest

from benchmarks.goals import Bar, main, verdicts
from benchmarks.rows import read_rows, series, write_csv
from masksearch.utils.errors import InputError

SEEDS = 10


def rows_of(method, test, val, sparsity=0.9, **changes):
    """Rows of ten seeds: ``test`` is a number, or one a seed."""
    tests = np.broadcast_to(test, SEEDS)
    base = {
        "method": method,
        "sparsity": str(sparsity),
        "find_at": "0",
        "control": "none",
        "schedule": "one_shot",
        "scope": "global",
        "dataset": "digits",
        "model": "fc",
        "trained.val_accuracy": str(val),
        "score.accuracy_gap": "0.05",
        "score.scorings": "100",
        "seconds.search": "6",
        "seconds.retrain": "3",
        "seconds.dense": "20",
    }
    return [base | {"seed": str(seed), "trained.test_accuracy": str(tests[seed])} | changes for seed in range(SEEDS)]


def noisy(mean):
    return mean + 0.001 * np.arange(SEEDS) - 0.0045


@pytest.fixture
def rows():
    """At 0.9 the search is a point above the best baseline, at 0.95 a point below; magnitude misleads on test."""
    return [
        *rows_of("annealing", noisy(0.93), 0.9),
        *rows_of("annealing", noisy(0.90), 0.9, 0.95),
        *rows_of("snip", noisy(0.92), 0.95),
        *rows_of("snip", noisy(0.91), 0.95, 0.95),
        *rows_of("snip", noisy(0.91), 0.96, scope="erk"),
        *rows_of("snip", noisy(0.85), 0.90, 0.95, scope="erk"),
        *rows_of("magnitude", 0.99, 0.94),  # the best on test, not on validation
        *rows_of("random_search", noisy(0.88), 0.99),
        *rows_of("annealing", noisy(0.87), 0.99, control="shuffle"),
    ]


def test_best_baseline_is_chosen_by_validation_at_every_sparsity(rows):
    found = verdicts(rows, "annealing", Bar(0.005))
    assert [(v.sparsity, v.baseline) for v in found] == [(0.9, "snip erk"), (0.95, "snip")]


def test_connected_masks_are_a_control_and_not_a_baseline(rows):
    rows += [
        *rows_of("snip", noisy(0.925), 0.97, connected="True"),
        *rows_of("snip", noisy(0.89), 0.97, 0.95, connected="True"),
    ]
    [verdict, _] = verdicts(rows, "annealing", Bar(0.005), warm_start="snip connected")
    assert verdict.baseline == "snip erk"
    assert verdict.controls["warm start"].difference.mean == pytest.approx(0.005)


def test_verdicts_have_differences_and_corrected_p_values(rows):
    above, below = verdicts(rows, "annealing", Bar(0.005))
    assert above.pair.difference.mean == pytest.approx(0.02)
    assert below.pair.difference.mean == pytest.approx(-0.01)
    assert above.pair.p == below.pair.p == pytest.approx(2**-9)
    assert above.p == below.p == pytest.approx(2**-8)  # Holm: both times two, the second no lower
    assert (above.met, below.met) == (True, False)
    (alone,) = verdicts(rows, "annealing", Bar(0.005), sparsities=[0.9])
    assert alone.p == pytest.approx(2**-9)


def test_verdict_follows_its_bar(rows):
    def met(bar, *baselines):
        return [v.met for v in verdicts(rows, "annealing", bar, baselines, sparsities=[0.9])]

    assert met(Bar(0.019)) == [True]
    assert met(Bar(0.021)) == [False]
    assert met(Bar()) == [True]
    assert met(Bar(), "magnitude") == [False]
    equal = [*rows_of("annealing", noisy(0.9), 0.9), *rows_of("snip", noisy(0.9), 0.9)]
    assert verdicts(equal, "annealing", Bar())[0].met
    assert not verdicts(equal, "annealing", Bar(0.0))[0].met  # equal is not above
    few = [row for row in rows if int(row["seed"]) < 5]  # five seeds can't be significant
    assert not verdicts(few, "annealing", Bar(0.005), sparsities=[0.9])[0].met


def test_not_below_verdict_needs_the_whole_confidence_interval():
    other = 0.894 + 0.02 * (np.arange(SEEDS) % 2)  # higher in the mean, but up and down
    wide = [*rows_of("annealing", other, 0.9), *rows_of("snip", 0.9, 0.9)]
    (verdict,) = verdicts(wide, "annealing", Bar())
    assert verdict.pair.difference.mean > 0
    assert not verdict.met


def test_verdict_has_its_controls(rows):
    found = verdicts(rows, "annealing", Bar(), warm_start="magnitude")
    assert found[0].controls["random search"].difference.mean == pytest.approx(0.05)
    assert found[0].controls["shuffled"].difference.mean == pytest.approx(0.06)
    assert found[0].controls["warm start"].difference.mean == pytest.approx(0.93 - 0.99)
    assert found[0].controls["random"] is None
    assert found[1].controls["random search"] is None
    assert (
        found[0].controls["warm start"]
        == verdicts(
            [row | {"warm_start": "magnitude@0" * (row["method"] == "annealing")} for row in rows], "annealing", Bar()
        )[0].controls["warm start"]
    )
    assert verdicts(rows, "annealing", Bar())[0].controls["warm start"] is None


def test_search_and_warm_start_are_distinguished_by_budget():
    """Both are searches of one name; the start is scored, and nothing else."""
    rows = [
        *rows_of("optuna_gp", noisy(0.93), 0.9, budget="20", sweep="search"),
        *rows_of("optuna_gp", noisy(0.87), 0.9, budget="20", sweep="search", control="shuffle"),
        *rows_of("optuna_gp", noisy(0.92), 0.9, budget="1", sweep="start"),
        *rows_of("snip", noisy(0.90), 0.9, sweep="global"),
    ]
    [found] = verdicts(rows, "optuna_gp budget 20", Bar(), warm_start="optuna_gp budget 1")
    assert found.baseline == "snip"
    assert found.controls["warm start"].difference.mean == pytest.approx(0.01)
    assert found.controls["shuffled"].difference.mean == pytest.approx(0.06)


def test_baseline_without_all_seeds_is_left_out(rows):
    fewer = [row for row in rows if (row["method"], row["scope"], row["seed"]) != ("snip", "erk", "3")]
    found = verdicts(fewer, "annealing", Bar())
    assert found[0].baseline == "snip"
    assert found[0].left_out == ["snip erk"]
    unknown = [row | {"trained.val_accuracy": ""} if row["scope"] == "erk" else row for row in rows]
    assert verdicts(unknown, "annealing", Bar())[0].baseline == "snip"


def test_verdicts_without_comparable_rows_raise_input_error(rows):
    with pytest.raises(InputError, match="no rows of 'eda'; there are annealing, "):
        verdicts(rows, "eda", Bar())
    with pytest.raises(InputError, match=r"sparsity: 0\.5; annealing has 0\.9, 0\.95"):
        verdicts(rows, "annealing", Bar(), sparsities=[0.5])
    with pytest.raises(InputError, match="none has a validation accuracy of every seed of annealing"):
        verdicts([row for row in rows if row["method"] != "snip"], "annealing", Bar())


def test_series_names_distinguish_rows_and_duplicates_raise_input_error():
    rows = [*rows_of("annealing", 0.9, 0.9), *rows_of("annealing", 0.8, 0.9, find_at="end"), *rows_of("snip", 0.9, 0.9)]
    assert set(series(rows)) == {"annealing @0", "annealing @end", "snip"}
    with pytest.raises(InputError, match=r"twice at sparsity 0\.9, seed 0"):
        series(rows_of("snip", 0.9, 0.9) * 2)


def test_settings_distinguish_series_without_a_common_seed():
    cheap, dear = (
        [row | {"seed": str(int(row["seed"]) + first), "budget": budget} for row in rows_of("optuna_gp", 0.9, 0.9)]
        for first, budget in ((0, "20"), (10, "2000"))
    )
    assert set(series(cheap + dear)) == {"optuna_gp budget 20", "optuna_gp budget 2000"}
    early = [row | {"schedule": "early_bird", "find_at": f"{row['seed']}ep"} for row in cheap]
    assert set(series(early)) == {"optuna_gp early_bird"}


def test_goals_command_writes_its_tables(rows, tmp_path, capsys):
    old = [{name: value for name, value in row.items() if name != "scope"} for row in rows_of("snip", 0.92, 0.97)]
    rows[0]["seconds.search"] = "6000"  # the machine stood still
    write_csv(rows, tmp_path / "mine.csv")
    write_csv(old, tmp_path / "mine_layerwise.csv")
    files = [str(tmp_path / "mine.csv"), str(tmp_path / "mine_layerwise.csv")]
    assert "snip layerwise" in series(read_rows([tmp_path / "mine.csv", tmp_path / "mine_layerwise.csv"]))
    search = [{name: value for name, value in row.items() if name != "scope"} for row in rows_of("annealing", 0.9, 0.9)]
    write_csv(search, tmp_path / "search_erk.csv")
    assert set(series(read_rows([tmp_path / "search_erk.csv"]))) == {"annealing"}
    (tmp_path / "README.md").write_text("a\n<!-- goal -->\n<!-- end of goal -->\nb\n")
    flags = ["--method", "annealing", "--above", "0.5", "--write", "goal"]
    assert main([*files, *flags, "--sparsity", "0.9"], tmp_path) == 0
    out = capsys.readouterr().out
    assert (
        "| 90 % | 10 | 93.00 ± 0.22 | snip layerwise | 92.00 ± 0.00 | +1.00 | +0.78 to +1.22 | 0.0020 | 0.0020 |" in out
    )
    assert "| +0.5 | yes | yes |" in out
    assert "| +5.00 ± 0.00 | +6.00 ± 0.00 | +5.0 | 100 | 20.0 | 6.0 | 3.0 | 2.00 |" in out
    assert out in (tmp_path / "README.md").read_text()
    assert main([*files, *flags], tmp_path) == 1  # not met at 0.95
    assert main([*files, "--method", "eda", "--not-below"], tmp_path) == 2
    assert main([str(tmp_path / "none.csv"), "--method", "eda", "--not-below"], tmp_path) == 2
