"""Results of cells: they round-trip through files, and files of other versions raise an input error."""

import json
import math
from dataclasses import replace

import pytest
from small_sweeps import settings_in, small_world  # noqa: F401 (a fixture)

from masksearch.experiment import run_sweep
from masksearch.experiment.cell_results import CellResult, DenseResult, load_result
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_sweep(
        settings_in(tmp_path_factory.mktemp("results"), methods=["magnitude"], rounds=[2], schedule=["iterative"])
    )


def test_cell_result_and_dense_result_round_trip_through_files(finished, tmp_path):
    [cell], [folder] = finished.cells, finished.folders
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    cell.save(tmp_path)
    assert CellResult.load(tmp_path) == load_result(tmp_path) == cell
    assert (tmp_path / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
    [dense] = finished.dense
    dense.save(tmp_path)
    assert DenseResult.load(tmp_path) == load_result(tmp_path) == dense
    assert cell.dense == dense.without_epochs


def test_metrics_file_has_rounds_once_and_cell_result_sums_their_effort(finished):
    [cell], [folder] = finished.cells, finished.folders
    written = json.loads((folder / "metrics.json").read_text())
    assert len(written["rounds"]) == 2
    assert not {"trained", "mask", "epochs", "settings"} & set(written)
    seconds = [epoch.seconds for round_ in cell.rounds for epoch in round_.epochs]
    assert cell.retrain_seconds == pytest.approx(sum(seconds))
    assert cell.trained.test_accuracy == written["rounds"][1]["trained"]["test_accuracy"]


def test_nan_and_infinity_are_null_in_metrics_file(finished, tmp_path):
    [dense] = finished.dense
    epochs = [replace(dense.epochs[0], train_loss=math.nan, val_loss=math.nan)]
    replace(dense, test_loss=math.inf, epochs=epochs, diverged=True).save(tmp_path)
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    again = DenseResult.load(tmp_path)
    assert again.test_loss is None
    assert math.isnan(again.epochs[0].train_loss)
    assert again.epochs[0].val_loss is None


def test_settings_are_found_by_name_in_nested_tables(finished):
    [cell] = finished.cells
    nested = replace(
        cell, settings={"dense": {"training": {"lr": 0.1}}, "searcher": {"scope": "erk"}, "scope": "global"}
    )
    assert nested.flat_settings == {"dense.training.lr": 0.1, "searcher.scope": "erk", "scope": "global"}
    assert (nested.setting("lr"), nested.setting("scope"), nested.setting("budget")) == (0.1, "global", None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": None}, "has format 1 and this version reads format 2; remove the folder .* and run again"),
        ({"rounds": 3}, r"was changed \(Expected `array`, got `int` - at `\$.rounds`\); remove the folder"),
        (
            {"granularity": "units"},
            r"was changed \(Invalid enum value 'units' - at `\$.granularity`\); remove the folder",
        ),
        ({"control": "other"}, r"was changed \(Invalid enum value 'other' - at `\$.control`\); remove the folder"),
        ({"seed": 7}, "has seed 7 and a dense network of seed 0; remove the folder"),
    ],
)
def test_result_files_of_other_versions_and_changed_files_raise_input_error(finished, tmp_path, change, words):
    [folder] = finished.folders
    values = read_json(folder / "metrics.json") | change
    written = {name: value for name, value in values.items() if value is not None or name not in change}
    write_json(tmp_path / "metrics.json", written)
    write_json(tmp_path / "settings.json", read_json(folder / "settings.json"))
    with pytest.raises(InputError, match=words):
        CellResult.load(tmp_path)


def test_epochs_with_former_field_names_are_read(finished, tmp_path):
    [dense] = finished.dense
    dense.save(tmp_path)
    path = tmp_path / "metrics.json"
    written = read_json(path)
    for row in written["epochs"]:
        assert "train_metric" in row
        row["train_accuracy"], row["val_accuracy"] = row.pop("train_metric"), row.pop("val_metric")
        del row["higher_is_better"]
    write_json(path, written)
    assert DenseResult.load(tmp_path) == dense
