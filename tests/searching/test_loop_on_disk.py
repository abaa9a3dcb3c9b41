"""Searches in a folder: equal to searches in memory, resumed after interruptions, and continued with larger budgets."""

import json
import math

import numpy as np
import pytest
import torch
from loop_cases import SEARCHERS, SPACE, Overlap, every

from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Budget, Proposal
from masksearch.core.space import MaskSpace
from masksearch.searchers import EDA, Annealing, Evolution, OptunaSearch, RandomSearch, Searcher
from masksearch.searching.history_store import HistoryFile, incumbents, read_rows, saved_budgets
from masksearch.searching.search_function import search
from masksearch.utils.errors import InputError


def rows_of(folder):
    """The rows without their wall-clock field."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class StopError(Exception):
    pass


@every
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("at", [0, 17, 39])
@pytest.mark.parametrize("often", [True, False], ids=["checkpoints", "no checkpoints"])
def test_resumed_search_equals_uninterrupted_search(make, batch, at, often, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0 if often else math.inf)
    options = {"density": 0.3, "budget": 40, "seed": 4, "batch": batch, "on_empty": "allow"}
    whole = search(SPACE, make(), Overlap(nan_every=5), **options, folder=tmp_path / "whole")

    def stop(trial, history, searcher):
        if trial.number == at:
            raise StopError

    with pytest.raises(StopError):
        search(SPACE, make(), Overlap(nan_every=5), **options, folder=tmp_path / "parts", callbacks=[stop])
    scorer = Overlap(nan_every=5)
    parts = search(SPACE, make(), scorer, **options, folder=tmp_path / "parts")
    if often and at > batch:
        assert len(scorer.scored) <= 40 - (at - at % batch) + batch  # resumed, not started again
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert (tmp_path / "parts" / "moves.i32").read_bytes() == (tmp_path / "whole" / "moves.i32").read_bytes()
    assert [trial.mask for trial in parts.top] == [trial.mask for trial in whole.top]
    assert parts.best_so_far()[-1] == whole.best_so_far()[-1]


def test_finished_search_is_not_repeated(tmp_path):
    first = search(SPACE, Annealing(), Overlap(), 0.3, 30, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    scorer = Overlap()
    again = search(SPACE, Annealing(), scorer, 0.3, 30, folder=tmp_path)
    assert scorer.scored == []
    assert again.best.mask == first.best.mask
    assert [trial.score for trial in again] == [trial.score for trial in first]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_search_in_a_folder_equals_search_in_memory(tmp_path):
    on_disk = search(SPACE, Annealing(), Overlap(), 0.3, 60, folder=tmp_path)
    in_memory = search(SPACE, Annealing(), Overlap(), 0.3, 60)
    assert [trial.mask_hash for trial in on_disk] == [trial.mask_hash for trial in in_memory]
    assert [trial.mask_hash for trial in read_rows(tmp_path)] == [trial.mask_hash for trial in in_memory]


def test_stored_moves_lead_to_the_incumbents(tmp_path):
    seen = []

    def look(trial, history, searcher):
        seen.append(searcher.incumbent)

    history = search(SPACE, Annealing(), Overlap(), 0.3, 120, folder=tmp_path, callbacks=[look])
    units = np.fromfile(tmp_path / "moves.i32", dtype="<i4").astype(np.int64)
    mask, place = history.first, 0
    for row, incumbent in zip(rows_of(tmp_path), seen, strict=True):
        if "move" in row:
            out, back = row["move"]
            mask = mask.moved(Move(units[place : place + out], units[place + out : place + out + back]))
            place += out + back
            assert mask.hash == int(row["mask"], 16)
        assert mask == incumbent
    assert place == len(units) > 0


@pytest.mark.parametrize("batch", [1, 4])
def test_stored_moves_of_chains_lead_to_the_incumbents(batch, tmp_path):
    class RecordsIncumbents(Annealing):
        def tell(self, proposals, scores):
            super().tell(proposals, scores)
            recorded.append(self.incumbent.hash)

    recorded = []
    search(
        SPACE, RecordsIncumbents(chains=4), Overlap(), 0.3, 400, seed=1, batch=batch, folder=tmp_path, on_empty="allow"
    )
    made = dict(incumbents(tmp_path, SPACE, 400))
    rows = rows_of(tmp_path)
    assert any("incumbent" in row for row in rows)
    first = next(row["number"] for row in rows if "move" in row)
    last = range(len(rows) - 1, first, -batch)  # last trials of batches, as the incumbent is read after each
    assert [made[number].hash for number in last] == recorded[: -len(last) - 1 : -1]


@pytest.mark.parametrize("chains", [1, 3])
def test_stored_moves_do_not_depend_on_the_identity_of_mask_objects(chains, tmp_path):
    class Copied(Annealing):
        @property
        def incumbent(self):
            return Mask(SPACE, super().incumbent.bits.clone())

    for name, searcher in (("original", Annealing(chains=chains)), ("copied", Copied(chains=chains))):
        search(SPACE, searcher, Overlap(), 0.3, 200, batch=2, folder=tmp_path / name)
    assert rows_of(tmp_path / "copied") == rows_of(tmp_path / "original")
    assert (tmp_path / "copied" / "moves.i32").read_bytes() == (tmp_path / "original" / "moves.i32").read_bytes()


def test_rows_store_distance_from_the_start_and_layer_densities(tmp_path):
    seen = []

    def look(trial, history, searcher):
        seen.append((searcher.incumbent.hamming(history.first), searcher.incumbent.densities()))

    search(SPACE, Annealing(), Overlap(), 0.3, 50, folder=tmp_path, callbacks=[look])
    for row, (distance, densities) in list(zip(rows_of(tmp_path), seen, strict=True))[1:]:
        assert row["metrics"]["hamming_start"] == distance
        assert {name: row["metrics"][f"density/{name}"] for name in densities} == densities


OTHERS = {
    "seed": ({"seed": 5}, "its seed is 4, and this search has 5"),
    "density": ({"density": 0.4}, "its density is 0.3, and this search has 0.4"),
    "budget": ({"budget": 29}, "its budget is .*30.*29.*; only a larger budget continues the search"),
    "searcher": ({"searcher": Annealing(chains=3)}, "its searcher is .*'chains': 3"),
    "policy": ({"on_empty": "allow"}, "its on_empty is raise, and this search has allow"),
    "start": ({"start": SPACE.random(0.3, generator=torch.Generator().manual_seed(1))}, "its start is None"),
    "space": ({"space": MaskSpace([("first", (5, 8), 40), ("third", (4, 5), 20)])}, "its space is"),
    "saliencies": (
        {"saliencies": {"other": torch.arange(60.0)}},
        "its saliencies is .'one'., and this .* .'other'.",
    ),
}


@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_folder_of_another_search_raises_input_error_and_does_not_change(change, message, tmp_path):
    request = {"space": SPACE, "searcher": Annealing(), "scorer": Overlap(), "density": 0.3, "budget": 30, "seed": 4}
    request["saliencies"] = {"one": torch.arange(60.0)}
    search(**request, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message) as caught:
        search(**{**request, **change}, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestLargerBudgets:
    """A larger budget continues the search in a folder; equal budgets in equal order give equal searches."""

    OPTIONS = {"density": 0.3, "seed": 4, "batch": 3, "on_empty": "allow"}  # noqa: RUF012

    def both(self, make, folder, small=20, large=50, **options):
        for budget in (small, large):
            history = search(SPACE, make(), Overlap(5), budget=budget, folder=folder, **{**self.OPTIONS, **options})
        return history

    @pytest.mark.parametrize(
        "make",
        [*SEARCHERS.values(), EDA, lambda: Evolution(population=6), OptunaSearch.tpe, OptunaSearch.cmaes],
        ids=[*SEARCHERS, "eda", "evolution", "tpe", "cmaes"],
    )
    @pytest.mark.parametrize("at", [7, 19, 20, 31])
    def test_interrupted_search_with_a_larger_budget_equals_uninterrupted_search(self, make, at, tmp_path, monkeypatch):
        monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
        whole = self.both(make, tmp_path / "whole")
        assert len(whole) == 50

        def stop(trial, history, searcher):
            if trial.number == at:
                raise StopError

        with pytest.raises(StopError):
            self.both(make, tmp_path / "parts", callbacks=[stop])
        parts = search(SPACE, make(), Overlap(5), budget=50, folder=tmp_path / "parts", **self.OPTIONS)
        assert len(parts) == 50
        assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")

    def test_larger_budget_keeps_the_trials_of_the_smaller_budget(self, tmp_path):
        alone = search(SPACE, Annealing(), Overlap(5), budget=20, **self.OPTIONS)
        both = self.both(Annealing, tmp_path)
        assert [trial.mask_hash for trial in both][:20] == [trial.mask_hash for trial in alone]
        assert saved_budgets(tmp_path) == both.budgets == (Budget(20), Budget(50))
        assert alone.budgets == (Budget(20),)

    def test_schedule_after_a_larger_budget_follows_the_largest_budget(self, tmp_path):
        seen = []

        def look(trial, history, searcher):
            seen.append((trial.number, searcher.progress))

        self.both(Annealing, tmp_path, 10, 20, batch=1, callbacks=[look])
        seen.clear()
        options = {**self.OPTIONS, "batch": 1, "callbacks": [look]}
        search(SPACE, Annealing(), Overlap(5), budget=Budget(40), folder=tmp_path, **options)
        assert [number for number, _ in seen] == list(range(40))
        assert [progress for _, progress in seen[20:]] == [(n + 1) / 40 for n in range(20, 40)]
        assert saved_budgets(tmp_path) == (Budget(10), Budget(20), Budget(40))

    def test_chains_exchange_masks_after_a_larger_budget(self, tmp_path):
        searcher = Annealing(chains=3)
        search(SPACE, Annealing(chains=3), Overlap(), budget=40, folder=tmp_path, **self.OPTIONS)
        search(SPACE, searcher, Overlap(), budget=80, folder=tmp_path, **self.OPTIONS)
        assert searcher.state.exchanges == 20

    @pytest.mark.parametrize("make", [Annealing, RandomSearch, EDA, OptunaSearch.tpe])
    @pytest.mark.parametrize("stop", [None, 25])
    def test_script_with_growing_budgets_runs_again_without_scorings(self, make, stop, tmp_path, monkeypatch):
        monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
        seen = []

        def script(scorer, stop=None):
            def look(trial, history, searcher):
                seen.append(trial.number)
                if trial.number == stop:
                    raise StopError

            for budget in (10, 20, 50):
                options = {**self.OPTIONS, "callbacks": [look], "folder": tmp_path}
                history = search(SPACE, make(), scorer, budget=budget, **options)
                yield budget, [trial.mask_hash for trial in history], history.best_score, history.best_mask

        if stop is None:
            first = list(script(Overlap(5)))
        else:
            with pytest.raises(StopError):
                list(script(Overlap(5), stop))
            first = list(script(Overlap(5)))
        files, scorer = rows_of(tmp_path), Overlap(5)
        seen.clear()
        assert list(script(scorer)) == first
        assert [len(hashes) for _, hashes, *_ in first] == [10, 20, 50]
        assert seen == [*range(10), *range(20), *range(50)]
        assert scorer.scored == []
        assert rows_of(tmp_path) == files

    def test_finished_smaller_budget_of_another_search_raises_input_error(self, tmp_path):
        self.both(Annealing, tmp_path)
        with pytest.raises(InputError, match=r"its seed is 4, and this search has 5; give another folder$"):
            search(SPACE, Annealing(), Overlap(5), budget=20, folder=tmp_path, **{**self.OPTIONS, "seed": 5})

    def test_smaller_budget_raises_input_error(self, tmp_path):
        self.both(Annealing, tmp_path)
        for budget in (19, 49, Budget(60, seconds=5.0)):
            with pytest.raises(InputError, match="only a larger budget continues") as caught:
                search(SPACE, Annealing(), Overlap(5), budget=budget, folder=tmp_path, **self.OPTIONS)
            assert "\n" not in str(caught.value)

    def test_larger_budget_of_another_search_raises_input_error(self, tmp_path):
        self.both(Annealing, tmp_path)
        with pytest.raises(InputError, match=r"its seed is 4, and this search has 5; give another folder$"):
            search(SPACE, Annealing(), Overlap(5), budget=60, folder=tmp_path, **{**self.OPTIONS, "seed": 5})

    def test_finished_search_with_a_larger_budget_is_not_repeated(self, tmp_path):
        self.both(Annealing, tmp_path)
        before, scorer = rows_of(tmp_path), Overlap(5)
        assert len(search(SPACE, Annealing(), scorer, budget=50, folder=tmp_path, **self.OPTIONS)) == 50
        assert scorer.scored == []
        assert rows_of(tmp_path) == before

    def test_scorer_is_refreshed_between_budgets(self, tmp_path):
        class Refreshed(Overlap):
            refresh_every = 1000
            refreshed = 0

            def refresh(self):
                self.refreshed += 1

        scorer = Refreshed()
        for budget in (20, 50):
            search(SPACE, Annealing(), scorer, budget=budget, folder=tmp_path, **self.OPTIONS)
        assert scorer.refreshed

    def test_larger_budget_for_a_searcher_without_resuming_raises_input_error(self, tmp_path):
        with pytest.raises(InputError, match=r"\(20 scorings\), and Uniform doesn't support"):
            self.both(Uniform, tmp_path)


class Uniform(Searcher):
    """A searcher of two methods, with an attribute that isn't saved."""

    n_scores = 0

    def ask(self, n=1):
        return [Proposal.of(self.problem.random_mask(self.generator)) for _ in range(n)]

    def tell(self, proposals, scores):
        self.n_scores += len(scores)


def test_searcher_without_resuming_refuses_unfinished_and_returns_finished_search(tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)

    def stop(trial, history, searcher):
        if trial.number == 10:
            raise StopError

    with pytest.raises(StopError):
        search(SPACE, Uniform(), Overlap(), 0.3, 20, folder=tmp_path / "unfinished", callbacks=[stop])
    before = {path.name: path.read_bytes() for path in (tmp_path / "unfinished").iterdir()}
    with pytest.raises(InputError, match=r"unfinished search \(10 scorings\), and Uniform doesn't support") as caught:
        search(SPACE, Uniform(), Overlap(), 0.3, 20, folder=tmp_path / "unfinished")
    assert "\n" not in str(caught.value)
    search_file = "search.safetensors"
    assert (tmp_path / "unfinished" / search_file).read_bytes() == before[search_file]
    whole = search(SPACE, Uniform(), Overlap(), 0.3, 20, folder=tmp_path / "finished")
    again = search(SPACE, Uniform(), Overlap(), 0.3, 20, folder=tmp_path / "finished")
    assert [trial.score for trial in again] == [trial.score for trial in whole]
