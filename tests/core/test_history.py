"""Histories: best score so far, NaN, bounds, repeats, fronts, masks of the best trials, files, data frames."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masksearch.core.history import History
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Budget, Score, Trial
from masksearch.core.space import MaskSpace
from masksearch.searching.history_store import HistoryFile, read_rows
from masksearch.utils.errors import InputError

SPACE = MaskSpace([("only", (1, 8), 8)])


def mask(code):
    return Mask(SPACE, torch.tensor([bool(code >> i & 1) for i in range(8)]))


def exact(score):
    return score.exact and not math.isnan(score.value)


values = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 1.0, math.nan])
trials = st.lists(st.tuples(st.integers(0, 255), values, st.booleans()), min_size=1, max_size=30)


def test_history_without_costs_has_no_front():
    history = fill(History(), [(1, 0.5, True)])
    assert history.front == []
    with pytest.raises(InputError, match="so there is no Pareto front"):
        history.within(1.0)


priced = st.lists(
    st.tuples(st.integers(0, 255), values, st.booleans(), st.sampled_from([0.1, 0.2, 0.2, 0.5, 0.9, math.nan])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(priced, st.integers(1, 4))
def test_front_holds_the_undominated_trials_and_within_caps_the_cost(rows, keep):
    history = History(keep)
    for code, value, is_exact, cost in rows:
        history.add(mask(code), history.known_score(mask(code)) or Score(value, is_exact, cost=cost), {})
    points = [(t.score.value, -t.score.cost) for t in history if exact(t.score) and not math.isnan(t.score.cost)]
    beaten = {p for p in points for q in points if q != p and q[0] >= p[0] and q[1] >= p[1]}
    front = history.front
    assert [(t.score.value, -t.score.cost) for t in front] == sorted(set(points) - beaten)
    for trial in front:
        assert trial.mask == mask(rows[trial.number][0])
        equal = [t.number for t in history if exact(t.score) and t.score == trial.score]
        assert trial.number == equal[0]
    wanted = {t.number for t in front} | ({t.number for t in history.top} if history.has_best else set())
    assert {t.number for t in history if t.mask is not None} == wanted  # no other mask is kept
    for cap in (0.05, 0.2, 1.0):
        cheap = [point for point in points if -point[1] <= cap]
        if cheap:
            found = history.within(cap)
            assert (found[0].score.value, -found[0].score.cost) == max(cheap)
            assert [t.score.value for t in found] == sorted((t.score.value for t in found), reverse=True)
        elif front:
            with pytest.raises(InputError, match=f"cost: {cap:g}; the cheapest of {len(rows)} masks"):
                history.within(cap)


def fill(history, rows):
    """Add rows as in the loop: a repeated mask keeps its score."""
    for code, value, is_exact in rows:
        score = history.known_score(mask(code)) or Score(value, is_exact, seconds=1.0)
        history.add(mask(code), score, {})
    return history


@settings(deadline=None, max_examples=100)
@given(trials, st.integers(1, 4))
def test_best_and_top_equal_sorted_trials(rows, keep):
    history = fill(History(keep), rows)
    first_exact = {}
    for trial in history:
        if exact(trial.score):
            first_exact.setdefault(trial.mask_hash, trial)
    wanted = sorted(first_exact.values(), key=lambda trial: (-trial.score.value, trial.number))[:keep]
    assert history.has_best == bool(wanted)
    if not wanted:
        with pytest.raises(InputError, match="none of its"):
            _ = history.best
        return
    assert [trial.number for trial in history.top] == [trial.number for trial in wanted]
    assert history.best.score.value == max(trial.score.value for trial in history if exact(trial.score))
    for trial in history.top:
        assert trial.mask == mask(rows[trial.number][0])
    kept = [trial.number for trial in history if trial.mask is not None]
    assert sorted(kept) == sorted(trial.number for trial in wanted)  # no other mask is kept


@settings(deadline=None, max_examples=60)
@given(trials)
def test_best_so_far_is_the_running_maximum_of_exact_scores(rows):
    history = fill(History(), rows)
    best = math.nan
    for trial, point in zip(history, history.best_so_far(), strict=True):
        improves = exact(trial.score) and not trial.score.value <= best
        assert trial.is_best == improves
        best = trial.score.value if improves else best
        assert point == best or (math.isnan(point) and math.isnan(best))


def test_second_trial_of_a_mask_is_a_repeat_only_after_an_exact_score():
    history = History()
    assert not history.add(mask(1), Score(0.9, exact=False), {}).is_repeat
    assert history.known_score(mask(1)) is None
    assert not history.add(mask(1), Score(0.2), {}).is_repeat
    assert history.known_score(mask(1)).value == 0.2
    assert history.add(mask(1), Score(0.2), {}).is_repeat
    assert history.best.number == 1


def test_known_score_returns_a_bound_below_the_threshold():
    history = History()
    history.add(mask(1), Score(0.5, exact=False), {})
    assert history.known_score(mask(1), None) is None
    assert history.known_score(mask(1), 0.5) is None
    assert history.known_score(mask(1), 0.6).value == 0.5
    assert history.add(mask(1), Score(0.5, exact=False), {}).is_repeat
    assert not history.add(mask(1), Score(0.4, exact=False), {}).is_repeat
    assert history.known_score(mask(1), 0.5).value == 0.4  # the lower of two bounds
    assert not history.has_best
    history.add(mask(1), Score(0.3), {})
    assert history.known_score(mask(1), 0.1) == history.known_score(mask(1)) == Score(0.3)
    assert history.best.mask == mask(1)


def test_history_has_first_mask_and_total_seconds():
    history = History()
    history.add(mask(7), Score(math.nan, seconds=0.5), {})
    history.add(mask(8), Score(1.0, seconds=0.25), {})
    assert history.first == mask(7)
    assert history.seconds == 0.75
    assert len(history) == 2


def test_history_with_keep_0_raises_input_error():
    with pytest.raises(InputError, match="keep: 0"):
        History(0)


def cost_of(code):
    """Return the density of a mask; for some masks, None or NaN."""
    return None if code % 5 == 0 else math.nan if code % 5 == 1 else code.bit_count() / 8


def write(folder, rows, identity, start=0, keep=3):
    """Open, append the rows from `start` on, checkpoint, close."""
    file = HistoryFile(folder, identity)
    history, state = file.open(SPACE, keep)
    for code, value, is_exact in rows[start:]:
        score = history.known_score(mask(code)) or Score(value, is_exact, 0.25, 3, cost=cost_of(code))
        trial = history.add(mask(code), score, {"temperature": value, "radius": code})
        file.append(trial, Move(*map(torch.Tensor.numpy, (torch.tensor([code % 3]), torch.tensor([4])))))
    file.checkpoint(history, {"at": len(history)})
    file.close()
    return history, state


@settings(deadline=None, max_examples=25)
@given(trials, st.data())
def test_history_round_trips_through_its_files_and_continues_equally(tmp_path_factory, rows, data):
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    cut = data.draw(st.integers(1, len(rows)))
    expected, _ = write(whole, rows, {"seed": 1})
    write(parts, rows[:cut], {"seed": 1})
    for name in ("history.jsonl", "moves.i32"):  # broken rows after the checkpoint
        with (parts / name).open("ab") as sink:
            sink.write(b'{"number": 99, "sco')
    found, state = write(parts, rows, {"seed": 1}, start=cut)
    assert state == {"at": cut}
    for name in ("history.jsonl", "moves.i32"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert [trial.number for trial in found] == list(range(len(rows)))
    assert found.first == expected.first
    assert found.has_best == expected.has_best
    if found.has_best:
        assert [trial.number for trial in found.top] == [trial.number for trial in expected.top]
        assert [trial.mask for trial in found.top] == [trial.mask for trial in expected.top]
    assert [(trial.number, trial.mask) for trial in found.front] == [(t.number, t.mask) for t in expected.front]


def test_read_rows_returns_the_written_trials(tmp_path):
    history, _ = write(tmp_path, [(3, 0.5, True), (4, math.nan, True), (5, 0.9, False)], {})
    for written, read in zip(history, read_rows(tmp_path), strict=True):
        assert (read.number, read.mask_hash, read.is_best) == (written.number, written.mask_hash, written.is_best)
        assert read.score == written.score or (math.isnan(read.score.value) and math.isnan(written.score.value))
        assert set(read.metrics) == {"temperature", "radius"}
        assert read.metrics["radius"] == written.metrics["radius"]


def test_history_file_of_another_search_raises_input_error_and_does_not_change(tmp_path):
    write(tmp_path, [(3, 0.5, True)], {"seed": 1, "density": 0.5})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"its density is 0\.5, and this search has 0\.25"):
        HistoryFile(tmp_path, {"seed": 1, "density": 0.25}).open(SPACE, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_history_without_a_checkpoint_starts_again(tmp_path):
    (tmp_path / "history.jsonl").write_text("half a ro")
    (tmp_path / "moves.i32").write_bytes(b"1234567")
    history, state = write(tmp_path, [(3, 0.5, True)], {})
    assert state is None
    assert len(list(read_rows(tmp_path))) == len(history) == 1
    assert (tmp_path / "moves.i32").stat().st_size == 8


def test_budgets_count_scorings_and_seconds():
    assert Budget.of(10) == Budget(scorings=10)
    assert Budget.of(Budget(5, 2.0)) == Budget(5, 2.0)
    assert Budget(10).left(4, 99.0) == 6
    assert Budget(10).left(10, 0.0) == 0
    assert Budget(seconds=2.0).left(10**6, 1.9) is None
    assert Budget(seconds=2.0).left(0, 2.0) == 0
    assert Budget(10, 2.0).left(3, 2.5) == 0
    assert Budget(10, 2.0).left(3, 1.0) == 7
    assert Budget(10, 2.0).spent(2, 1.0) == 0.5
    assert Budget(10).covers(Budget(10))
    assert Budget(10).covers(Budget(9, 2.0))
    assert not Budget(10).covers(Budget(11))
    assert not Budget(10, 2.0).covers(Budget(10))
    for bad in ((None, None), (0, None), (-3, None), (2.5, None), (None, 0.0), (None, math.nan), (5, -1.0)):
        with pytest.raises(InputError, match="budget"):
            Budget(*bad)


@pytest.mark.parametrize("metrics", [{"radius": 3.0}, {"radius": 3.0, "subset_stage": 1.0}], ids=["plain", "in stages"])
def test_read_rows_reads_rows_of_earlier_versions(tmp_path, metrics):
    row = {"number": 0, "score": 0.5, "exact": True, "best": True, "repeat": False, "mask": f"{9:016x}", "images": 7}
    (tmp_path / "history.jsonl").write_text(json.dumps(row | {"metrics": metrics, "seconds": 0.25}) + "\n")
    [trial] = read_rows(tmp_path)
    assert trial == Trial(0, Score(0.5, seconds=0.25, images=7), 9, True, False, metrics)


def test_repr_of_a_history_has_trials_best_score_and_budgets():
    history = fill(History(), [(1, 0.5, True), (3, 0.75, True)])
    assert repr(History()) == "History(0 trials)"
    assert repr(history) == "History(2 trials, best score 0.75)"
    history.budgets = (Budget(1), Budget(2), Budget(9, 2.5))
    assert repr(history) == "History(2 trials, best score 0.75, budgets 1, 2, Budget(scorings=9, seconds=2.5))"


def test_best_mask_and_best_score_belong_to_the_best_trial():
    history = fill(History(), [(1, 0.5, True), (2, math.nan, True), (3, 0.75, True), (4, 2.0, False)])
    assert history.best_mask == mask(3)
    assert history.best_score == 0.75
    for read in (lambda: History().best_mask, lambda: History().best_score):
        with pytest.raises(InputError, match="none of its 0 trials has a finite score"):
            read()


@pytest.mark.parametrize("real", [True, False], ids=["pandas", "stand-in"])
def test_trials_dataframe_has_a_row_per_trial(real, monkeypatch):
    if real:
        pandas = pytest.importorskip("pandas")
    else:  # a stand-in for pandas: the columns must be right without it, too
        pandas = SimpleNamespace(DataFrame=lambda columns: columns)
        monkeypatch.setitem(sys.modules, "pandas", pandas)
    history = History()
    history.add(mask(1), Score(0.5, seconds=0.25, images=7), {"radius": 3})
    history.add(mask(2), Score(0.25, exact=False, cost=0.1), {"density/only": 0.2})
    frame = history.trials_dataframe()
    columns = {name: list(frame[name]) for name in frame}
    assert columns["number"] == [0, 1]
    assert columns["score"] == [0.5, 0.25]
    assert columns["exact"] == [True, False]
    assert columns["is_best"] == [True, False]
    assert columns["is_repeat"] == [False, False]
    assert columns["seconds"] == [0.25, 0.0]
    assert columns["images"] == [7, 0]
    assert columns["mask_hash"] == [mask(1).hash, mask(2).hash]
    assert columns["cost"] == pytest.approx([math.nan, 0.1], nan_ok=True)
    assert columns["metrics_radius"] == pytest.approx([3, math.nan], nan_ok=True)
    assert columns["metrics_density/only"] == pytest.approx([math.nan, 0.2], nan_ok=True)


def test_trials_dataframe_without_pandas_raises_input_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pandas is not installed.*pip install pandas") as caught:
        History().trials_dataframe()
    assert "\n" not in str(caught.value)
