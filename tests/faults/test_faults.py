"""Faults of disks, files, streams and users: a quick selection of the campaign, and a test for every kind of fault."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import masksearch as ms
from masksearch.cli import main
from masksearch.data import load_data
from masksearch.experiment import Settings, run_sweep
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json, save_tensors, write_json
from masksearch.utils.locks import locked

ROOT = Path(__file__).parents[2]
SMALL = {
    "model": "lenet_300_100:0.05",
    "methods": ["magnitude"],
    "sparsity": [0.8],
    "seeds": 1,
    "epochs": 2,
    "budget": 6,
    "train_examples": 100,
    "val_examples": 40,
    "threads": 1,
    "latency_seconds": 0.0,
}


def settings_in(folder, **flat):
    return Settings().updated(SMALL | {"runs": str(folder)} | flat, "test")


def python(code, *args, **options):
    words = [sys.executable, "-c", code, *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=environment, text=True, **options)


def test_the_quick_selection_of_the_campaign_holds():
    words = [sys.executable, "-m", "tests.faults"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert "| damaged file, run again |" in ended.stdout


def test_killed_workers_change_nothing():
    words = [sys.executable, "-m", "tests.faults", "--parts", "workers: processes killed*", "--share", "0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert "| workers: processes killed at random | 1 | 1 |" in ended.stdout


# Data: its content decides the results.


def image_folder(folder, shade):
    from PIL import Image

    for part, number in (("train", 30), ("test", 6)):
        for label in "ab":
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            for place in range(number):
                colour = (shade + place + 60 * (label == "b")) % 256
                Image.new("L", (8, 8), colour).save(folder / part / label / f"{place}.png")


def test_changed_images_are_another_run(tmp_path):
    image_folder(tmp_path / "mine", 0)
    flat = {"dataset": f"imagefolder:{tmp_path / 'mine'}", "train_examples": 20, "val_examples": 8}
    settings = settings_in(tmp_path / "runs", **flat)
    before = run_sweep(settings)
    assert run_sweep(settings).folders == before.folders
    image_folder(tmp_path / "mine", 90)
    after = run_sweep(settings)
    assert after.folders != before.folders
    assert len(list((tmp_path / "runs" / "dense").iterdir())) == 2


def test_published_data_have_no_digest_and_changed_data_have_one(monkeypatch):
    assert load_data("digits").content == ""
    from sklearn import datasets

    bunch = datasets.load_digits()
    bunch.images[0, 3, 3] += 1
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    assert len(load_data("digits").content) == 16


def test_a_half_done_training_refuses_other_data(tmp_path):
    images, labels = torch.rand(20, 1, 2, 2), torch.arange(20) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def train(split):
        model.load_state_dict(state)
        return ms.train(model, split, ms.TrainSettings(epochs=2), checkpoint=tmp_path / "file")

    train(ms.Split(images, labels))
    train(ms.Split(images.clone(), labels))
    with pytest.raises(InputError, match="other data; restore the data"):
        train(ms.Split(images + 1, labels))


def test_a_training_refuses_other_validation_data(tmp_path):
    images, labels = torch.rand(20, 1, 2, 2), torch.arange(20) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    split = ms.Split(images, labels)

    def train(val):
        torch.nn.init.ones_(model[1].weight)
        torch.nn.init.zeros_(model[1].bias)
        return ms.train(model, split, ms.TrainSettings(epochs=2), val=val, checkpoint=tmp_path / "file")

    train(ms.Split(images[:8], labels[:8]))
    train(ms.Split(images[:8].clone(), labels[:8]))
    for other in (ms.Split(images[:8], 1 - labels[:8]), None):
        with pytest.raises(InputError, match="other validation data; restore the data, or name another file"):
            train(other)


class Pairs(torch.utils.data.Dataset):
    """Streamed examples of which only ``identity`` says that they have changed."""

    def __len__(self):
        return 40

    def __getitem__(self, place):
        return torch.full((1, 2, 2), float(place % 7)), place % 2


def scorers(kind, changed):
    """Return a space and a scorer of its masks on examples that have changed or not."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    space = ms.weight_space(model)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(20, 1, 2, 2, generator=generator), torch.arange(20) % 2
    split = ms.Split(images + (0.5 if changed and kind != "targets" else 0), labels.flip(0) if changed else labels)
    if kind == "streamed":
        split = ms.Data.from_datasets("mine", Pairs(), Pairs(), Pairs(), stream=True, identity=str(changed)).val
    if kind == "short training":
        train = ms.Split(images, labels)
        return space, ms.ShortTraining(model, space, train, split, ms.TrainSettings(epochs=1), steps=2)
    scorer = ms.Scorer(model, space, split, objective="loss")
    assert ms.ParallelScorer(scorer, 1).data_digest() == scorer.data_digest()
    return space, scorer


