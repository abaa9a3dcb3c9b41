"""Sweeps with caps on costs: one search of a front for all caps, the best mask within each pruned and retrained."""

import csv
import math
import shlex

import pytest
from small_sweeps import cells_of, settings_in, small_data, small_world, sweep_in  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masksearch.analysis import group_cells, pareto_front, summarise
from masksearch.cli.run_arguments import parse
from masksearch.cost import macs, params
from masksearch.experiment import Cell, SweepCallback, grid, read_sweep, run_sweep
from masksearch.experiment.cell_results import Cap
from masksearch.experiment.result_parts import ScoreSummary
from masksearch.pruning.physical import load_pruned
from masksearch.report import sweep_drawings, write_report
from masksearch.report.reproduction_commands import row_commands
from masksearch.report.tables.summary_tables import columns_of, table_rows
from masksearch.scoring import Scorer
from masksearch.searchers import SEARCHERS
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError

CAPS = (0.5, 0.25)
CAPPED = {
    "model": "tiny_residual",
    "granularity": "filter",
    "methods": ["optuna_nsga2", "filter_l1", "annealing"],
    "max_macs": list(CAPS),
    "find_at": ["end"],
    "budget": 14,
    "objective": "loss",
    "saliencies": ["filter_l1"],
    "on_empty": "keep_one",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory, small_world):  # noqa: F811
    return run_sweep(settings_in(tmp_path_factory.mktemp("fronts"), **CAPPED))


@pytest.fixture(scope="module")
def cells(result):
    return cells_of(result)


@pytest.fixture(scope="module")
def page(result):
    return write_report(result)


def front_of(cell):
    return cell.folder.parent.parent / cell.metrics.front.folder


def test_search_is_shared_by_all_caps_and_each_cap_has_the_best_mask_within(result, cells):
    found = [cell for cell in cells if cell.metrics.method == "optuna_nsga2"]
    assert [cell.metrics.cap for cell in found] == [Cap("macs", cap) for cap in CAPS]
    assert [folder.name for folder in (result.path.parent / "fronts").iterdir()] == [front_of(found[0]).name]
    rows = [row for row in read_rows(front_of(found[0])) if not math.isnan(row.score.value)]
    assert len(rows) == 14
    for cell, cap in zip(found, CAPS, strict=True):
        within = [row for row in rows if row.score.cost <= cap]
        best = max(within, key=lambda row: (row.score.value, -row.score.cost))
        assert cell.mask.hash == best.mask_hash
        assert cell.metrics.front.trial == best.number
        assert cell.metrics.score.search_score == pytest.approx(best.score.value, abs=1e-6)
        assert cell.metrics.scorings == 14
        assert not (cell.folder / "history.jsonl").exists()
    assert found[0].mask != found[1].mask


def test_pruned_network_has_the_cost_recorded_in_the_front(cells):
    image = small_data().test.images[:1]
    for cell in cells:
        small = load_pruned(cell.folder / "pruned", model=cell.build())
        share = macs(small, image) / macs(cell.build(), image)
        assert share == cell.metrics.cost_share("macs") <= cell.metrics.cap.share
        assert len(cell.metrics.rounds[-1].epochs) == 2  # it was retrained
        if cell.metrics.front:
            assert share == pytest.approx(cell.metrics.front.share)


def test_each_cap_has_the_cost_curve_of_the_front_search(cells):
    for cell in cells:
        if cell.metrics.front:
            costs = EventAccumulator(str(cell.folder)).Reload().Scalars("search/cost")
            assert [event.value for event in costs] == pytest.approx([r.score.cost for r in read_rows(front_of(cell))])


def test_criteria_with_max_macs_have_the_identity_of_criteria_that_hold_macs(tmp_path):
    capped = settings_in(tmp_path, **CAPPED)
    held = settings_in(tmp_path, **CAPPED | {"max_macs": [], "sparsity": [1 - cap for cap in CAPS], "hold": "macs"})
    pairs = list(zip(grid(capped), grid(held), strict=True))
    same = [one.identity == other.identity | {"capped": "macs"} for one, other in pairs]
    assert same == [one.front is None for one, _ in pairs]


