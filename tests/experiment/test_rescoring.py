"""Rescoring at the end of a search: its best masks, its warm start and finalists are scored again."""

import pytest
from rich.console import Console
from small_sweeps import MIXTURE, SHORT, TRAINED, cells_of, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.cli.sweep_progress import ProgressBars
from masksearch.core.history import History
from masksearch.core.problem_and_trials import Budget, Problem
from masksearch.experiment import run_sweep
from masksearch.experiment.settings.search_settings import SearchSettings, Source
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.report import write_report
from masksearch.scoring import Scorer, ShortTraining
from masksearch.searchers import RandomSearch
from masksearch.searching.history_store import read_rows
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive


def test_rescoring_with_more_steps_chooses_the_best_of_the_top_masks(tmp_path):
    flat = TRAINED | MIXTURE | SHORT
    [cell] = sweep_in(tmp_path, **flat, rescore=5, rescore_steps=8)
    rows = {row.mask_hash: row.score.value for row in read_rows(cell.folder)}
    best = sorted(rows, key=lambda mask: -rows[mask])[:5]
    rescored = cell.metrics.score.rescored
    assert list(rescored) == [f"search {place}" for place in (1, 2, 3, 4, 5)]
    assert cell.mask.hash == best[int(max(rescored, key=rescored.get).split()[1]) - 1]
    assert not {rows[mask] for mask in best} & set(rescored.values())
    [plain] = sweep_in(tmp_path, **flat, name="plain")
    assert plain.mask.hash == best[0]


WITH_THE_START = {
    "start": {"methods": ["random_search"], "warm_start": "magnitude@end", "find_at": ["0"], "rescore_by": "loss"},
    "search": {
        "methods": ["eda"],
        "budget": 60,
        "saliencies": ["magnitude"],
        "warm_start": "random",
        "rescore_by": "loss",
    },
    "filters": {
        "methods": ["optuna_cmaes"],
        "granularity": "filter",
        "objective": "width",
        "warm_start": "filter_l1",
        "sparsity": [0.6],
        "rescore_by": "short_training",
        "rescore_steps": 6,
        "lr": 0.3,
        "batch_size": 50,
    },
}


@pytest.mark.parametrize("case", WITH_THE_START)
def test_rescoring_by_another_objective_chooses_between_found_mask_and_warm_start(case, tmp_path, capsys):
    flat = TRAINED | {"budget": 20} | WITH_THE_START[case]
    with ProgressBars(Console(width=200)) as bars:
        result = run_sweep(settings_in(tmp_path, **flat), bars)
    [cell] = cells_of(result)
    [alone] = sweep_in(tmp_path, **{key: value for key, value in flat.items() if "rescore" not in key}, name="alone")
    [start] = sweep_in(tmp_path, **flat | {"budget": 1}, name="start")
    if flat["rescore_by"] == "loss":
        network = cell.build(cell.moment(flat["find_at"][0]))
        scorer = Scorer(network, cell.space, small_data().rest, "loss", fast=False)
        kept = scorer(start.mask).value > scorer(alone.mask).value
    else:
        rescored = cell.metrics.score.rescored
        kept = rescored[flat["warm_start"]] > rescored["search 1"]
    assert cell.mask.hash == (start if kept else alone).mask.hash != (alone if kept else start).mask.hash
    assert cell.metrics.score.kept == (flat["warm_start"] if kept else None)
    assert (f"{flat['warm_start']} was better" in capsys.readouterr().out) is kept
    assert ("mask of a criterion kept: 1 of 1" in write_report(result).read_text()) is kept
    if case != "filters":
        assert kept == (case == "start")


FINALISTS = ["magnitude@end", "snip:layerwise", "random:erk", "magnitude@gradual:1ep:layerwise"]


def test_finalists_are_masks_of_criteria_each_with_its_own_scope(tmp_path):
    """The mask with the best training loss after rescoring is the mask of the cell."""
    flat = TRAINED | {"methods": ["random_search"], "budget": 3, "objective": "loss", "sparsity": [0.95]}
    flat |= {"lr": 0.3, "batch_size": 50}
    again = {"rescore_by": "training_loss", "rescore_steps": 8, "finalists": FINALISTS}
    [cell] = sweep_in(tmp_path, **flat, **again)
    [alone] = sweep_in(tmp_path, **flat, name="alone")
    scorer = ShortTraining(
        *(cell.build(), cell.space, small_data().train, small_data().rest),
        TrainSettings(epochs=2, lr=0.3, batch_size=50),
        by="train",
        steps=8,
        seed=derive(0, "retrain"),
    )
    masks = {None: alone.mask}
    for text in FINALISTS:
        source = Source.parse(text)
        criterion = text if source.epochs else text.removesuffix(f":{source.scope}")
        scope = "global" if source.epochs or source.scope is None else source.scope
        [known] = sweep_in(
            tmp_path,
            **flat | {"budget": 1, "warm_start": criterion, "scope": scope},
            name=text.replace(":", "_"),
        )
        masks[text] = known.mask
    best = max(masks, key=lambda text: scorer(masks[text]).value)
    assert len({mask.hash for mask in masks.values()}) == 5
    assert cell.mask == masks[best]
    assert best is not None
    assert cell.metrics.score.kept == best
    assert cell.metrics.score.rescored == {text or "search 1": scorer(mask).value for text, mask in masks.items()}


