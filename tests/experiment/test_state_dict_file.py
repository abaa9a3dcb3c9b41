"""Dense networks from files: the same results as the sweep that trained them, or an input error."""

import pickle

import pytest
import torch
from small_sweeps import MLP, same, settings_in, small_data, small_world, sweep_in  # noqa: F401
from torch import nn

from masksearch.experiment import run_sweep
from masksearch.experiment.store.state_dict_file import read_weights_file
from masksearch.models import build_model
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, save_tensors


def model_of(seed=5, name=MLP):
    return build_model(name, small_data(), seed=seed)


def state():
    return dict(model_of().state_dict())


FORMATS = {
    "safetensors": lambda path, weights: save_tensors(path.with_suffix(".safetensors"), weights),
    "plain": lambda path, weights: torch.save(weights, path),
    "old format": lambda path, weights: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "state_dict": lambda path, weights: torch.save({"state_dict": weights, "epoch": 3, "best": 0.5}, path),
    "model_state_dict": lambda path, weights: torch.save({"model_state_dict": weights, "lr": [0.1]}, path),
    "model": lambda path, weights: torch.save({"model": weights}, path),
    "net": lambda path, weights: torch.save({"net": weights, "acc": 91}, path),
    "data parallel": lambda path, weights: torch.save({f"module.{name}": w for name, w in weights.items()}, path),
    "both": lambda path, weights: torch.save({"state_dict": {f"module.{n}": w for n, w in weights.items()}}, path),
    "half precision": lambda path, weights: torch.save({name: w.half() for name, w in weights.items()}, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_format_gives_equal_weights(name, tmp_path):
    FORMATS[name](tmp_path / "net.pt", state())
    [path] = tmp_path.iterdir()
    found = read_weights_file(path, model_of(0))
    model = model_of(0)
    model.load_state_dict(found)
    wanted = {n: w.half().float() for n, w in state().items()} if name == "half precision" else state()
    assert same(model.state_dict(), wanted)


def test_missing_batch_norm_counters_in_old_files_are_filled_in(tmp_path):
    weights = model_of(name="tiny_residual").state_dict()
    old = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(weights)
    torch.save(old, tmp_path / "old.pt")
    found = read_weights_file(tmp_path / "old.pt", model_of(0, "tiny_residual"))
    assert found.keys() == weights.keys()


class Code:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def changed(**tensors):
    return state() | tensors


BAD = {
    "shape": (changed(**{"fc1.weight": torch.zeros(3, 4)}), r"has \(3, 4\) for 'fc1.weight'; .* needs \(30, 64\)"),
    "missing": ({n: w for n, w in state().items() if n != "fc2.bias"}, "has nothing for 'fc2.bias'"),
    "extra": (changed(extra=torch.zeros(1)), "has 'extra', which .* does not have"),
    "not a number": (changed(**{"fc1.bias": torch.full((30,), torch.nan)}), "NaN or infinite values for 'fc1.bias'"),
    "infinite": (changed(**{"fc1.bias": torch.full((30,), -torch.inf)}), "NaN or infinite values for 'fc1.bias'"),
    "whole numbers": (changed(**{"fc1.bias": torch.zeros(30, dtype=torch.int64)}), "has a torch.LongTensor for 'fc1.b"),
    "complex": (
        changed(**{"fc1.bias": torch.zeros(30, dtype=torch.complex64)}),
        "has a torch.Complex.* for 'fc1.bias'",
    ),
    "sparse": (changed(**{"fc1.bias": torch.zeros(30).to_sparse()}), "has a torch.sparse.* for 'fc1.bias'"),
    "meta device": (changed(**{"fc1.bias": torch.zeros(30, device="meta")}), "for 'fc1.bias'; a dense"),
    "empty": ({}, "has nothing for 'fc1.weight'"),
    "a list": ([torch.zeros(3)], "holds no state dict"),
    "a tensor": (torch.zeros(3), "holds no state dict"),
    "a number beside tensors": (changed(epoch=3), "holds no state dict"),
    "a nested state_dict": ({"state_dict": {"state_dict": state()}}, "holds no state dict"),
    "a network": (
        nn.Linear(2, 2),
        "it holds other objects than tensors and containers, which are not loaded for safety",
    ),
    "code": (
        {"state_dict": Code()},
        "it holds other objects than tensors and containers, which are not loaded for safety",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_dense_file_with_wrong_content_raises_input_error_before_any_work(content, message, tmp_path, capsys):
    path = tmp_path / "net.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, dense=str(path)))
    assert str(caught.value).startswith(f"dense: {path} ")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert capsys.readouterr().out == ""


FILES = {
    "nothing.pt": (None, "is no file"),
    "empty.pt": (b"", "can't be read as a state dict"),
    "text.pt": (b"hello\nworld\n", "can't be read as a state dict"),
    "pickle.pt": (pickle.dumps(Code()), "can't be read as a state dict"),
    "empty.safetensors": (b"", "can't be read as safetensors"),
    "torn.safetensors": (b"\x10\0\0\0\0\0\0\0{}", "can't be read as safetensors"),
    "{oops}.pt": (None, r"\{oops\}.pt is no file"),
    "{.pt": (None, r"\{.pt is no file"),
    "{0}.pt": (None, r"\{0\}.pt is no file"),
    "of_{seed}.pt": (None, "of_0.pt is no file"),
    ".": (None, "is no file"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(n, *rest) for n, rest in FILES.items()], ids=FILES)
def test_dense_file_that_cannot_be_read_raises_input_error_before_any_work(name, content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, dense=str(tmp_path / name)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "flat",
    [
        {"find_at": ["1ep"]},
        {"find_at": ["best"]},
        {"rewind_to": ["1ep"]},
        {"methods": ["magnitude@1ep"]},
        {"methods": ["magnitude@best"]},
    ],
    ids=str,
)
def test_moments_absent_from_a_dense_file_raise_input_error_before_any_work(flat, tmp_path):
    torch.save(state(), tmp_path / "net.pt")
    with pytest.raises(InputError, match="a dense network from a file has only the moments 0 and end") as caught:
        run_sweep(settings_in(tmp_path, dense=str(tmp_path / "net.pt"), **flat))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_sweep_with_a_dense_file_equals_the_sweep_that_trained_the_network(tmp_path):
    flat = {
        "methods": ["mag_sign", "annealing"],
        "find_at": ["end"],
        "rewind_to": ["0", "none"],
        "seeds": 2,
        "save_at": ["1ep"],
    }
    trained = sweep_in(tmp_path, **flat)
    for seed in (0, 1):
        weights = next(cell for cell in trained if cell.metrics.seed == seed).moment("end")
        torch.save({"state_dict": weights}, tmp_path / f"net_{seed}.pt")
    given = sweep_in(tmp_path, **flat, dense=str(tmp_path / "net_{seed}.pt"))
    assert len(given) == len(trained) == 2 * 2 * 2
    for one, other in zip(trained, given, strict=True):
        assert one.folder != other.folder
        assert one.mask == other.mask
        assert same(one.raw(), other.raw())
        assert one.metrics.score == other.metrics.score
        for moment in ("found", "untrained", "trained"):
            assert getattr(one.metrics.last, moment) == getattr(other.metrics.last, moment)
        assert one.metrics.dense.test_accuracy == other.metrics.dense.test_accuracy
        assert {path.name for path in one.folder.glob("retrained_*")} == {
            path.name for path in other.folder.glob("retrained_*")
        }


def test_changed_content_of_a_dense_file_changes_the_cell_folder(tmp_path):
    path = tmp_path / "net.safetensors"
    folders = []
    for seed in (5, 6):
        save_tensors(path, model_of(seed).state_dict())
        [cell] = sweep_in(tmp_path, dense=str(path), retrain_epochs=0)
        assert same(cell.moment("end"), load_tensors(path)[0])
        folders.append(cell.folder)
    assert folders[0] != folders[1]


def test_dense_file_with_zero_rounds_gives_only_the_dense_network(tmp_path):
    save_tensors(tmp_path / "net.safetensors", state())
    result = run_sweep(settings_in(tmp_path, dense=str(tmp_path / "net.safetensors"), rounds=[0], save_at=["1ep"]))
    assert result.cells == []
    assert [one.epochs for one in result.dense] == [[]]
