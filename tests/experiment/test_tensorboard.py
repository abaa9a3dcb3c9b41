"""TensorBoard files, read by TensorBoard: every curve is present, and no step is repeated after interruptions."""

import io
import json
import math
import re
import time
import urllib.request
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.experiment.tensorboard import Tracker, charts
from masksearch.models import build_model
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.searching.history_store import HistoryFile, incumbents, read_rows
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings, training_loop

SEARCH = {
    *("search/score", "search/best", "search/current", "search/temperature", "search/radius"),
    *("search/acceptance_rate", "search/hamming_start", "search/hamming_best", "search/scorings_per_second"),
}
TRAINING = {"train/loss", "train/accuracy", "train/lr", "val/loss", "val/accuracy"}
DENSITIES = {"density/fc1", "density/fc2", "density/fc3"}
FINAL = {
    *("final/untrained_test_accuracy", "final/trained_test_accuracy", "final/search_score"),
    *("final/optimism_gap", "final/effective_macs", "final/params", "final/speedup", "final/val_accuracy"),
}
PICTURES = {"mask/fc1", "mask/fc2", "mask/fc3"}
BUDGET, EPOCHS = 120, 3
DOCS = Path(__file__).parents[2] / "docs" / "tensorboard.md"


def settings_in(folder):
    sweep = SweepSettings(
        model="lenet_300_100:0.05", methods=("annealing", "random"), sparsity=(0.8,), seeds=1, budget=BUDGET
    )
    run = RunSettings(runs=str(folder), device="cpu", threads=1, latency_seconds=0.005)
    scoring = ScoringSettings(train_examples=300, search_examples=60)
    return Settings(sweep, TrainSettings(epochs=EPOCHS), scoring=scoring, run=run)


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Checkpoints whenever they may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
        patch.setattr(IncrementalPath, "refresh_every", 16)
        patch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick):
    return run_sweep(settings_in(tmp_path_factory.mktemp("tracking")))


class Killed(BaseException):
    """Ends a sweep at some trial or epoch."""


class Kills(SweepCallback):
    """Raises at the n-th trial, or the n-th epoch of the retraining."""

    def __init__(self, trial=None, epoch=None):
        self._trial, self._epoch, self._retrains = trial, epoch, False

    def trial(self, cell, trial):
        if trial.number == self._trial:
            raise Killed

    def retraining_begins(self, cell, epochs):
        self._retrains = True

    def epoch(self, row):
        if self._retrains and row.epoch == self._epoch:
            raise Killed


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, quick):
    """The same sweep, ended by force in the search, later in the search, and in the retraining."""
    settings = settings_in(tmp_path_factory.mktemp("resumed"))
    for kills in (Kills(trial=40), Kills(trial=100), Kills(epoch=2)):
        with pytest.raises(Killed):
            run_sweep(settings, kills)
    return run_sweep(settings)


def test_tensorboard_has_every_curve(finished):
    searched, drawn = (read(folder) for folder in finished.folders)
    assert set(searched.Tags()["scalars"]) == SEARCH | TRAINING | DENSITIES | FINAL
    assert set(drawn.Tags()["scalars"]) == TRAINING | FINAL
    [dense] = (finished.path.parent / "dense").iterdir()
    assert set(read(dense).Tags()["scalars"]) == TRAINING


def test_tensorboard_has_pictures_of_masks_and_a_histogram_of_densities(finished):
    for folder, metrics in zip(finished.folders, finished.cells, strict=True):
        events = read(folder)
        assert set(events.Tags()["images"]) == PICTURES
        assert events.Tags()["histograms"] == ["layers/density"]
        steps = [image.step for image in events.Images("mask/fc2")]
        searched = metrics.method == "annealing"
        assert steps == sorted(set(steps))
        assert steps[-1] == (BUDGET if searched else 0)
        assert (len(steps) > 5) == searched
        last = events.Images("mask/fc3")[-1]
        pixels = np.asarray(Image.open(io.BytesIO(last.encoded_image_string)))[..., 0] / 255
        assert pixels.shape == (10, 5)
        assert pixels.mean() == pytest.approx(metrics.mask.densities["fc3"], abs=0.01)


def test_incumbent_masks_of_a_search_are_rebuilt_from_its_moves(finished):
    cell = finished.folders[0]
    space = weight_space(build_model("lenet_300_100:0.05", (1, 8, 8), seed=0))
    trials = list(read_rows(cell))
    made = list(incumbents(cell, space, 30))
    assert len(made) > 20
    for number, mask in made:
        look = {name: value for name, value in trials[number].metrics.items() if name.startswith("density/")}
        assert not look or {f"density/{name}": value for name, value in mask.densities().items()} == look
        assert mask.n_kept == made[0][1].n_kept
    assert len({mask.hash for _, mask in made}) > 5


