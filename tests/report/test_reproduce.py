"""Commands of rows and sweeps reproduce their cells; the CSV file has every cell."""

import csv
import shlex
from dataclasses import replace

import pytest

from masksearch.analysis import group_cells
from masksearch.cli.run_arguments import parse
from masksearch.experiment import Settings, grid, recipe_names
from masksearch.experiment.identity import short_hash
from masksearch.experiment.recipes import SCALES, load_recipe
from masksearch.report.reproduction_commands import _alone, flags_of, row_commands, sweep_command


@pytest.mark.parametrize("sweep", ["finished", "rounds"])
def test_each_row_has_a_command_for_its_cells(sweep, request):
    result = request.getfixturevalue(sweep)
    result = result[0] if sweep == "finished" else result
    groups = group_cells(result.cells)
    commands = row_commands(result, groups)
    assert len(commands) == len(groups) > 3
    for group, command in zip(groups, commands, strict=True):
        program, verb, *flags = shlex.split(command)
        assert (program, verb) == ("masksearch", "run")
        [settings] = parse(flags, "masksearch run")
        assert settings.run.name == f"{result.path.name}_again"
        found = {short_hash(cell.identity) for cell in grid(settings)}
        wanted = {result.folders[place].name.rpartition("_")[2] for place in group.places}
        assert wanted <= found
        assert len(found) == len(wanted) * (1 + (group.control != "none"))  # a control needs its treated cell


def test_sweep_command_has_the_settings_of_the_sweep(finished):
    result, _ = finished
    program, verb, *flags = sweep_command(result)
    assert (program, verb) == ("masksearch", "run")
    assert parse(flags, "masksearch run") == result.settings
    assert sweep_command(replace(result, settings=result.settings * 2)) == []


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("scale", SCALES)
def test_cell_of_each_recipe_has_a_command(name, scale):
    for part in load_recipe(name, scale):
        cells = grid(part)
        for cell in cells[:: max(1, len(cells) // 7)]:
            [settings] = parse(flags_of(_alone(cell, "again")), "masksearch run")
            assert short_hash(cell.identity) in {short_hash(other.identity) for other in grid(settings)}


def test_cell_with_its_own_distillation_has_a_command():
    flat = {"methods": ["magnitude"], "sparsity": [0.9], "seeds": 1, "retrain_distill": [0.0, 0.5]}
    for cell in grid(Settings().updated(flat | {"retrain_temperature": [1.0, 2.0]}, "test")):
        [settings] = parse(flags_of(_alone(cell, "again")), "masksearch run")
        assert [other.identity for other in grid(settings)] == [cell.identity]


def test_command_of_a_search_with_a_shared_study_uses_another_study():
    optuna = {"storage": "sqlite:///studies.db", "study": "all"}
    cell, *_ = grid(Settings().updated({"methods": ["optuna_tpe"], "sparsity": [0.9], "optuna": optuna}, "test"))
    flags = flags_of(_alone(cell, "again"))
    assert "optuna.study=all_again" in flags


def test_flags_have_only_settings_that_differ_from_the_default():
    usual = Settings.of_command_line()
    assert flags_of(usual) == []
    assert flags_of(Settings()) == ["--warm-start", "none"]
    settings = usual.updated({"budget": 5, "lr": 1e-05, "annealing": {"chains": 3}, "nesterov": True}, "test")
    assert flags_of(settings) == [
        *("--budget", "5", "--lr", "1e-05", "--set", "train.nesterov=true", "annealing.chains=3")
    ]
    assert parse(flags_of(settings), "masksearch run") == [settings]
    off = Settings().updated({"supermask": {"rescale": not Settings().supermask.rescale}}, "test")
    assert parse(flags_of(off), "masksearch run") == [off]


def test_flags_leave_out_a_sparsity_replaced_by_another_setting():
    sweep = {"granularity": "filter", "methods": ["filter_l1"], "sparsity": [0.5], "max_macs": [0.25]}
    settings = Settings().updated(sweep, "test")
    [again] = parse(flags_of(settings), "masksearch run")
    assert again.sweep.sparsities == settings.sweep.sparsities
    assert [cell.identity for cell in grid(again)] == [cell.identity for cell in grid(settings)]


def test_settings_round_trip_through_a_dict(finished):
    [part] = finished[0].settings
    assert part == Settings.from_dict(part.as_dict())
    assert [cell.folder for cell in grid(part)] == [path.name for path in finished[0].folders]


def test_csv_file_has_every_cell(finished):
    result, page = finished
    rows = list(csv.DictReader((page.parent / "results.csv").open()))
    assert len(rows) == len(result.cells)
    for row, cell in zip(rows, result.cells, strict=True):
        assert (row["method"], float(row["sparsity"]), int(row["seed"])) == (
            cell.method,
            cell.sparsity,
            cell.seed,
        )
        assert float(row["trained.test_accuracy"]) == cell.trained.test_accuracy
        assert float(row["cost.effective_macs"]) == cell.cost.effective_macs
