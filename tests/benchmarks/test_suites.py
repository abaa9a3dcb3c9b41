"""Suites: their declared cases, and small suites that run, continue, and write tables."""

import re

import pytest

from benchmarks import running, scripts
from benchmarks.__main__ import main
from benchmarks.rows import number, read_csv, write_csv
from benchmarks.suites import SUITES, chosen
from masksearch.criteria import CRITERIA
from masksearch.experiment import recipe_names
from masksearch.schedules import SCHEDULES
from masksearch.utils.errors import InputError

ONLY = ["digits_lenet", "magnitude", "random"]


def cells_of(suite, scale):
    return [cell for sweep in SUITES[suite].sweeps(scale) for cell in sweep.cells]


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("suite", list(SUITES))
def test_every_case_is_declared_once(suite, scale):
    sweeps = SUITES[suite].sweeps(scale)
    assert len({sweep.name for sweep in sweeps}) == len(sweeps)
    for sweep in sweeps:
        assert sweep.cells
        assert len({cell.folder for cell in sweep.cells}) == len(sweep.cells)


def test_criteria_suite_has_all_criteria_five_sparsities_and_three_seeds():
    of_language_models = {"owl", "sparsegpt"}  # benchmarks.language_models compares these
    of_weights_and_filters = {
        name
        for name, row in CRITERIA.items()
        if {"weight", "filter"} & {*row.granularities} and name not in of_language_models
    }
    assert {cell.method for cell in cells_of("criteria", "smoke")} == of_weights_and_filters
    assert {cell.method for cell in cells_of("criteria", "cpu")} == of_weights_and_filters
    sweeps = SUITES["criteria"].sweeps("cpu")
    assert len({(cell.settings.sweep.dataset, cell.settings.sweep.model) for s in sweeps for cell in s.cells}) >= 3
    for sweep in sweeps:
        assert len({cell.sparsity for cell in sweep.cells}) == 5
        assert {cell.seed for cell in sweep.cells} == {0, 1, 2}


def test_suites_have_all_schedules_and_recipes():
    assert {cell.schedule for cell in cells_of("schedules", "smoke")} == set(SCHEDULES)
    names = [sweep.name for sweep in SUITES["published"].sweeps("smoke")]
    assert all(any(name.startswith(recipe) for name in names) for recipe in recipe_names())


def test_searches_have_equal_scorings_or_equal_seconds_and_include_random_search():
    for sweep in SUITES["search"].sweeps("cpu"):
        budgets = {(cell.settings.sweep.budget, cell.settings.scoring.seconds) for cell in sweep.cells}
        assert len(budgets) == 1
        assert (budgets.pop()[1] is None) == sweep.name.endswith("_scorings")
        assert "random_search" in {cell.method for cell in sweep.cells}
        assert {cell.seed for cell in sweep.cells} == set(range(10))


def test_chosen_filters_cases_and_seeds_and_unknown_cases_raise_input_error():
    sweeps = SUITES["criteria"].sweeps("smoke")
    (sweep,) = chosen(sweeps, ["lenet", "snip"], 1, {"threads": 1})
    assert {(cell.method, cell.seed) for cell in sweep.cells} == {("snip", 0)}
    assert sweep.parts[0].run.threads == 1
    with pytest.raises(InputError, match="criteria_smoke_digits_lenet"):
        chosen(sweeps, ["imagenet"], None, {})


def run(*flags):
    return main(["--suite", "criteria", "--scale", "smoke", "--device", "cpu", "--only", *ONLY, *flags])


def test_interrupted_suite_continues_from_its_rows(brief, monkeypatch, capsys):
    path = brief / "runs" / "results" / "criteria_smoke_digits_lenet.csv"
    seen = []

    def stop(self, cell, metrics):
        seen.append(len(read_csv(path)))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running.ProgressBars, "cell_ends", stop)
        assert run() == 130
    assert seen == [0, 1, 2]  # before each row, those of the cases before it
    first = path.read_text().splitlines()[1]

    assert run() == 0
    rows = read_csv(path)
    assert len(rows) == len({row["cell"] for row in rows}) == 12  # (magnitude, random, random erk) x 2 x 2
    assert path.read_text().splitlines()[1].startswith(first.split(",digits")[0])
    out = capsys.readouterr().out
    assert re.search(r"12 of \d+ cases\.", out)
    assert "Wilcoxon's signed-rank test, Holm's correction over the 2 comparisons" in out
    assert re.search(r"\| random erk \| .*\d", out)

    (brief / "runs").rename(brief / "elsewhere")  # a machine with the rows and no runs
    (brief / "runs" / "results").mkdir(parents=True)
    (brief / "elsewhere" / "results" / path.name).rename(path)
    with monkeypatch.context() as patch:
        patch.setattr(running, "run_sweep", lambda *_, **__: pytest.fail("all rows are there"))
        assert run() == 0
    assert read_csv(path) == rows

    write_csv(rows[1:], path)  # and all rows of a part but one
    capsys.readouterr()
    assert run() == 0
    assert {row["cell"] for row in read_csv(path)} == {row["cell"] for row in rows}
    assert "1 of 1 cases" in capsys.readouterr().out
    assert len(list((brief / "runs" / "criteria_smoke_digits_lenet").glob("*/metrics.json"))) == 1


