"""Objects at a URL: retries, error messages, leases, and folders copied by manifests."""

import errno
import json
import time
from dataclasses import replace

import pytest

from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.experiment.store import lease
from masksearch.experiment.store.folder_manifest import FolderCopy, read_manifests
from masksearch.experiment.store.lease import Lease, check_lease
from masksearch.experiment.store.mirror import Mirror
from masksearch.experiment.store.object_storage import ObjectStorage
from masksearch.utils.errors import InputError, StorageError
from masksearch.utils.files import write_bytes, write_json
from masksearch.utils.integrity import seal_json


class NoCredentialsError(Exception):
    """Has the name of botocore's error."""


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path):
    url = f"file://{tmp_path}/store" if request.param == "file" else f"memory://store{time.monotonic_ns()}"
    found = ObjectStorage(url)
    found.pause = 0.001
    return found


def test_objects_are_written_read_listed_and_removed(storage, tmp_path):
    storage.write("sweep/a", b"1")
    storage.write("sweep/a", b"2")
    storage.create("sweep/a", b"3")
    storage.create("sweep/deep/b", b"4")
    assert storage.read_all(["sweep/a", "sweep/deep/b", "sweep/c"]) == {"sweep/a": b"2", "sweep/deep/b": b"4"}
    assert storage.names("sweep") == ["sweep/a", "sweep/deep/b"]
    assert storage.names("other") == []
    assert not storage.copy("sweep/c", tmp_path / "c")
    storage.remove(["sweep/a", "sweep/c"])
    assert storage.read("sweep/a") is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EIO, "QuotaExceeded"), "is full: "),
        (OSError(errno.EIO, "XMinioStorageFull: Storage backend has reached its minimum free drive"), "is full: "),
        (PermissionError("Access Denied"), "refuses the operation: Access Denied"),
        (NoCredentialsError("Unable to locate credentials"), "credentials are missing or wrong: Unable"),
        (FileNotFoundError("The specified bucket does not exist"), "make the bucket"),
    ],
)
def test_lasting_storage_errors_raise_storage_error_at_once(storage, monkeypatch, error, sentence):
    monkeypatch.setattr(storage, "_local", False)
    monkeypatch.setattr(storage._fs, "pipe_file", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(StorageError, match=sentence):
        storage.write("a", b"1")


def test_full_local_disk_raises_os_error_and_not_storage_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    mounted, memory = ObjectStorage(f"file://{tmp_path}/store"), ObjectStorage("memory://store")
    memory.write("a", b"1")
    monkeypatch.setattr("masksearch.experiment.store.object_storage.write_bytes", full)
    with pytest.raises(StorageError, match=r"is full: .*No space left"):
        mounted.write("a", b"1")
    monkeypatch.setattr(memory._fs, "get", full)
    with pytest.raises(OSError, match="No space left on device: 'file'") as error:
        memory.download({"a": tmp_path / "a"})
    assert not isinstance(error.value, StorageError)


def test_unreachable_storage_is_retried_and_reported_once(storage, monkeypatch, capsys):
    tries = []
    monkeypatch.setattr(storage, "_local", False)
    working = storage._fs.pipe_file

    def failing(*arguments):
        tries.append(arguments)
        if len(tries) % 4:
            raise ConnectionError("Connection reset by peer")
        working(*arguments)

    monkeypatch.setattr(storage._fs, "pipe_file", failing)
    storage.write("a", b"1")
    assert (len(tries), storage.read("a")) == (4, b"1")
    assert capsys.readouterr().err.count("can't be reached (Connection reset by peer)") == 1
    storage.patience = 0.0
    with pytest.raises(StorageError, match="can't be reached for 0 s: Connection reset by peer"):
        storage.write("b", b"1")


def test_url_without_a_file_system_raises_input_error():
    with pytest.raises(InputError, match=r"runs: s4://x/runs: .*s4"):
        ObjectStorage("s4://x/runs")


def test_runs_setting_with_a_url_is_remote_and_a_local_folder_is_not():
    run = RunSettings(runs="runs")
    assert (run.is_remote, str(run.folder)) == (False, "runs")
    remote = RunSettings(runs="s3://bucket/runs", cache="$NODE/cache")
    assert remote.is_remote
    assert remote.folder == replace(remote, runs="s3://bucket/runs/").folder
    with pytest.raises(InputError, match="upload_seconds"):
        RunSettings(upload_seconds=0.0)


def test_lease_is_held_by_a_single_process(storage, monkeypatch):
    with Lease(storage, "sweep") as first:
        check_lease(storage, "sweep", first.token)
        with pytest.raises(InputError, match=r"process \d+ on .*; its lease expires at ..:..:.., in 1[12]\d s"):
            Lease(storage, "sweep").__enter__()
    with Lease(storage, "sweep") as second:
        with pytest.raises(StorageError, match=r"was taken over by process \d+"):
            check_lease(storage, "sweep", first.token)
        assert len(storage.names("sweep/lease")) == 1
        check_lease(storage, "sweep", second.token)


def test_lease_is_renewed_while_held(storage, monkeypatch):
    monkeypatch.setattr(Lease, "seconds", 0.4)
    with Lease(storage, "sweep") as held:
        time.sleep(1.0)
        with pytest.raises(InputError, match="another process is working in it"):
            Lease(storage, "sweep").__enter__()
        check_lease(storage, "sweep", held.token)


def claim(storage, number=1, *, expires=3600.0, machine="another", process=1):
    """Write the lease object of another machine."""
    content = {"token": "t", "process": f"process {process} on {machine}", "machine": machine, "number": process}
    storage.write(f"sweep/lease/{number:09}.json", json.dumps(content | {"expires": time.time() + expires}).encode())


def test_only_an_expired_lease_is_replaced(storage):
    claim(storage)
    with pytest.raises(InputError, match="process 1 on another; its lease expires"):
        Lease(storage, "sweep").__enter__()
    claim(storage, expires=-1.0)
    with Lease(storage, "sweep") as held:
        assert storage.names("sweep/lease") == ["sweep/lease/000000002.json"]
        claim(storage, 3)
        with pytest.raises(StorageError, match="was taken over by process 1 on another"):
            check_lease(storage, "sweep", held.token)


def test_lease_of_an_ended_process_of_this_machine_is_replaced(storage):
    claim(storage, machine=lease._machine(), process=2**22 + 1)
    with Lease(storage, "sweep") as held:
        check_lease(storage, "sweep", held.token)


def test_waiting_process_gets_the_lease_after_expiry(storage, capsys):
    claim(storage, expires=1.0)
    with Lease(storage, "sweep", wait=True) as held:
        check_lease(storage, "sweep", held.token)
    assert capsys.readouterr().err.count("masksearch: waiting for") == 1


@pytest.fixture
def copies(storage, tmp_path):
    """The same folder on two machines."""
    return [FolderCopy(storage, "sweep/cell", tmp_path / name / "cell") for name in ("one", "two")]


def allowed():
    """A process that may write."""


def filled(path, **files):
    for name, content in ({"status": json.dumps({"stage": "search"})} | files).items():
        file = path / (f"{name}.json" if name == "status" else f"{name}.safetensors")
        write_bytes(file, content.encode())


def finished(path):
    write_json(path / "status.json", {"stage": "done"})


def here(path):
    return {file.name: file.read_text() for file in path.iterdir() if file.is_file() and file.name[0] != "."}


def test_folder_is_uploaded_and_downloaded(copies, storage):
    one, two = copies
    filled(one.path, mask="m", retraining="r1")
    one.publish(allowed)
    filled(one.path, mask="m", retraining="r2")
    one.publish(allowed)
    assert len(storage.names("sweep/cell")) == 4  # the object of r1 is removed
    two.fetch(*read_manifests([two]))
    assert here(two.path) == here(one.path)
    (two.path / "retraining.safetensors").unlink()
    finished(two.path)
    two.publish(allowed)
    one.fetch(*read_manifests([one]), light=True)
    assert set(here(one.path)) == {"status.json", "mask.safetensors"}
    assert one.is_known(whole=True)


def test_fetch_keeps_the_newest_state_of_a_folder(copies):
    one, two = copies
    filled(one.path, retraining="r1")
    one.publish(allowed)
    filled(one.path, retraining="r2")  # the machine ended before the upload
    one.fetch(*read_manifests([one]))
    assert here(one.path)["retraining.safetensors"] == "r2"
    two.fetch(*read_manifests([two]))
    filled(two.path, retraining="r3")
    two.publish(allowed)
    one.fetch(*read_manifests([one]))  # another machine has gone on since
    assert here(one.path)["retraining.safetensors"] == "r3"


def test_light_fetch_leaves_out_the_weights_of_finished_runs(copies):
    one, two = copies
    filled(one.path, mask="m", retrained="w")
    finished(one.path)
    one.publish(allowed)
    two.fetch(*read_manifests([two]), light=True)
    assert "retrained.safetensors" not in here(two.path)
    assert two.is_known()
    assert not two.is_known(whole=True)
    two.publish(allowed)  # names the weights, too
    two.fetch(*read_manifests([two]))
    assert here(two.path) == here(one.path)


def test_changed_file_is_uploaded_after_missing_files_are_downloaded(copies):
    one, two = copies
    filled(one.path, mask="m", retrained="w")
    finished(one.path)
    one.publish(allowed)
    assert not one.has_changed()
    filled(one.path, mask="new", moment="later")
    finished(one.path)
    (one.path / "retrained.safetensors").unlink()
    one.fetch(*read_manifests([one]))
    assert one.has_changed()
    one.publish(allowed)
    assert not one.has_changed()
    two.fetch(*read_manifests([two]))
    assert here(two.path) == here(one.path)
    assert here(two.path)["mask.safetensors"] == "new"
    assert {"moment.safetensors", "retrained.safetensors"} < set(here(two.path))


def test_incomplete_uploads_are_not_downloaded(copies, storage):
    one, two = copies
    filled(one.path, mask="m")
    storage.write("sweep/cell/mask.0123456789abcdef.safetensors", b"half")
    two.fetch(*read_manifests([two]))
    assert not two.path.exists()
    storage.write("sweep/cell/manifest.json", b'{\n  "checksum": "1:0123456789abcdef",\n  "do')
    assert read_manifests([two]) == [None]
    one.publish(allowed)
    [manifest] = read_manifests([two])
    storage.remove([f"sweep/cell/{manifest.objects()['mask.safetensors']}"])
    two.fetch(manifest)  # of an unfinished run: begin anew
    assert not two.path.exists()


@pytest.mark.parametrize("name", ["../mask", "/tmp/mask", "a/../../mask", "", ".lock"])
def test_manifest_with_files_outside_its_folder_is_ignored(copies, storage, name):
    entry = {"size": 1, "sha256": "0" * 64}
    storage.write("sweep/cell/manifest.json", seal_json({"done": True, "files": {name: entry}}))
    assert read_manifests(copies) == [None, None]


def test_damaged_or_missing_object_raises_input_error(copies, storage):
    one, two = copies
    filled(one.path, mask="m")
    finished(one.path)
    one.publish(allowed)
    [manifest] = read_manifests([two])
    name = f"sweep/cell/{manifest.objects()['mask.safetensors']}"
    storage.write(name, b"n")
    with pytest.raises(InputError, match=r"mask\.safetensors is damaged; remove the folder .*sweep/cell and run again"):
        two.fetch(manifest)
    storage.remove([name])
    with pytest.raises(InputError, match=r"is missing; remove the folder"):
        two.fetch(manifest)


def test_nothing_is_uploaded_without_the_lease(copies, storage):
    def refused():
        raise StorageError("lost")

    filled(copies[0].path, mask="m")
    with pytest.raises(StorageError, match="lost"):
        copies[0].publish(refused)
    assert storage.names("sweep") == []


def test_checkpoints_are_uploaded_while_a_cell_runs(tmp_path):
    run = RunSettings(runs=f"file://{tmp_path}/store", cache=str(tmp_path / "cache"), upload_seconds=0.05)
    folder = run.folder / "dense" / "network"
    reader = FolderCopy(ObjectStorage(run.runs), "dense/network", tmp_path / "reader")
    with Lease(ObjectStorage(run.runs), run.name) as held:
        mirror = Mirror(run, held.token)
        with mirror.work(folder, shared=True):
            filled(folder, checkpoint="c")
            time.sleep(0.5)
            assert "checkpoint.safetensors" in read_manifests([reader])[0].files
            (folder / "checkpoint.safetensors").unlink()
            finished(folder)
        assert read_manifests([reader])[0].done
        with pytest.raises(ZeroDivisionError), mirror.work(folder, shared=True):
            write_bytes(folder / "later", bytes([1 // 0]))
        assert list(read_manifests([reader])[0].files) == ["status.json"]
