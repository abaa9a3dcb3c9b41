"""Sweeps at a URL: rows of a local folder, machines with caches of their own, kills, leases and failing storages."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest
from small_sweeps import SMALL, BegunCells, settings_in, small_world  # noqa: F401
from test_kill import strip_seconds
from test_object_storage import claim

from masksearch.cli import main
from masksearch.experiment import CellsFailedError, SweepCallback, read_sweep, run_sweep
from masksearch.experiment.executors import EXECUTORS, Executor
from masksearch.experiment.executors.crew import Done, Failed
from masksearch.experiment.executors.worker import JobRunner, WorkerPlan
from masksearch.experiment.store.object_storage import ObjectStorage, storage_at
from masksearch.utils.errors import InputError, StorageError
from masksearch.utils.files import read_json

SWEEP = {"methods": ["annealing", "magnitude"], "control": ["shuffle"], "epochs": 1, "upload_seconds": 0.2}
CAPPED = {"granularity": "filter", "methods": ["optuna_nsga2"], "max_macs": [0.5, 0.25], "find_at": ["end"]}
SCRIPT = """
import sys, time
from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.searching.history_store import HistoryFile

class Slow(SweepCallback):
    def trial(self, cell, trial):
        time.sleep(0.02)

    def epoch(self, row):
        time.sleep(2)

HistoryFile.checkpoint_seconds = 0.05
run_sweep(Settings().updated({flat!r}, "test"), Slow())
"""


def rows(result):
    """The results of all cells and dense networks, without seconds."""
    folders = [*result.folders, *sorted((result.path.parent / "dense").iterdir())]
    return {folder.name: strip_seconds(read_json(folder / "metrics.json")) for folder in folders}


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    return rows(run_sweep(settings_in(tmp_path_factory.mktemp("inline"), executor="inline", **SWEEP)))


@pytest.fixture(scope="module")
def server():
    """A server of S3 on this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra storage)")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    started = moto.ThreadedMotoServer("127.0.0.1", port=0)
    started.start()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    keys["AWS_MAX_ATTEMPTS"] = "1"  # fail at once
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{started.get_host_and_port()[1]}"}).items():
            patch.setenv(name, value)
        storage_at("s3://bucket/runs")._fs.mkdir("bucket")
        yield started
    started.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("server")
    return {"file": f"file://{tmp_path}/store"}.get(request.param, f"{request.param}://bucket/{time.monotonic_ns()}")


def remote(url, folder, **flat):
    flat = {"executor": "inline"} | SWEEP | flat
    return settings_in(folder, **flat | {"runs": url, "cache": str(folder / "cache")})


def test_remote_sweep_equals_local_sweep_and_downloads_to_an_empty_cache(url, inline, tmp_path):
    assert rows(run_sweep(remote(url, tmp_path / "one"))) == inline
    notes = BegunCells()
    again = run_sweep(remote(url, tmp_path / "two"), notes)
    assert (rows(again), notes.begun) == (inline, [])
    assert not list(again.path.glob("*/retrained.safetensors"))


def test_worker_processes_upload_their_cells(inline, tmp_path):
    url = f"file://{tmp_path}/store"
    assert rows(run_sweep(remote(url, tmp_path / "one", executor="processes:2"))) == inline
    notes = BegunCells()
    assert rows(run_sweep(remote(url, tmp_path / "two"), notes)) == inline
    assert not notes.begun


def test_killed_remote_sweep_resumes_from_an_empty_cache(server, inline, tmp_path):
    url, search = f"s3://bucket/{time.monotonic_ns()}", {"budget": 60, "methods": ["annealing"]}
    expected = rows(run_sweep(settings_in(tmp_path, **(SWEEP | search | {"executor": "inline"}))))
    flat = SMALL | SWEEP | search | {"runs": url, "cache": str(tmp_path / "lost"), "name": "sweep"}
    flat["executor"] = "inline"
    driver = subprocess.Popen([sys.executable, "-c", SCRIPT.format(flat=flat)], env=dict(os.environ))
    storage, deadline = storage_at(url), time.monotonic() + 100

    def manifests():
        return storage.read_all([name for name in storage.names("sweep") if name.endswith("manifest.json")]).values()

    while not any(b"search.safetensors" in manifest for manifest in manifests()):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    shutil.rmtree(tmp_path / "lost")

    class Continued(BegunCells):
        def search_begins(self, cell):
            folder = settings.run.folder / "sweep" / cell.folder
            self.begun.append((folder / "search.safetensors").exists())

    notes, settings = Continued(), remote(url, tmp_path, **search)
    assert rows(run_sweep(settings, notes)) == expected
    assert notes.begun[1] is True