def test_tensorboard_pages_show_the_tags_listed_in_the_documentation(finished):
    """Over its HTTP interface, as its pages do."""
    told = {name: set() for name in ("scalars", "images", "histograms")}
    for kind, tag in re.findall(r"^\| (scalars|images|histograms) \| `([^`]+)`", DOCS.read_text(), re.MULTILINE):
        told[kind].add(tag)
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(finished.path), "--port", "0", "--load_fast=false"])
    url = board.launch()

    def get(path):
        with urllib.request.urlopen(f"{url}data/plugin/{path}") as answer:
            return json.loads(answer.read())

    deadline = time.monotonic() + 30
    while len(get("scalars/tags")) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for kind in told:
        found = {
            re.sub(r"^(density|mask)/.*", r"\1/<layer>", tag) for tags in get(f"{kind}/tags").values() for tag in tags
        }
        assert found == told[kind], kind
    layout = get("custom_scalars/layout")
    titles = {chart["title"] for category in layout["category"] for chart in category["chart"]}
    assert titles == {title for category in charts().values() for title in category}
    scalars = {tag for tags in get("scalars/tags").values() for tag in tags}
    for category in layout["category"]:
        for chart in category["chart"]:
            for pattern in chart["multiline"]["tag"]:
                assert any(re.fullmatch(pattern, tag) for tag in scalars), pattern


def test_curves_match_history_and_metrics(finished):
    events, metrics = read(finished.folders[0]), finished.cells[0]
    scores = points(events, "search/score")
    assert [step for step, _ in scores] == list(range(BUDGET))
    best = [value for _, value in points(events, "search/best")]
    assert best == [max(value for _, value in scores[: n + 1]) for n in range(BUDGET)]
    assert best[-1] == pytest.approx(metrics.score.search_score, abs=1e-5)
    assert points(events, "search/hamming_start")[0] == (0, 0)
    assert {step for step, _ in points(events, "search/hamming_best")} <= set(range(BUDGET))
    assert all(value > 0 for _, value in points(events, "search/scorings_per_second"))
    radii = [value for _, value in points(events, "search/radius")]
    assert radii == sorted(radii, reverse=True)
    assert [step for step, _ in points(events, "val/accuracy")] == [1, 2, 3]
    for name in ("train/loss", "val/accuracy"):
        noted = [getattr(epoch, name.replace("/", "_")) for epoch in metrics.epochs]
        assert [value for _, value in points(events, name)] == pytest.approx(noted, abs=1e-6)
    total = sum(
        value * size
        for (_, value), size in zip(
            (points(events, tag)[-1] for tag in sorted(DENSITIES)), (64 * 15, 15 * 5, 5 * 10), strict=True
        )
    )
    assert total == pytest.approx(metrics.mask.kept, abs=1e-3)


def test_hparams_tab_has_the_final_metrics_of_each_cell(finished):
    for folder, metrics in zip(finished.folders, finished.cells, strict=True):
        events = read(folder)
        assert set(events.PluginTagToContent("hparams")) >= {
            "_hparams_/experiment",
            "_hparams_/session_start_info",
        }
        [(_, accuracy)] = points(events, "final/trained_test_accuracy")
        assert accuracy == pytest.approx(metrics.trained.test_accuracy, abs=1e-6)
        started = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        assert metrics.method.encode() in started


def test_killed_and_resumed_sweep_has_the_curves_of_an_uninterrupted_sweep(finished, resumed):
    for folder, other in zip(finished.folders, resumed.folders, strict=True):
        once, again = read(folder), read(other)
        assert set(once.Tags()["scalars"]) == set(again.Tags()["scalars"])
        for tag in once.Tags()["scalars"]:
            steps = [event.step for event in again.Scalars(tag)]
            assert all(before < now for before, now in pairwise(steps)), tag
            if tag in ("search/scorings_per_second", "final/speedup"):  # times, as measured
                assert steps == [event.step for event in once.Scalars(tag)]
            else:
                assert points(again, tag) == points(once, tag), tag
        for tag in PICTURES:
            shown = [(image.step, image.encoded_image_string) for image in once.Images(tag)]
            assert [(image.step, image.encoded_image_string) for image in again.Images(tag)] == shown


def test_tracker_omits_nan_and_replaces_older_steps(tmp_path):
    first = Tracker(tmp_path)
    first.scalars({"a": 1.0, "b": math.nan}, 5)
    first.close()
    second = Tracker(tmp_path)
    second.scalars({"a": 2.0}, 3)
    second.hyperparameters({"method": "x"}, {"m": 0.5, "n": math.nan})
    second.close()
    events = read(tmp_path)
    assert points(events, "a") == [(3, 2.0)]
    assert set(events.Tags()["scalars"]) == {"a", "m"}


def test_each_round_has_its_own_curves(tmp_path):
    settings = settings_in(tmp_path)
    schedules = ScheduleSettings(schedule=("iterative",), rounds=(2,))
    result = run_sweep(replace(settings, schedules=schedules))
    for folder, cell in zip(result.folders, result.cells, strict=True):
        for place, row in ((folder / "round1", cell.rounds[0]), (folder, cell.rounds[1])):
            noted = [epoch.val_accuracy for epoch in row.epochs]
            assert [value for _, value in points(read(place), "val/accuracy")] == pytest.approx(noted, abs=1e-6)
    assert points(read(result.folders[0] / "round1"), "search/score")
