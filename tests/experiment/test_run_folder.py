"""Run folders: one process at a time, one run per folder, stages on disk."""

import os
import signal
import time

import pytest

from masksearch.experiment.store.run_folder import RunFolder, locked
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json


def test_lock_excludes_a_second_process_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    child = os.fork()
    if not child:
        with locked(folder):
            (folder / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "held").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(InputError, match=f"run folder {folder}: another process") as caught, locked(folder):
            pass
        assert "\n" not in str(caught.value)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with locked(folder):
        pass


def test_lock_is_released_after_an_exception(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_lock_of_an_unwritable_folder_raises_input_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written to"), locked(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="can't be written to"), locked(tmp_path / "file" / "below"):
        pass
    assert (tmp_path / "file").read_text() == "in the way"


def test_run_folder_with_another_identity_raises_input_error(tmp_path):
    identity = {"milestones": (30, 60), "lr": 0.1, "nested": {"none": None, "pair": ((1, 2),)}}
    RunFolder(tmp_path, identity)
    before = (tmp_path / "settings.json").read_bytes()
    RunFolder(tmp_path, dict(identity))  # tuples come back from JSON as lists
    for other in ({**identity, "lr": 0.2}, {**identity, "milestones": (30,)}, {}):
        with pytest.raises(InputError, match=r"its settings\.json belongs to another run"):
            RunFolder(tmp_path, other)
    assert (tmp_path / "settings.json").read_bytes() == before


def test_run_folder_is_done_after_its_last_stage(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    assert not folder.is_done
    folder.set_status("search")
    assert not RunFolder(tmp_path / "run", {}).is_done
    folder.set_status("done")
    assert RunFolder(tmp_path / "run", {}).is_done
    assert read_json(folder / "status.json") == {"stage": "done"}
