"""Files that executors write to the folders of cells: logs of workers, and the places where cells ran."""

import csv
import platform

import pytest
from small_sweeps import settings_in, small_world  # noqa: F401

from masksearch import plugin
from masksearch.experiment import SweepCallback, run_sweep
from masksearch.experiment.store.run_hosts import places_of
from masksearch.report import write_rows
from masksearch.utils.files import write_json

LOUD = """
import os, warnings
import torch
from masksearch.criteria import Criterion
def loud(model, space, batches, *, initial=None, alive=None):
    print("plain text")
    os.write(2, b"text of a library in C\\n")
    warnings.warn("a warning of a criterion")
    return torch.arange(space.n_units, dtype=torch.float32)
MASKSEARCH = {"criteria": {"loud": Criterion(loud, "x", weights="trained", needs_batches=True)}}
"""


def loud_sweep(folder, **flat):
    (folder / "loud.py").write_text(LOUD)
    with plugin.scoped():
        flat |= {"methods": ["loud", "magnitude"], "seeds": 2, "plugin": [str(folder / "loud.py")]}
        return run_sweep(settings_in(folder, **flat))


@pytest.mark.parametrize("executor", ["processes:1", "ray"])
def test_output_of_workers_is_written_to_the_log_of_the_cell(executor, tmp_path, capfd, monkeypatch):
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
        monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    result = loud_sweep(tmp_path, executor=executor)
    for cell, folder in zip(result.cells, result.folders, strict=True):
        assert (folder / "log.txt").exists() == (cell.method == "loud")
        if cell.method == "loud":
            log = (folder / "log.txt").read_text()
            for text in ("plain text", "text of a library in C", "a warning of a criterion"):
                assert log.count(text) == 1 + (text == "a warning of a criterion") * log.count("warnings.warn(")
    assert "plain text" not in capfd.readouterr().out


def test_inline_executor_prints_to_the_terminal(tmp_path, capfd):
    with pytest.warns(UserWarning, match="a warning of a criterion"):
        loud_sweep(tmp_path, executor="inline")
    assert capfd.readouterr().out.count("plain text") == 2
    assert not list(tmp_path.rglob("log.txt"))


def test_results_name_host_worker_and_threads_of_each_cell(tmp_path):
    one = run_sweep(settings_in(tmp_path / "inline", executor="inline"))
    two = run_sweep(settings_in(tmp_path / "processes", executor="processes:1", threads=2))
    for result, worker, threads in ((one, "MainProcess", 1), (two, "process0", 2)):
        [place] = places_of(result.folders[0])
        assert (place.host, place.worker, place.threads) == (platform.node(), worker, threads)
        write_rows(result, result.path / "results.csv")
        with (result.path / "results.csv").open() as source:
            [row] = csv.DictReader(source)
        assert (row["host"], row["worker"], row["threads"]) == (platform.node(), worker, str(threads))
    (two.folders[0] / "places.json").unlink()
    write_rows(two, two.path / "results.csv")  # as of version 1.0


def test_changed_number_of_threads_of_a_resumed_sweep_warns(tmp_path):
    class Interrupted(SweepCallback):
        def cell_ends(self, cell, metrics):
            raise KeyboardInterrupt

    flat = {"methods": ["magnitude", "random"], "executor": "inline"}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings_in(tmp_path, **flat), Interrupted())
    with pytest.warns(UserWarning, match="began with 1 for each cell and continues with 2"):
        result = run_sweep(settings_in(tmp_path, threads=2, **flat))
    assert [place.threads for folder in result.folders for place in places_of(folder)] == [1, 2]


def test_damaged_places_file_raises_value_error(tmp_path):
    write_json(tmp_path / "places.json", {"places": [{"host": 1}]})
    with pytest.raises(ValueError, match="no result depends on it"):
        places_of(tmp_path)
