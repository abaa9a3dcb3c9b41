"""Searches in sweeps: saliencies, warm starts, short trainings, connected masks, and input errors."""

import pytest
import torch
from rich.console import Console
from small_sweeps import MIXTURE, MLP, SHORT, TRAINED, cells_of, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.cli.run_arguments import parse
from masksearch.cli.sweep_progress import ProgressBars
from masksearch.criteria import Connectivity, select
from masksearch.experiment import Settings, SweepCallback, grid, load_recipe, run_sweep
from masksearch.scoring import ShortTraining
from masksearch.searchers import RandomSearch
from masksearch.searching.history_store import read_rows
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import derive


def test_mixture_starts_with_the_masks_of_its_criteria(tmp_path):
    [cell] = sweep_in(tmp_path, **TRAINED, **MIXTURE, budget=3)
    criteria = sweep_in(tmp_path, methods=["magnitude@end", "snip@0"], sparsity=[0.9], on_empty="keep_one", name="c")
    rows = list(read_rows(cell.folder))
    assert [row.mask_hash for row in rows[:2]] == [one.mask.hash for one in criteria]


@pytest.mark.parametrize(
    "searches",
    [
        {"methods": ["eda"], "saliencies": ["magnitude"]},
        {"methods": ["optuna_random"], "optuna": {"parametrisation": "blocks", "blocks": 3}},
        {"methods": ["optuna_tpe"], **MIXTURE},
    ],
    ids=["eda", "blocks", "mixture"],
)
def test_searches_keep_the_sparsity_of_layers_set_by_layer_sparsity(searches, tmp_path):
    cells = sweep_in(tmp_path, sparsity=[0.8, 0.9], layer_sparsity=["fc3=0.5"], on_empty="keep_one", **searches)
    assert [cell.mask.densities()["fc3"] for cell in cells] == pytest.approx([0.5, 0.5])
    assert [cell.mask.densities()["fc1"] for cell in cells] == pytest.approx([0.2, 0.1], abs=0.001)


def test_constant_outputs_are_counted_and_reported(tmp_path, capsys):
    few = {"methods": ["random"], "layer_sparsity": ["fc3=0.98"], "sparsity": [0.5]}  # 2 of 100 weights
    with ProgressBars(Console(width=200)) as bars:
        [cut] = run_sweep([settings_in(tmp_path, **few)], bars).cells
        [whole] = run_sweep([settings_in(tmp_path, methods=["random"], sparsity=[0.5], name="whole")], bars).cells
    assert cut.trained.constant_outputs in (8, 9)
    assert whole.trained.constant_outputs == 0
    assert capsys.readouterr().out.count(f"{cut.trained.constant_outputs} outputs are constant") == 1


def test_annealing_starts_from_the_warm_start_mask(tmp_path):
    [cell] = sweep_in(tmp_path, methods=["annealing"], warm_start="magnitude@end", find_at=["0"], budget=1)
    trained = cell.build(cell.moment("end"))
    assert cell.mask == select("magnitude", trained, cell.space, density=0.25, on_empty="allow")


def test_short_trainings_start_from_the_rewound_weights(tmp_path):
    [cell] = sweep_in(tmp_path, **TRAINED, **MIXTURE, **SHORT, rewind_to=["1ep"])
    data = small_data()
    scorer = ShortTraining(
        cell.build(cell.moment("1ep")),
        cell.space,
        data.train,
        data.search,
        TrainSettings(epochs=2, lr=0.3, batch_size=50),
        steps=3,
        begin=1,
        seed=derive(0, "short training"),
    )
    best = max(row.score.value for row in read_rows(cell.folder))
    assert scorer(cell.mask).value == pytest.approx(best, abs=1e-6)
    assert cell.metrics.score.search_score == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("method", ["magnitude", "optuna_random"])
def test_connected_masks_have_no_dead_units(tmp_path, method):
    flat = TRAINED | {"methods": [method], "sparsity": [0.97], "saliencies": ["magnitude"], "on_empty": "allow"}
    plain, connected = (sweep_in(tmp_path, **flat, connected=on, name=f"{on}".lower())[0] for on in (False, True))
    connectivity = Connectivity(plain.build(), plain.space, torch.zeros(1, 1, 8, 8))
    assert connectivity.dead(plain.mask).any()
    assert not connectivity.dead(connected.mask).any()
    assert plain.mask.n_kept == connected.mask.n_kept


def test_callback_receives_the_search_of_every_round(tmp_path):
    calls_seen = []

    class RecordsCalls(SweepCallback):
        def search_begins(self, cell):
            calls_seen.append("search")

        def retraining_begins(self, cell, epochs):
            calls_seen.append("retraining")

    schedule = {"schedule": ["iterative"], "rounds": [2], "between_epochs": 1}
    sweep_in(tmp_path, callback=RecordsCalls(), methods=["annealing"], budget=12, **schedule)
    assert calls_seen == ["search", "retraining"] * 2