@pytest.mark.parametrize("kind", ["inputs", "targets", "streamed", "short training"])
def test_a_search_in_a_folder_refuses_other_examples(tmp_path, kind):
    def search(budget, changed=False, folder=tmp_path):
        space, scorer = scorers(kind, changed)
        return ms.search(space, "random_search", scorer, 0.5, budget, folder=folder)

    search(2)
    search(3)
    for budget in (2, 3, 4):  # of kept files, of the last files, and of a search that would continue
        with pytest.raises(InputError, match=r"holds a search on other examples; restore the data, .* remove the fold"):
            search(budget, changed=True)
    assert len(search(4)) == 4


def test_a_scorer_of_your_own_may_name_its_data(tmp_path):
    class Named(Numbered):
        """Has a digest."""

        digest = "a"

        def data_digest(self):
            return self.digest

    scorer = Named()
    ms.search(SPACE, "annealing", Numbered(), 0.5, 3, folder=tmp_path)  # without a digest, as older versions
    ms.search(SPACE, "annealing", scorer, 0.5, 4, folder=tmp_path)
    scorer.digest = "b"
    with pytest.raises(InputError, match="other examples"):
        ms.search(SPACE, "annealing", scorer, 0.5, 5, folder=tmp_path)


# Files: damage is noticed, and the message says what to do.


class Numbered:
    """Gives every mask another score."""

    def score(self, proposals):
        return [ms.Score(float(proposal.mask.hash % 1000)) for proposal in proposals]


SPACE = ms.core.space.MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


def searched(folder, budget=30):
    return ms.search(SPACE, "annealing", Numbered(), 0.5, budget, folder=folder)


def longer(path):
    path.write_bytes(path.read_bytes()[:-5])


def other_number(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["history.jsonl", "moves.i32", "search.safetensors"])
@pytest.mark.parametrize("damage", [longer, flipped, Path.unlink], ids=["shorter", "flipped", "missing"])
def test_a_damaged_file_of_a_search_is_refused_in_one_sentence(tmp_path, name, damage):
    whole = searched(tmp_path)
    damage(tmp_path / name)
    if (name, damage) == ("search.safetensors", Path.unlink):  # the search begins again
        assert [trial.mask_hash for trial in searched(tmp_path)] == [trial.mask_hash for trial in whole]
        return
    with pytest.raises(InputError, match=rf"{name} .*remove the folder .* and run again") as caught:
        searched(tmp_path, 40)
    assert "\n" not in str(caught.value)


def test_rows_in_another_order_are_refused(tmp_path):
    searched(tmp_path)
    other_number(tmp_path / "history.jsonl")
    with pytest.raises(InputError, match="digest"):
        read_rows(tmp_path)
    (tmp_path / "search.safetensors").unlink()
    with pytest.raises(InputError, match=r"has row 1 with mask .* in line 1"):
        read_rows(tmp_path)


def test_files_without_checksums_are_read(tmp_path):
    """As version 1.0 has written them."""
    from safetensors.torch import save_file

    (tmp_path / "old.json").write_text(json.dumps({"stage": "done"}))
    assert read_json(tmp_path / "old.json") == {"stage": "done"}
    save_file({"bits": torch.tensor([8], dtype=torch.uint8)}, tmp_path / "old", {"about": '{"format": 1}'})
    tensors, about = load_tensors(tmp_path / "old")
    assert about == {"format": 1}
    assert tensors["bits"].tolist() == [8]


def test_files_of_later_versions_and_changed_files_are_refused(tmp_path):
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