def test_front_identity_is_independent_of_the_cap_and_of_retraining(tmp_path):
    def identity(**changes) -> dict:
        [cell] = grid(settings_in(tmp_path, **CAPPED | {"methods": ["optuna_tpe"], "max_macs": [0.3]} | changes))
        return cell.front_identity

    for change in ({"max_macs": [0.7]}, {"rewind_to": ["1ep"]}, {"rescore": 3}, {"retrain_epochs": 1}):
        assert identity(**change) == identity()
    short = {"objective": "short_training"}
    for change in ({"budget": 15}, {"max_macs": [], "max_params": [0.3]}, {"saliencies": ["fpgm"]}, {"epochs": 1}):
        assert identity(**change) != identity()
    assert identity(**short, rewind_to=["1ep"]) != identity(**short)  # trained from there


def test_cap_added_later_reuses_the_finished_front_search(result, tmp_path, monkeypatch):
    settings = settings_in(result.path.parents[1], **CAPPED | {"methods": ["optuna_nsga2"], "max_macs": [0.35]})
    monkeypatch.setattr(Scorer, "score", _no_scoring)
    monkeypatch.setattr("masksearch.experiment.steps.round_evaluation.mask_scores", lambda *_, **__: SCORES)
    again = run_sweep(settings.updated({"name": "later"}, "test"))
    [cell] = cells_of(again)
    assert front_of(cell).exists()
    assert cell.metrics.cost_share("macs") <= 0.35
    assert len(list((result.path.parent / "fronts").iterdir())) == 1


