"""One network on several devices: two processes of torchrun with gloo, compared with one process."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_cases
import pytest
import torch
from torch import nn

from masksearch.experiment import Settings, on_all_ranks
from masksearch.training import TrainSettings, train
from masksearch.training.data_parallel import share, synchronised_norms
from masksearch.utils.errors import InputError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ALIKE = {"rtol": 0, "atol": 1e-5}


def torchrun(*arguments, processes=2, timeout=240):
    """Run a script with torchrun on a free port of this machine; return the finished process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of one process, and of rank 0 and rank 1 of two."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    distributed_cases.run(alone)
    done = torchrun(HERE / "distributed_cases.py", together)
    assert done.returncode == 0, done.stderr
    files = (alone / "results_0_of_1.pt", *(together / f"results_{rank}_of_2.pt" for rank in (0, 1)))
    return [torch.load(file, weights_only=False) for file in files]


NAMES = ("plain", "practices", "adam", "tiny last batch", "regression", "tokens", "distillation", "unused", "loader")


@pytest.mark.parametrize("name", [*NAMES, "own loss", "regrown"])
def test_losses_and_weights_on_two_devices_equal_those_on_a_single_device(results, name):
    (rows, weights, _), (rows_0, weights_0, _) = (found["trainings"][name] for found in results[:2])
    means = [] if name in ("regression", "tokens") else ["train_metric"]  # R2 and perplexity are no means over examples
    for field in ("train_loss", "val_loss", "val_metric", "lr", *means):
        one, several = ([getattr(row, field) for row in some] for some in (rows, rows_0))
        assert several == pytest.approx(one, abs=1e-5), field
    torch.testing.assert_close(weights_0, weights, **ALIKE)


def test_all_ranks_have_equal_weights_buffers_and_rows(results):
    _, first, second = (found["trainings"] for found in results)
    for name in first:
        for one, other in zip(first[name][1:], second[name][1:], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert first[name][0] == second[name][0]


def test_masks_are_exact_on_all_ranks(results):
    pruned = ~distributed_cases.masks()["0.weight"]
    for found in results[1:]:
        for name in ("plain", "practices", "batchnorm"):
            assert torch.count_nonzero(found["trainings"][name][1]["0.weight"][pruned]) == 0
    regrown = [found["trainings"]["regrown"][1]["0.weight"] != 0 for found in results]
    assert torch.equal(regrown[0], regrown[1])


def test_ranks_split_the_batches_of_a_single_device_into_consecutive_shares(results):
    alone, first, second = (found["order"] for found in results)
    checks = len(first) - len(alone)  # test runs of two examples, before the training
    shared = [torch.cat(pair) for pair in zip(first[checks:], second[checks:], strict=True)]
    assert len(shared) == len(alone) == 2 * 9
    assert all(map(torch.equal, shared, alone))


def test_batchnorm_statistics_are_those_of_rank_0(results):
    alone, first, second = (found["trainings"]["batchnorm"] for found in results)
    assert not torch.allclose(alone[1]["1.running_mean"], first[1]["1.running_mean"])  # of other batches
    assert torch.equal(first[2]["4it"]["1.running_var"], second[2]["4it"]["1.running_var"])
    assert first[1]["1.num_batches_tracked"] == alone[1]["1.num_batches_tracked"] == 2 * 9


def test_training_resumes_from_the_checkpoint_of_rank_0(results):
    for found in results:
        whole, stopped, continued = (found["trainings"][name] for name in ("uninterrupted", "interrupted", "continued"))
        assert [len(rows) for rows, *_ in (whole, stopped, continued)] == [3, 1, 3]
        assert continued[0][0] == stopped[0][0]  # read from the file
        torch.testing.assert_close(continued[1], whole[1], rtol=0, atol=0)


def test_scores_on_two_devices_equal_those_on_a_single_device(results):
    alone, first, second = (found["scorings"] for found in results)
    assert first == second
    for name, (values, best) in alone.items():
        assert first[name][0] == pytest.approx(values, abs=1e-5), name
        assert first[name][1] == best, name


def test_distributed_sweep_writes_a_single_run_folder_and_resumes(tmp_path):
    words = "--epochs 1 --seeds 1 --budget 4 --methods annealing magnitude --sparsity 0.8 --retrain-epochs 1"
    flags = [*words.split(), "--train-examples", "200", "--device", "cpu", "--runs", tmp_path / "runs"]
    done = torchrun(ROOT / "run_search.py", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report  ") == done.stdout.count("drawing the report") == 1
    cells = sorted((tmp_path / "runs" / "sweep").glob("*_seed0_*"))
    assert len(cells) == 2
    for cell in cells:
        assert '"done"' in (cell / "status.json").read_text()
        assert '"devices": 2' in (cell / "settings.json").read_text()
        assert len({file.name.split(".")[-2] for file in cell.glob("events*")}) == 1  # of one process
    assert len(list((tmp_path / "runs" / "dense").iterdir())) == 1
    searched = cells[0]  # unfinished: it continues from its own files and from the dense network, on both ranks
    (searched / "status.json").unlink()
    before = (searched / "retrained.safetensors").read_bytes()
    again = torchrun(ROOT / "run_search.py", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("1 of 2 cells are finished already") == 1
    assert (searched / "retrained.safetensors").read_bytes() == before


FAILING = """
import masksearch as ms

with ms.distributed("cpu") as ranks:
    if ranks.rank == 1:
        raise ms.InputError("example: this rank fails alone")
    ranks.gather([0])
"""


def test_failing_rank_ends_all_ranks_with_its_message(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = torchrun(script, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("rank 1 of torchrun: example: this rank fails alone") == 1
    assert "RuntimeError" not in done.stderr  # of rank 0, whose partner is gone


@pytest.mark.parametrize(("n", "size"), [(1, 2), (2, 2), (3, 2), (5, 4), (16, 2), (17, 3), (7, 8)])
def test_shares_of_ranks_cover_each_example_of_a_batch_once(n, size):
    shares = [share(n, rank, size) for rank in range(size)]
    counted = [place for start, stop, counts in shares if counts for place in range(start, stop)]
    assert counted == list(range(n))
    assert all(stop - start >= min(2, n) for start, stop, _ in shares)


def test_sync_batchnorm_replaces_layers_only_during_training():
    model = distributed_cases.network(norm=True)
    norm, names = model[1], list(model.state_dict())
    with synchronised_norms(model):
        assert type(model[1]) is nn.SyncBatchNorm
        assert model[1].weight is norm.weight
        assert model[1].running_mean is norm.running_mean
        assert list(model.state_dict()) == names
    assert model[1] is norm


def test_sync_batchnorm_on_a_cpu_raises_input_error():
    with pytest.raises(InputError, match="sync_batchnorm: True; it needs CUDA, and the device is cpu"):
        train(distributed_cases.network(), distributed_cases.data().train, TrainSettings(sync_batchnorm=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"executor": "processes:2"}, "executor: processes:2; with torchrun"),
        ({"seconds": 3.0}, "every process would measure other times"),
        ({"device": "cuda:1"}, "device: 'cuda:1'; with torchrun, allowed are auto, cuda"),
        ({"train_fn": "own_tasks:own_loop"}, "train_fn: own_tasks:own_loop; with torchrun"),
    ],
)
def test_settings_unsupported_with_torchrun_raise_input_error_before_connecting(monkeypatch, settings, sentence):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(InputError, match=sentence),
        on_all_ranks([Settings().updated({"methods": ["annealing"]} | settings, "here")]),
    ):
        pass
