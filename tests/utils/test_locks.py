"""Locks: a single process and thread at a time for searches in folders and trainings with checkpoints."""

import os
import signal
import subprocess
import sys
import time
from threading import Thread

import pytest
import torch

import masksearch as ms
from masksearch.core.space import MaskSpace
from masksearch.training.checkpoint import remove_checkpoint
from masksearch.utils.errors import InputError
from masksearch.utils.locks import locked

SPACE = MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


HOLD = """
import sys, time
from pathlib import Path
from masksearch.utils.locks import locked
with locked(Path(sys.argv[1]), "it", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


class Constant:
    """Gives every mask the score 1."""

    def score(self, proposals):
        return [ms.Score(1.0) for _ in proposals]


def searched(folder):
    return ms.search(SPACE, "random_search", Constant(), 0.5, 10, folder=folder)


def trained(path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    split = ms.Split(torch.ones(8, 1, 2, 2), torch.tensor([0, 1] * 4))
    return ms.train(model, split, ms.TrainSettings(epochs=1, batch_size=4), checkpoint=path)


WORK = {
    "search": (searched, "run/.lock", "run", "folder .*: another process is working in it; wait for it, or give"),
    "training": (trained, "run.safetensors.lock", "run.safetensors", "checkpoint .*: another process is working in it"),
}


@pytest.mark.parametrize(("work", "lock", "path", "message"), WORK.values(), ids=WORK)
def test_second_process_raises_input_error_until_the_first_is_killed(work, lock, path, message, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / lock], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=message) as caught:
            work(tmp_path / path)
        assert "\n" not in str(caught.value)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    work(tmp_path / path)
    work(tmp_path / path)


@pytest.mark.parametrize(("work", "lock", "path", "message"), WORK.values(), ids=WORK)
def test_second_thread_raises_input_error(work, lock, path, message, tmp_path):
    errors = []

    def in_thread():
        try:
            work(tmp_path / path)
        except InputError as error:
            errors.append(str(error))

    with locked(tmp_path / lock, "it", "wait"):
        thread = Thread(target=in_thread)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "another process is working in it" in errors[0]


@pytest.mark.parametrize("wait", [True, False])
def test_search_uses_a_folder_locked_by_the_same_thread(wait, tmp_path):
    lock = tmp_path / "run" / ".lock"
    with locked(lock, "it", "wait", wait=wait):
        searched(tmp_path / "run")
        with locked(lock, "it", "wait", reentrant=True):
            pass
        with pytest.raises(InputError, match="it: another process is working in it"), locked(lock, "it", "wait"):
            pass
        with pytest.raises(InputError, match="another process"), locked(lock, "it", "wait", wait=True):
            pass
        searched(tmp_path / "run")
    with locked(lock, "it", "wait"):
        pass


def test_failed_search_releases_the_folder(tmp_path):
    class Failing:
        def score(self, proposals):
            raise KeyError

    with pytest.raises(KeyError):
        ms.search(SPACE, "random_search", Failing(), 0.5, 10, folder=tmp_path)
    assert len(searched(tmp_path)) == 10


def test_removing_a_checkpoint_removes_its_lock_file(tmp_path):
    trained(tmp_path / "run.safetensors")
    remove_checkpoint(tmp_path / "run.safetensors")
    remove_checkpoint(tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())


def test_waiting_thread_gets_the_released_lock(tmp_path):
    acquired = []

    def in_thread():
        with locked(tmp_path / ".lock", "it", "wait", wait=True):
            acquired.append(time.monotonic())

    with locked(tmp_path / ".lock", "it", "wait"):
        thread = Thread(target=in_thread)
        thread.start()
        time.sleep(0.1)
        assert not acquired
        released = time.monotonic()
    thread.join(10)
    assert acquired[0] >= released