def test_search_that_ends_at_its_start_mask_names_the_criterion_of_the_start(tmp_path):
    flat = {"methods": ["random_search"], "warm_start": "magnitude@end", "find_at": ["end"], "objective": "loss"}
    [cell] = sweep_in(tmp_path, **flat, sparsity=[0.95], rescore=2, rescore_by="accuracy", budget=3)
    [start] = sweep_in(tmp_path, **flat, sparsity=[0.95], budget=1, name="start")
    assert cell.mask.hash == start.mask.hash
    assert cell.metrics.score.kept == start.metrics.score.kept == "magnitude@end"


def test_rescoring_uses_images_unseen_by_the_search(tmp_path):
    flat = {
        "search_examples": 20,
        "methods": ["random_search"],
        "budget": 200,
        "objective": "accuracy",
        "first_seed": 0,
    }
    [cell], [plain] = (sweep_in(tmp_path, **flat, rescore=rescore, name=f"{rescore}") for rescore in (5, 1))
    searcher = RandomSearch()  # once more, for its masks
    searcher.start(Problem(cell.space, cell.mask.density, Budget(200), derive(0, "search")))
    masks = {proposal.mask.hash: proposal.mask for proposal in searcher.ask(200)}
    ended = {row.mask_hash: row.score.value for row in read_rows(cell.folder)}
    best = sorted(ended, key=lambda mask: -ended[mask])[:5]
    assert plain.mask.hash == best[0]
    winners = []
    for images in (small_data().val[20:], small_data().val[:20]):
        scorer = Scorer(cell.build(cell.moment("0")), cell.space, images, "accuracy", fast=False)
        winners.append(max(best, key=lambda mask, scorer=scorer: scorer(masks[mask]).value))
    assert cell.mask.hash == winners[0]
    assert winners[0] != winners[1]  # the search images would have chosen another


class StopAfter(SweepCallback):
    """Interrupts a sweep after some trials."""

    def __init__(self, trials):
        self.left = trials

    def trial(self, cell, trial):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_rescoring_prefers_the_earliest_of_tied_masks_also_after_a_resume(tmp_path):
    """The history keeps as many masks as the largest rescore, and a tie at its end neither drops nor repeats a mask."""
    flat = {"search_examples": 20, "methods": ["random_search"], "budget": 120, "objective": "accuracy", "rescore": 5}
    [cell] = sweep_in(tmp_path, **flat)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings_in(tmp_path, **flat, name="parts"), StopAfter(100))
    [resumed] = sweep_in(tmp_path, **flat, name="parts")
    rows = {row.mask_hash: row.score.value for row in read_rows(cell.folder)}
    ranked = sorted(rows, key=lambda mask: -rows[mask])  # stable: of equal scores, the earlier first
    assert rows[ranked[4]] == rows[ranked[5]]
    searcher = RandomSearch()  # once more, for its masks
    searcher.start(Problem(cell.space, cell.mask.density, Budget(120), derive(0, "search")))
    masks = {proposal.mask.hash: proposal.mask for proposal in searcher.ask(120)}
    scorer = Scorer(cell.build(cell.moment("0")), cell.space, small_data().val[20:], "accuracy", fast=False)
    expected = {f"search {n}": scorer(masks[mask]).value for n, mask in enumerate(ranked[:5], start=1)}
    for one in (cell, resumed):
        assert one.metrics.score.rescored == pytest.approx(expected)
        assert one.mask.hash == ranked[int(max(expected, key=expected.get).split()[1]) - 1]


def test_rescore_above_the_kept_masks_of_a_history_raises_input_error():
    assert SearchSettings(rescore=History().keep).rescores
    with pytest.raises(InputError, match="rescore: 6"):
        SearchSettings(rescore=History().keep + 1)