SCORES = ScoreSummary("width", 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _no_scoring(self, proposals):
    raise AssertionError("nothing is left to score")


def test_killed_front_sweep_resumes_to_equal_cells(result, tmp_path):
    class Stop(SweepCallback):
        def __init__(self, at):
            self.at = at

        def trial(self, cell, trial):
            if trial.number == self.at:
                raise KeyboardInterrupt

    for at in (3, 13):
        with pytest.raises(KeyboardInterrupt):
            run_sweep(settings_in(tmp_path, **CAPPED), Stop(at))
    parts = run_sweep(settings_in(tmp_path, **CAPPED))
    assert [folder.name for folder in parts.folders] == [folder.name for folder in result.folders]
    for one, other in zip(result.cells, parts.cells, strict=True):
        assert one.trained == other.trained
        assert one.front == other.front


def test_best_masks_within_a_cap_are_rescored(tmp_path):
    [cell] = sweep_in(tmp_path, **CAPPED | {"methods": ["optuna_tpe"], "max_macs": [0.6], "rescore": 3})
    rows = list(read_rows(front_of(cell)))
    front = pareto_front([row.score.value for row in rows], [row.score.cost for row in rows])
    within = [rows[place] for place in front if rows[place].score.cost <= 0.6][::-1]
    assert cell.mask.hash in {row.mask_hash for row in within[:3]}
    assert rows[cell.metrics.front.trial].mask_hash == cell.mask.hash


def test_max_params_and_max_latency_bound_the_cost(tmp_path):
    flat = CAPPED | {"methods": ["optuna_random"], "max_macs": []}
    [cell] = sweep_in(tmp_path, **flat, max_params=[0.4], name="params")
    share = params(load_pruned(cell.folder / "pruned", model=cell.build())) / params(cell.build())
    assert share == pytest.approx(cell.metrics.front.share)
    assert share <= 0.4
    [cell] = sweep_in(tmp_path, **flat, max_latency=[0.98], name="latency")
    rows = list(read_rows(front_of(cell)))
    chosen = rows[cell.metrics.front.trial]
    assert chosen.score.cost == cell.metrics.front.share <= 0.98
    assert all(row.score.value <= chosen.score.value for row in rows if row.score.cost <= 0.98)


class TestReport:
    def test_front_figure_shows_all_trials_and_the_chosen_masks(self, result, cells, page):
        drawings = {d.name: d for _, found in sweep_drawings(result, summarise(result.cells)) for d in found}
        figure = drawings["front"].figure
        [axes] = [axes for axes in figure.axes if axes.get_visible()]
        [cell] = [cell for cell in cells if cell.metrics.front and cell.metrics.cap.share == 0.5]
        rows = [row for row in read_rows(front_of(cell)) if not math.isnan(row.score.value)]
        dots, line = axes.lines[0], axes.lines[1]
        assert list(dots.get_xdata()) == [100 * row.score.cost for row in rows]
        assert list(dots.get_ydata()) == [row.score.value for row in rows]
        front = pareto_front([row.score.value for row in rows], [row.score.cost for row in rows])
        assert list(line.get_ydata()) == [rows[place].score.value for place in front]
        rings = [line for line in axes.lines if line.get_marker() == "o"]
        assert sorted(ring.get_xdata()[0] for ring in rings) == sorted(
            100 * cell.metrics.front.share for cell in cells if cell.metrics.front
        )
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(crosses) == 4  # two methods at two caps
        assert "MACs" in axes.get_xlabel()
        text = page.read_text()
        assert "Score against cost" in text
        assert "trial " in text  # values to point at
        assert (page.parent / "figures" / "front.png").exists()

    def test_tables_show_the_cap_and_the_spent_cost(self, result, page):
        rows = summarise(result.cells, result.dense)
        columns = columns_of(rows)
        told = [dict(zip(columns, row, strict=True)) for row in table_rows(rows, columns)]
        assert {row["cap"] for row in told[1:]} == {"50 % of MACs", "25 % of MACs"}
        for row, summary in zip(told[1:], rows[1:], strict=True):
            assert float(row["cost %"]) == pytest.approx(100 * summary.macs.mean, abs=0.051)
        first = next(csv.DictReader((page.parent / "results.csv").open()))
        assert (first["cap.cost"], float(first["cap.share"])) == ("macs", 0.5)
        assert first["front.folder"].startswith("fronts/")

    def test_each_table_row_has_a_command_for_its_cells(self, result):
        groups = group_cells(result.cells)
        for group, command in zip(groups, row_commands(result, groups), strict=True):
            [settings] = parse(shlex.split(command)[2:], "masksearch run")
            assert {cell.folder for cell in grid(settings)} == {result.folders[place].name for place in group.places}

    def test_sweep_without_caps_has_no_cap_columns(self, tmp_path):
        plain = run_sweep(settings_in(tmp_path, methods=["random"]))
        assert not {"cap", "cost %"} & set(columns_of(summarise(read_sweep(plain.path).cells)))


WRONG = {
    "max_macs: 0.01; a share from 0.03125 to below 1": {"max_macs": [0.01]},
    "max_params: 1.0; a share": {"max_macs": [], "max_params": [1.0]},
    "max_macs: 0.5 0.5; each may be given once": {"max_macs": [0.5, 0.5]},
    "max_macs: given beside max_latency": {"max_latency": [0.5]},
    "max_macs: units of weight masks cost the same": {"granularity": "weight", "methods": ["optuna_tpe"]},
    "hold: params; max_macs holds macs": {"hold": "params"},
    "max_latency: filter_l1 can't bound the latency; optuna_random optuna_tpe": {"max_macs": [], "max_latency": [0.5]},
    "max_macs: optuna_nsga2 searches a Pareto front in one round": {"schedule": ["iterative"]},
    "warm_start: fpgm; with max_macs optuna_nsga2 starts at several costs": {"warm_start": "fpgm"},
    "max_params: 0.04; the smallest network of the filter space has 0.04058 of the dense network's parameters; "
    "give at least 0.041": {"max_macs": [], "max_params": [0.04]},
    "max_params: 0.04; the smallest network": {"max_macs": [], "max_params": [0.04], "methods": ["filter_l1"]},
    "sparsity: 0.97; the smallest network .* give at most 0.9": {
        "max_macs": [],
        "sparsity": [0.97],
        "hold": "params",
        "methods": ["annealing"],
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_front_sweep_with_wrong_settings_raises_input_error_before_any_work(tmp_path, message):
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, **CAPPED | WRONG[message]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_latency_cap_below_the_smallest_network_raises_input_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("masksearch.experiment.cost_feasibility.LatencyShare", lambda *_: lambda mask: 0.9)
    flat = CAPPED | {"max_macs": [], "max_latency": [0.5], "methods": ["optuna_random"]}
    with pytest.raises(InputError, match=r"takes 0.9 of the dense network's time; give at least 0.9"):
        run_sweep(settings_in(tmp_path, **flat))
    assert not (tmp_path / "runs" / "dense").exists()


def test_only_some_optuna_searchers_have_fronts(tmp_path):
    settings = settings_in(tmp_path, **CAPPED)
    fronts = [name for name in SEARCHERS if Cell(settings, name, 0.5, "0", 0).front]
    assert fronts == [f"optuna_{name}" for name in ("random", "tpe", "gp", "qmc", "nsga2", "nsga3")]