def test_second_driver_of_a_remote_sweep_raises_input_error(tmp_path):
    url = f"file://{tmp_path}/store"

    class Second(SweepCallback):
        refused = 0

        def cell_begins(self, cell):
            with pytest.raises(InputError, match=r"another process is working in it: process \d+ on .* in \d+ s"):
                run_sweep(remote(url, tmp_path / "two"))
            self.refused += 1

    second = Second()
    run_sweep(remote(url, tmp_path / "one", control=[]), second)
    assert second.refused == 2


def test_driver_that_lost_its_lease_writes_nothing_more(tmp_path):
    url = f"file://{tmp_path}/store"
    storage = storage_at(url)

    class LosesLease(SweepCallback):
        def cell_begins(self, cell):
            claim(storage, 2)

    settings = remote(url, tmp_path / "one")
    with pytest.raises(StorageError, match="was taken over by process 1 on another; this process writes nothing more"):
        run_sweep(settings, LosesLease())
    assert not [name for name in storage.names("sweep") if name.endswith("/manifest.json")]
    claim(storage, 2, expires=-1.0)
    notes = BegunCells()
    run_sweep(settings, notes)
    assert len(notes.begun) == 3  # the first one was finished here, and is uploaded now
    assert len([name for name in storage.names("sweep") if name.endswith("/manifest.json")]) == 4


def test_full_storage_loses_no_finished_cell(inline, tmp_path, monkeypatch):
    url, full = f"memory://store{time.monotonic_ns()}", []
    upload = storage_at(url)._fs.put

    def put(files, objects):
        if any("annealing" in name for name in objects) and not full:
            full.append(True)
            raise OSError(errno.EIO, "XMinioStorageFull")
        upload(files, objects)

    monkeypatch.setattr(storage_at(url)._fs, "put", put)
    settings, notes = remote(url, tmp_path, upload_seconds=100.0), BegunCells()
    with pytest.raises(StorageError, match=r"is full: .*; finished cells are kept on this machine"):
        run_sweep(settings, notes)
    assert rows(run_sweep(settings, notes)) == inline
    assert len(notes.begun) == 4  # none twice


def test_sweep_waits_for_a_storage_server_during_an_outage(server, inline, tmp_path, capsys):
    url = f"s3://bucket/{time.monotonic_ns()}"

    class Outage(SweepCallback):
        left = 1

        def cell_begins(self, cell):
            if self.left:
                self.left = 0
                port = server.get_host_and_port()[1]
                server.stop()
                server._port = port
                threading.Timer(2.0, server.start).start()

    assert rows(run_sweep(remote(url, tmp_path), Outage())) == inline
    assert capsys.readouterr().err.count("can't be reached") == 1