def test_search_suite_writes_curves(brief, capsys):
    flags = ["--scale", "smoke", "--device", "cpu", "--seeds", "1", "--only", "random_search", "annealing"]
    assert main(["--suite", "search", *flags]) == 0
    capsys.readouterr()
    for end, axes in (("scorings", ("scorings", "images")), ("seconds", ("seconds",))):
        rows = read_csv(brief / "runs" / "results" / f"search_smoke_digits_{end}.csv")
        assert {row["method"] for row in rows} == {"random_search", "annealing"}
        for row in rows:
            for axis in axes:
                columns = [name for name in row if name.startswith(f"best.{axis}.")]
                assert len(columns) == running.LOOKS
                values = [number(row, name) for name in columns if row[name] != "nan"]
                assert values == sorted(values)
                if end == "scorings":
                    assert values[-1] == pytest.approx(number(row, "score.search_score"), rel=1e-5)
        assert (brief / "runs" / "figures" / f"search_smoke_digits_{end}_anytime.png").exists()


def test_schedules_suite_writes_table_and_figure(brief, capsys):
    only = ["digits_lenet", "--seeds", "1"]
    assert main(["--suite", "schedules", "--scale", "smoke", "--device", "cpu", "--only", *only]) == 0
    assert "| magnitude lottery_ticket |" in capsys.readouterr().out
    assert (brief / "runs" / "figures" / "schedules_smoke_digits_lenet_accuracy.png").exists()


def test_published_suite_writes_table_and_rows_of_a_recipe(brief, capsys):
    for folder in ("results", "figures"):
        (brief / "runs" / folder).mkdir(parents=True)
    page = brief / "runs" / "README.md"
    page.write_text("<!-- thesis_mlp_smoke -->\n<!-- end of thesis_mlp_smoke -->\n")
    only = ["thesis_mlp", "snip", "random"]
    assert main(["--suite", "published", "--scale", "smoke", "--device", "cpu", "--only", *only]) == 0
    assert "| snip | 90 % |" in page.read_text()
    assert len(read_csv(brief / "runs" / "results" / "thesis_mlp_smoke.csv")) == 6


def test_speed_suite_runs_its_scripts(brief, capfd):
    assert main(["--suite", "speed", "--scale", "smoke"]) == 0
    assert "breaks even at" in capfd.readouterr().out


def test_script_without_its_runs_ends_with_an_error_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scripts.subprocess, "Popen", lambda *_, **__: pytest.fail("work began"))
    (tmp_path / "pilot_erk").mkdir()
    (tmp_path / "pilot_erk" / "sweep.json").write_text("{}")
    flags = ["--suite", "speed", "--scale", "cpu", "--runs", str(tmp_path), "--only"]
    for name, missing in (("early_losses", "resnet20_search"), ("short_training", "pilot_global")):
        assert main([*flags, "sparse", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name}: no sweep in {tmp_path / missing}" in line
        assert "pilot_erk" not in line
        assert "docs/results" in line


def test_list_flag_shows_suites_and_unknown_suite_or_scale_is_an_error(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*SUITES, "speed", "criteria_cpu_mnist_lenet"])
    assert main(["--suite", "criterion"]) == 2
    assert "did you mean 'criteria'?" in capsys.readouterr().err
    assert main(["--suite", "criteria", "--scale", "tiny"]) == 2


def test_page_without_markers_ends_with_an_error_before_any_work(tmp_path, monkeypatch, capsys):
    import benchmarks.__main__ as command

    monkeypatch.setattr(command, "run_suite", lambda *_: pytest.fail("work began"))
    (tmp_path / "README.md").write_text("nothing\n")
    assert main(["--suite", "search", "--scale", "paper"], tmp_path) == 2
    assert "<!-- suite_search_paper -->" in capsys.readouterr().err