def test_weights_of_another_seed_are_refused(tmp_path):
    run_sweep(settings_in(tmp_path, seeds=2))
    one, two = sorted((tmp_path / "dense").iterdir())
    shutil.copy(one / "dense.safetensors", two / "dense.safetensors")
    with pytest.raises(InputError, match=r"dense.safetensors has the weights of another network"):
        run_sweep(settings_in(tmp_path, seeds=2, name="again", sparsity=[0.7]))
    shutil.copy(one / "metrics.json", two / "metrics.json")
    with pytest.raises(InputError, match=r"metrics.json is the result of another run"):
        run_sweep(settings_in(tmp_path, seeds=2, name="again", sparsity=[0.7]))


def test_early_bird_trains_again_where_its_masks_are_missing(tmp_path):
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


# Users and their folders: nothing of a folder is executed, printed raw or believed.


EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
MASKSEARCH = {"objectives": {}}
def network():
    raise SystemExit(3)
"""


@pytest.mark.parametrize("place", ["plugin", "model"])
def test_show_runs_no_code_that_a_folder_names(tmp_path, monkeypatch, capsys, place):
    run_sweep(settings_in(tmp_path / "runs"))
    sweep = tmp_path / "runs" / "sweep"
    (tmp_path / "evil.py").write_text(EVIL)
    plan = read_json(sweep / "sweep.json")
    if place == "plugin":
        plan["settings"][0]["run"]["plugin"] = [str(tmp_path / "evil.py")]
        plan["settings"][0]["sweep"]["methods"] = ["unheard"]
    else:
        plan["settings"][0]["sweep"]["model"] = "evil:network"
    write_json(sweep / "sweep.json", plan)
    monkeypatch.chdir(tmp_path)
    code = main(["show", str(sweep)])
    assert not (tmp_path / "executed").exists()
    if place == "plugin":
        assert code == 2
        assert "--plugin" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dense", "fronts", "a/b", "..", "a\nb", "a\x1b[2J", "\udcff", "x" * 300, ""])
def test_names_that_are_no_folders_names_are_refused(name):
    with pytest.raises(InputError, match=r"^name: "):
        settings_in("runs", name=name)


def test_markup_and_question_marks_in_names_are_plain_letters(tmp_path, capsys):
    flags = "--model lenet_300_100:0.05 --methods optuna_random --budget 3 --epochs 1 --seeds 1 --sparsity 0.8"
    runs, name = str(tmp_path / "a[/b]"), "[red]a?b#c%41"
    assert main(["run", *flags.split(), "--train-examples", "100", "--runs", runs, "--name", name]) == 0
    out = capsys.readouterr().out
    report = tmp_path / "a[" / "b]" / name / "report.html"
    assert report.exists()
    assert str(report) in out
    assert list(report.parent.glob("*/optuna.db"))


def test_texts_of_a_sweep_are_escaped_in_its_page(tmp_path):
    run_sweep(settings_in(tmp_path))
    file = tmp_path / "sweep" / "sweep.json"
    plan = read_json(file)
    plan["machine"]["masksearch"] = "<script>alert(1)</script>"
    write_json(file, plan)
    main(["show", "--report", str(file.parent)])
    assert "<script>alert" not in (file.parent / "report.html").read_text()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_shared_studies_in_memory_are_refused_before_any_work(url):
    with pytest.raises(InputError, match="in memory"):
        settings_in("runs", optuna={"study": "x", "storage": url}, methods=["optuna_random"])


# Disks, streams and other processes: a sweep ends with its results.


def test_events_and_page_that_cannot_be_written_end_no_run(tmp_path, monkeypatch, capsys):
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
def test_a_sweep_outlives_its_output(tmp_path, how):
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


def test_who_waits_says_for_whom(tmp_path, capfd):
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
def test_a_finished_run_without_write_permission_is_shown(tmp_path, capsys):
    run_sweep(settings_in(tmp_path))
    (tmp_path / "sweep").chmod(0o500)
    try:
        assert main(["show", str(tmp_path / "sweep")]) == 0
        assert main(["analyse", str(tmp_path / "sweep")]) == 0
    finally:
        (tmp_path / "sweep").chmod(0o700)
    assert "magnitude" in capsys.readouterr().out


def test_an_interrupt_of_the_imports_ends_quietly():
    code = "import sys; from masksearch.cli import main; print('go', flush=True); sys.exit(main(['run', '--list']))"
    child = python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == "go\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode in (0, 130)
    assert "Traceback" not in err