def test_missing_credentials_are_reported_in_a_single_line_before_any_work(server, tmp_path, monkeypatch, capsys):
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3fs.S3FileSystem, "cachable", False)
    assert main(["run", "--runs", "s3://bucket/no-keys", "--set", f"run.cache={tmp_path}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "storage s3://bucket/no-keys: credentials are missing or wrong: Unable to locate credentials" in line


@dataclass
class Nodes:
    """Two machines without a shared folder, which take turns in this process."""

    plan: WorkerPlan
    patch: pytest.MonkeyPatch
    size: int = 2
    ended: list = field(default_factory=list)

    def __post_init__(self):
        self.runners = {}

    def is_ready(self, number):
        return True

    def send(self, number, job):
        events = []
        with self.patch.context() as patch:
            patch.setenv("NODE", f"node{number}")
            runner = self.runners.setdefault(number, JobRunner(self.plan, events.extend))
            runner._callback._send = events.extend
            try:
                runner.run(job)
                message = Done()
            except Exception as error:
                message = Failed(error)
        self.ended.append((number, events, message))

    def wait(self, busy):
        for number, events, message in self.ended:
            yield number, events
            yield number, message
        self.ended = []

    def close(self):
        pass


@pytest.fixture
def nodes(monkeypatch):
    """The executor ``nodes``; the cache of each machine is in a folder of its own."""
    row = Executor("", lambda run, plan, path, device: Nodes(WorkerPlan(run, 1, path, plan.mirror), monkeypatch))
    monkeypatch.setitem(EXECUTORS._rows, "nodes", row)
    monkeypatch.setenv("NODE", "driver")


def on_nodes(tmp_path, **flat):
    flat = {"executor": "nodes"} | SWEEP | flat | {"runs": f"file://{tmp_path}/store", "cache": f"{tmp_path}/$NODE"}
    return settings_in(tmp_path, **flat)


def test_machines_without_a_shared_folder_equal_inline_sweep(nodes, inline, tmp_path):
    result = run_sweep(on_nodes(tmp_path))
    assert rows(result) == inline
    cells = {name: {path.parent.name for path in tmp_path.glob(f"{name}/*/sweep/*/retrained.safetensors")} for name in
             ("node0", "node1", "driver")}  # fmt: skip
    assert all(map(cells.get, ("node0", "node1")))
    assert not cells["driver"] | cells["node0"] & cells["node1"]
    assert all(len(list(tmp_path.glob(f"node{n}/*/dense/*/best.safetensors"))) == 1 for n in (0, 1))


def test_ray_nodes_without_a_shared_folder_equal_inline_sweep(inline, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("NODE", "driver")
    nodes = [{"num_cpus": 1, "env_vars": {"NODE": f"node{number}"}} for number in (0, 1)]
    cluster = Cluster(initialize_head=True, head_node_args=nodes[0] | {"include_dashboard": False})
    try:
        cluster.add_node(**nodes[1])
        result = run_sweep(on_nodes(tmp_path, executor=f"ray:{cluster.address}"))
        assert rows(result) == inline
        assert all(list(tmp_path.glob(f"node{number}/*/sweep/*/retrained.safetensors")) for number in (0, 1))
        assert not list(tmp_path.glob("driver/*/sweep/*/retrained.safetensors"))
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_remote_front_sweep_equals_local_front_sweep(nodes, tmp_path):
    local = rows(run_sweep(settings_in(tmp_path, **CAPPED, epochs=1, executor="inline")))
    result = run_sweep(on_nodes(tmp_path, **CAPPED, control=[]))
    assert rows(result) == local
    assert (result.path.parent / result.cells[0].front.folder / "history.jsonl").exists()


def test_error_of_a_cell_on_another_machine_reaches_the_sweep(nodes, tmp_path, monkeypatch):
    from masksearch.experiment import dense_group

    run_cell = dense_group.run_cell

    def failing(context, path, callback):
        if context.cell.method == "magnitude" and context.cell.control == "none":
            raise InputError("no such luck")
        return run_cell(context, path, callback)

    monkeypatch.setattr(dense_group, "run_cell", failing)
    with pytest.raises(CellsFailedError, match="no such luck") as error:
        run_sweep(on_nodes(tmp_path, control=[]))
    assert len(error.value.result.cells) == 1
    monkeypatch.setattr(dense_group, "run_cell", run_cell)
    assert len(run_sweep(on_nodes(tmp_path, control=[])).cells) == 2


def test_command_line_reads_and_writes_urls(tmp_path, monkeypatch, capsys):
    url, cache = f"file://{tmp_path}/store", f"run.cache={tmp_path}/cache"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = ["run", "--runs", url, "--sparsity", "0.8", "--model", "lenet_300_100:0.1", "--epochs", "1", "--seeds", "1"]
    run += ["--train-examples", "100", "--set", cache, "run.latency_seconds=0", "scoring.val_examples=100"]
    assert main([*run, "--methods", "magnitude", "random"]) == 0
    assert f"copied  {url}/sweep\n" in capsys.readouterr().out
    store = ObjectStorage(url)
    assert {"sweep/report.html", "sweep/results.csv", "sweep/sweep.json"} <= set(store.names("sweep"))
    shutil.rmtree(tmp_path / "cache")
    assert main([*run, "--methods", "magnitude"]) == 0
    assert "holds a sweep with other settings" in capsys.readouterr().out
    assert main(["show", f"{url}/sweep/"]) == 0
    assert "2 of 2" in capsys.readouterr().out
    plan = json.loads(store.read("sweep/sweep.json"))
    for folder in (f"sweep/{plan['cells'][0]}", next(iter(plan["dense"])).removeprefix("../")):
        assert main(["show", f"{url}/{folder}"]) == 0
        assert "weights of the masked network" in (out := capsys.readouterr().out) or "weights at the end" in out
    assert main(["compare", f"{url}/sweep", f"{url}/sweep-2"]) == 0
    assert main(["analyse", f"{url}/sweep", "--what", "similarity", "weights", "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").glob("*weights*.png"))
    assert main(["show", f"{url}/nothing"]) == 2
    assert "holds neither a sweep" in capsys.readouterr().err
    copied = read_sweep(next((tmp_path / "home").rglob("sweep.json")).parent)
    assert len(copied.dense) == 1
    assert copied.settings[0].run.runs == url
    for wrong in ("s3://sweep", f"file:///{tmp_path.name}"):
        assert main(["show", wrong]) == 2
