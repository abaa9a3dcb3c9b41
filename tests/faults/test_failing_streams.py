"""Full disks, closed streams, locks and interrupts: a sweep still ends with its results."""

import os
import signal
import subprocess
import time

import pytest
from fault_cases import python, settings_in

from masksearch.cli import main
from masksearch.experiment import run_sweep
from masksearch.utils.errors import InputError
from masksearch.utils.locks import locked


def test_unwritable_events_and_report_do_not_end_a_sweep(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device", "page")

    monkeypatch.setattr("masksearch.report.write_report", fail)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_custom_scalars", fail)
    flags = "--model lenet_300_100:0.05 --methods magnitude --epochs 1 --seeds 1 --sparsity 0.8 --train-examples 100"
    with pytest.warns(UserWarning, match="the run continues without them"):
        assert main(["run", *flags.split(), "--runs", str(tmp_path)]) == 0
    assert "report  not written: page: No space left" in capsys.readouterr().out


STREAMS = """
import os, signal, sys
how, runs = sys.argv[1:]
if how == "closed":
    os.close(1)
    sys.stdout = None
if how == "no stderr":
    os.close(2)
    sys.stderr = None
if how == "full":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
from masksearch.cli import main
flags = "--model lenet_300_100:0.05 --methods magnitude --epochs 1 --seeds 1 --sparsity 0.8 --train-examples 100"
sys.exit(main(["run", *flags.split(), "--runs", runs]))
"""


@pytest.mark.parametrize("how", ["closed", "no stderr", "full", "pipe"])
def test_sweep_continues_when_its_output_stream_fails(tmp_path, how):
    child = python(STREAMS, how, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if how == "pipe":
        child.stdout.close()
    err = child.stderr.read()
    assert child.wait() == 0
    assert "Traceback" not in err
    assert (tmp_path / "sweep" / "report.html").exists()


HOLD = """
import sys, time
from pathlib import Path
from masksearch.utils.locks import locked
with locked(Path(sys.argv[1]), "it", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_waiting_process_names_the_holder_of_the_lock(tmp_path, capfd):
    child = python(HOLD, tmp_path / ".lock", stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {child.pid} on "), locked(tmp_path / ".lock", "it", "wait"):
            pass
        waiting = python(
            HOLD.replace('"wait")', '"wait", wait=True)'), tmp_path / ".lock", stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert waiting.stderr.readline().startswith(f"masksearch: waiting for it, in which process {child.pid} on ")
        waiting.kill()
        waiting.wait()
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_sweep_is_shown_and_analysed(tmp_path, capsys):
    run_sweep(settings_in(tmp_path))
    (tmp_path / "sweep").chmod(0o500)
    try:
        assert main(["show", str(tmp_path / "sweep")]) == 0
        assert main(["analyse", str(tmp_path / "sweep")]) == 0
    finally:
        (tmp_path / "sweep").chmod(0o700)
    assert "magnitude" in capsys.readouterr().out


def test_interrupt_during_imports_ends_without_a_traceback():
    code = "import sys; from masksearch.cli import main; print('go', flush=True); sys.exit(main(['run', '--list']))"
    child = python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == "go\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode in (0, 130)
    assert "Traceback" not in err
