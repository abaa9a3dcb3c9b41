"""Damaged, missing and swapped files raise input errors whose messages name the remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fault_cases import searched, settings_in

import masksearch as ms
from masksearch.experiment import run_sweep
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json, save_tensors, write_json


def shortened(path):
    path.write_bytes(path.read_bytes()[:-5])


def other_number(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["history.jsonl", "moves.i32", "search.safetensors"])
@pytest.mark.parametrize("damage", [shortened, flipped, Path.unlink], ids=["shorter", "flipped", "missing"])
def test_damaged_search_file_raises_input_error(tmp_path, name, damage):
    whole = searched(tmp_path)
    damage(tmp_path / name)
    if (name, damage) == ("search.safetensors", Path.unlink):  # the search begins again
        assert [trial.mask_hash for trial in searched(tmp_path)] == [trial.mask_hash for trial in whole]
        return
    with pytest.raises(InputError, match=rf"{name} .*remove the folder .* and run again") as caught:
        searched(tmp_path, 40)
    assert "\n" not in str(caught.value)


def test_history_rows_in_another_order_raise_input_error(tmp_path):
    searched(tmp_path)
    other_number(tmp_path / "history.jsonl")
    with pytest.raises(InputError, match="digest"):
        read_rows(tmp_path)
    (tmp_path / "search.safetensors").unlink()
    with pytest.raises(InputError, match=r"has row 1 with mask .* in line 1"):
        read_rows(tmp_path)


def test_files_without_checksums_are_read(tmp_path):
    """Version 1.0 has written such files."""
    from safetensors.torch import save_file

    (tmp_path / "old.json").write_text(json.dumps({"stage": "done"}))
    assert read_json(tmp_path / "old.json") == {"stage": "done"}
    save_file({"bits": torch.tensor([8], dtype=torch.uint8)}, tmp_path / "old", {"about": '{"format": 1}'})
    tensors, about = load_tensors(tmp_path / "old")
    assert about == {"format": 1}
    assert tensors["bits"].tolist() == [8]


def test_files_of_later_versions_and_changed_files_raise_input_error(tmp_path):
    path = tmp_path / "one.json"
    write_json(path, {"a": 1, "b": [2]})
    text = path.read_text()
    path.write_text(text.replace('"1:', '"2:'))
    with pytest.raises(InputError, match="by a later version of masksearch"):
        read_json(path)
    path.write_text(text.replace("2", "3"))
    with pytest.raises(InputError, match="is damaged or was changed: its checksum does not fit"):
        read_json(path)
    save_tensors(tmp_path / "two", {"a": torch.arange(5)}, "about")
    for place in range(len((tmp_path / "two").read_bytes())):
        content = bytearray((tmp_path / "two").read_bytes())
        content[place] ^= 1
        (tmp_path / "other").write_bytes(bytes(content))
        with pytest.raises(InputError):
            load_tensors(tmp_path / "other")


def test_weights_of_another_seed_raise_input_error(tmp_path):
    run_sweep(settings_in(tmp_path, seeds=2))
    one, two = sorted((tmp_path / "dense").iterdir())
    shutil.copy(one / "dense.safetensors", two / "dense.safetensors")
    with pytest.raises(InputError, match=r"dense.safetensors has the weights of another network"):
        run_sweep(settings_in(tmp_path, seeds=2, name="again", sparsity=[0.7]))
    shutil.copy(one / "metrics.json", two / "metrics.json")
    with pytest.raises(InputError, match=r"metrics.json is the result of another run"):
        run_sweep(settings_in(tmp_path, seeds=2, name="again", sparsity=[0.7]))


def test_early_bird_trains_again_when_its_masks_are_missing(tmp_path):
    class StopError(Exception):
        """Ends a training."""

    flat = {"schedule": ["early_bird"], "epochs": 6, "early_bird_threshold": 0.5}
    [whole] = run_sweep(settings_in(tmp_path / "whole", **flat)).cells
    monkey = pytest.MonkeyPatch()
    monkey.setattr("masksearch.training.training_loop.CHECKPOINT_SECONDS", 0.0)
    epochs = []

    class Watch(ms.experiment.SweepCallback):
        """Stops in the fourth epoch."""

        def epoch(self, row):
            epochs.append(row.epoch)
            if len(epochs) == 4:
                raise StopError

    with pytest.raises(StopError):
        run_sweep(settings_in(tmp_path / "cut", **flat), Watch())
    [watch] = (tmp_path / "cut" / "dense").glob("*/watch_*.safetensors")
    watch.unlink()
    [cell] = run_sweep(settings_in(tmp_path / "cut", **flat)).cells
    monkey.undo()
    assert cell.early_bird == whole.early_bird
    assert cell.mask == whole.mask


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    searched(tmp_path)
    litter = tmp_path / ".search.safetensors.1.part"
    litter.write_bytes(b"half")
    searched(tmp_path, 40)
    assert not litter.exists()
