"""Studies of sweeps' searches: those written to a storage, and studies that sweeps share."""

import optuna
import pytest
from small_sweeps import MIXTURE, MLP, SHORT, TRAINED, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.searchers.optuna.study_storage import opened
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError


def test_optuna_study_is_stored_in_the_cell_folder_with_the_scores_of_the_search(tmp_path):
    [cell] = sweep_in(tmp_path, **TRAINED, **MIXTURE)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    [name] = optuna.get_all_study_names(f"sqlite:///{cell.folder / 'optuna.db'}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{cell.folder / 'optuna.db'}")
    scores = [row.score.value for row in read_rows(cell.folder)]
    assert [trial.value for trial in study.trials] == pytest.approx(scores)


def test_each_search_in_a_shared_storage_has_its_own_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    shared = {"methods": ["optuna_tpe"], "sparsity": [0.9], "on_empty": "keep_one", "optuna": {"storage": url}}
    cells = sweep_in(tmp_path, **shared, find_at=["0", "end"])  # a searcher doesn't distinguish these
    cells += sweep_in(tmp_path, **shared, find_at=["0"], objective="accuracy", name="other")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stored = {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}
    assert len(stored) == 3
    wanted = [[row.score.value for row in read_rows(cell.folder)] for cell in cells]
    assert sorted([trial.value for trial in study.trials] for study in stored.values()) == sorted(wanted)


def test_sweeps_with_a_shared_study_search_together(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    shared = {"methods": ["optuna_tpe"], "sparsity": [0.9, 0.8], "on_empty": "keep_one", "budget": 4}
    shared["optuna"] = {"storage": url, "study": "both"}
    one, other = (sweep_in(tmp_path, **shared, name=name) for name in ("one", "other"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies = {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}
    assert len(studies) == 2
    for name, cells in zip(sorted(studies, reverse=True), zip(one, other, strict=True), strict=True):
        own = [[row.score.value for row in read_rows(cell.folder)] for cell in cells]
        study = studies[name]
        assert [trial.value for trial in study.trials] == pytest.approx(own[0] + own[1])
        assert own[0] != own[1], "both searches have proposed the same"
        assert len({trial.user_attrs["seed"] for trial in study.trials}) == 2
        assert [cell.metrics.score.foreign_trials for cell in cells] == [0, 4]


def test_shared_study_depends_only_on_settings_that_change_scores(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    shared = {"methods": ["optuna_random"], "find_at": ["0"], "optuna": {"storage": url, "study": "both"}}
    sweep_in(tmp_path, **shared, budget=3)
    sweep_in(tmp_path, **shared, budget=4, name="longer", rescore=2, rewind_to=["1ep"], proposals=2)
    [name] = optuna.get_all_study_names(url)
    assert len(optuna.load_study(study_name=name, storage=url).trials) == 7
    sweep_in(tmp_path, **shared, budget=3, name="other", objective="accuracy")
    assert len(optuna.get_all_study_names(url)) == 2


def test_shared_study_has_exactly_a_study_for_each_cell(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    blocks = {"parametrisation": "blocks", "storage": url, "study": "both"}
    layers = {"layer_sparsity": ["fc3=0.5"], "sparsity": [0.8, 0.9], "on_empty": "keep_one"}
    cells = sweep_in(tmp_path, methods=["optuna_random"], optuna=blocks, budget=3, **layers)
    names = optuna.get_all_study_names(url)
    assert len(names) == len(cells)
    assert all(name.startswith("both/optuna_random_s") for name in names)


def test_shared_study_setting_does_not_change_other_searchers(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    optuna_settings = {"storage": url, "study": "both"}
    [alone] = sweep_in(tmp_path, methods=["annealing"])
    [beside] = sweep_in(tmp_path, methods=["annealing"], optuna=optuna_settings, name="beside")
    assert alone.mask == beside.mask


def test_error_about_a_storage_hides_its_password(tmp_path):
    for url, message in (
        (f"sqlite:///{tmp_path}/no/folder.db", "unable to open database file.$"),
        ("postgresql://me:secret@localhost/x", "postgresql://me:...@localhost/x' can't be opened"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            opened(url)
        assert "secret" not in str(caught.value)