def test_searcher_proposes_as_many_masks_at_once_as_set(tmp_path, monkeypatch):
    asked = []
    ask = RandomSearch.ask
    monkeypatch.setattr(RandomSearch, "ask", lambda self, n=1: asked.append(n) or ask(self, n))
    sweep_in(tmp_path, methods=["random_search"], proposals=3, budget=8)
    assert asked == [3, 3, 2]


def test_search_is_equal_for_two_and_three_scorers(tmp_path):
    shared = {"methods": ["evolution"], "find_at": ["end"], "budget": 9, "proposals": 3}
    found = [
        [(row.mask_hash, row.score.value, row.score.images) for row in read_rows(cell.folder)]
        for scorers in (2, 3)
        for cell in sweep_in(tmp_path, name=f"{scorers}", scorers=scorers, **shared)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 9


def test_scorers_as_finished_search_every_round(tmp_path):
    rounds = {"methods": ["annealing"], "schedule": ["iterative"], "rounds": [2], "find_at": ["end"]}
    [cell] = sweep_in(tmp_path, scorers=2, scorer_order="as_finished", **rounds)
    assert [len(read_rows(path.parent)) for path in cell.folder.rglob("history.jsonl")] == [6, 6]


def test_short_training_ignores_the_plateau_schedule(tmp_path):
    one, other = (
        sweep_in(tmp_path, **SHORT, methods=["annealing"], lr_schedule=name, name=name)[0]
        for name in ("plateau", "constant")
    )
    assert one.metrics.score.search_score == other.metrics.score.search_score


def test_seeds_start_at_first_seed(tmp_path):
    cells = sweep_in(tmp_path, seeds=2, first_seed=7)
    assert [cell.metrics.seed for cell in cells] == [7, 8]


WRONG = {
    "optuna.parametrisation: mixture; give the criteria to mix as saliencies": {
        "methods": ["optuna_tpe"],
        "optuna": {"parametrisation": "mixture"},
    },
    "optuna_gp: gp: .* parameters .bits.; at most 100": {
        "methods": ["optuna_gp"],
        "optuna": {"parametrisation": "bits"},
    },
    "storage: 'nowhere' is no URL; sqlite:///FILE is one": {
        "methods": ["optuna_tpe"],
        "optuna": {"storage": "nowhere"},
    },
    "optuna.study: 's', optuna.storage: None; .* a name and the URL": {
        "methods": ["optuna_tpe"],
        "optuna": {"study": "s"},
    },
    "study: 's'; cmaes can't share a study": {
        "methods": ["optuna_cmaes"],
        "optuna": {"study": "s", "storage": "sqlite:///s.db"},
    },
    "optuna.study: 's'; with max_macs a study can't be shared": {
        "methods": ["optuna_tpe"],
        "granularity": "filter",
        "max_macs": [0.4],
        "optuna": {"study": "s", "storage": "sqlite:///s.db"},
    },
    "optuna.study: 's'; in rounds, optuna_tpe searches what": {
        "methods": ["optuna_tpe"],
        "schedule": ["iterative"],
        "optuna": {"study": "s", "storage": "sqlite:///s.db"},
    },
    "layer_sparsity: fc1=0.5; max_macs leaves layers free": {
        "methods": ["optuna_tpe"],
        "granularity": "filter",
        "max_macs": [0.4],
        "layer_sparsity": ["fc1=0.5"],
    },
    "objective: width; it scores filter masks only": {"objective": "width"},
    "training_lr: 0.1; neither objective nor rescore_by is short_training or training_loss": {"training_lr": 0.1},
    "saliencies, warm_start or finalists: filter_l1 ranks filter units only": {"saliencies": ["filter_l1"]},
    "unknown criterion 'magnitud'": {"warm_start": "magnitud"},
    "find_at or rewind_to: 9ep is longer": {"saliencies": ["snip@9ep"]},
    "scorers: 0; at least 1": {"scorers": 0},
    "scorers: 4 with proposals 2; masks of one step": {"scorers": 4, "proposals": 2},
    "scorers: 2 with executor processes:2, which": {"scorers": 2, "proposals": 2, "executor": "processes:2"},
    "training_steps: 0; at least 1": {"training_steps": 0},
    "training_lr: 0.0; a finite number": {"training_lr": 0.0},
    "rescore: 6; 1 to 5": {"rescore": 6},
    "rescore_steps: 0; at least 1": {"rescore_steps": 0},
    "unknown rescore_by 'los'": {"rescore": 2, "rescore_by": "los"},
    "rescore_by: loss; the search has one mask only": {"rescore_by": "loss"},
    "finalists: snip snip; each may be given once": {"finalists": ["snip", "snip"]},
    "unknown criterion 'snip:layer'": {"finalists": ["snip:layer"]},
    "saliencies: snip:erk; they rank units": {"saliencies": ["snip:erk"]},
    "saliencies, warm_start or finalists: taylor ranks filter and block and union units only": {
        "finalists": ["taylor"]
    },
    "finalists: filter_l1; with max_macs, masks come from a Pareto front": {
        "methods": ["optuna_tpe"],
        "granularity": "filter",
        "max_macs": [0.4],
        "finalists": ["filter_l1"],
    },
    "rescore: 2; training_loss uses no validation examples": {"objective": "training_loss", "rescore": 2},
    "weights: signed_constant; training_loss trains": {"weights": "signed_constant", "objective": "training_loss"},
    "rescore_by: width; it scores filter masks only": {"rescore": 2, "rescore_by": "width"},
    "weights: signed_constant; short_training trains": {
        "weights": "signed_constant",
        "rescore": 2,
        "rescore_by": "short_training",
    },
    "first_seed: -1; at least 0": {"first_seed": -1},
    "weights: signed_constant; short_training": {"weights": "signed_constant", "objective": "short_training"},
    "connected: annealing doesn't rank units": {"methods": ["annealing"], "connected": True},
    "connected: it is for weights, not for filters": {
        "granularity": "filter",
        "methods": ["filter_l1"],
        "connected": True,
    },
    "connected: masks of gradual change during training": {"schedule": ["gradual"], "connected": True},
    "connected: optuna_tpe searches connected masks in one round": {
        "methods": ["optuna_tpe"],
        "schedule": ["iterative"],
        "connected": True,
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_search_with_wrong_settings_raises_input_error_before_any_work(tmp_path, message):
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, **WRONG[message]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


class TestDefaultWarmStarts:
    """``masksearch run`` starts searches on trained weights from a criterion's mask, as ``ms.find_mask`` does."""

    def starts(self, *flags):
        [settings] = parse([*flags, "--seeds", "1", "--sparsity", "0.5"], "masksearch run")
        return [
            (cell.method, cell.find_at, cell.settings.search.warm_start) for cell in grid(settings) if cell.searches
        ]

    def test_only_searches_on_trained_weights_have_a_default_warm_start(self):
        flags = ["--methods", "annealing", "evolution", "annealing_thesis_mlp", "--find-at", "0", "end"]
        assert self.starts(*flags) == [
            ("annealing", "0", None),
            ("evolution", "0", None),
            ("annealing_thesis_mlp", "0", None),
            ("annealing", "end", "magnitude"),
            ("evolution", "end", "magnitude"),
            ("annealing_thesis_mlp", "end", None),
        ]
        filters = ["--granularity", "filter", "--model", "lenet5", "--methods", "annealing@2ep", "annealing"]
        assert self.starts(*filters) == [("annealing", "2ep", "fpgm"), ("annealing", "0", None)]

    def test_warm_start_flag_replaces_the_default_warm_start(self):
        flags = ["--methods", "annealing@end", "--warm-start"]
        assert [start for *_, start in self.starts(*flags, "none")] == [None]
        assert [start for *_, start in self.starts(*flags, "snip:erk")] == ["snip:erk"]
        capped = ["--granularity", "filter", "--methods", "optuna_nsga2@end", "annealing@end", "--max-macs", "0.5"]
        [settings] = parse([*capped, "--seeds", "1", "--model", "lenet5"], "masksearch run")
        assert [cell.settings.search.warm_start for cell in grid(settings)] == [None, "fpgm"]  # of a front, and one

    def test_recipes_and_python_sweeps_have_no_default_warm_start(self):
        for part in load_recipe("thesis_cnn"):
            assert all(cell.settings.search.warm_start is None for cell in grid(part))
        flat = {"methods": ["annealing"], "find_at": ["end"], "sparsity": [0.5], "seeds": 1}
        [cell] = grid(Settings().updated(flat, "test"))
        assert "search" not in cell.identity["settings"]

    def test_default_warm_start_has_the_identity_of_the_explicit_criterion(self, tmp_path):
        flat = {"methods": ["annealing@end"], "budget": 2}
        usual, given = (settings_in(tmp_path, **flat, warm_start=start) for start in ("auto", "magnitude"))
        assert [cell.identity for cell in grid(usual)] == [cell.identity for cell in grid(given)]
        [cell] = cells_of(run_sweep(usual))
        criterion = sweep_in(tmp_path, methods=["magnitude"], name="criterion")[0]
        first = next(iter(read_rows(cell.folder)))
        assert first.mask_hash == criterion.mask.hash
