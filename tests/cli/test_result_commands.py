"""show, compare and analyse: their tables have the numbers of the files."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from changed_results import changed

from masksearch.analysis import (
    control_rows,
    different_settings,
    group_cells,
    group_orthogonality,
    orthogonality_score,
    paired_rows,
    read_mask,
)
from masksearch.cli import dispatch as cli
from masksearch.core.mask import Mask
from masksearch.experiment import Settings, read_sweep, run_sweep
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.models import build_model
from masksearch.report.figures.curves_by_method import training
from masksearch.report.figures.optimism_gaps import gaps
from masksearch.report.figures.style import Looks
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings
from masksearch.utils.files import load_tensors


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two sweeps that differ in their training, and in one method each."""
    home = tmp_path_factory.mktemp("reading")
    for name, method, epochs in (("one", "snip", 1), ("other", "magnitude", 2)):
        sweep = SweepSettings(
            model="lenet_300_100:0.05", methods=("annealing", method), sparsity=(0.5, 0.8), seeds=3, budget=15
        )
        settings = Settings(
            sweep,
            TrainSettings(epochs=epochs, lr=0.1),
            scoring=ScoringSettings(train_examples=150, search_examples=50),
            run=RunSettings(name=name, runs=str(home), device="cpu", threads=1, latency_seconds=0.002),
        )
        run_sweep(settings)
    return home


def settings_in(folder, **flat):
    common = {"train_examples": 150, "threads": 1, "device": "cpu", "latency_seconds": 0.002}
    return Settings().updated(common | {"runs": str(folder)} | flat, "test")


def output_of(capsys, *args):
    """Return the output of a command; check that it succeeds."""
    assert cli.main(list(args)) == 0
    return capsys.readouterr().out


def test_compare_pairs_seeds_and_lists_different_settings(home, capsys):
    out = output_of(capsys, "compare", str(home / "one"), str(home / "other"), "--out", str(home / "compared.md"))
    assert re.search(r"train\.epochs +1 +2", out)
    assert re.search(r"sweep\.methods +annealing snip +annealing magnitude", out)
    assert "sweep.model" not in out
    one, other = (
        {(c.method, c.sparsity, c.seed): c.trained.test_accuracy for c in read_sweep(home / name).cells}
        for name in ("one", "other")
    )
    [row] = [
        row
        for row in paired_rows([read_sweep(home / "one"), read_sweep(home / "other")])
        if (row.kind.method, row.kind.sparsity) == ("annealing", 0.8)
    ]
    differences = [other["annealing", 0.8, seed] - one["annealing", 0.8, seed] for seed in range(3)]
    assert row.difference[0].mean == pytest.approx(sum(differences) / 3)
    assert row.difference[0].n == 3
    assert row.difference[0].text(100, sign="+") in out
    lines = [line for line in out.splitlines() if re.match(r" *(snip|magnitude) +80 %", line)]
    assert len(lines) == 2
    assert all(line.rstrip().endswith("–") for line in lines)
    assert "| annealing | 80 %" in (home / "compared.md").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare"], "two or more runs"),
        (["compare", "{one}"], "two or more runs"),
        (["compare", "{one}", "nowhere"], "nowhere holds no sweep"),
        (["analyse"], "give one or more, such as"),
        (["analyse", "{one}", "--what", "similarty"], "did you mean 'similarity'"),
        (["analyse", "{one}", "--measure", "cosin"], "did you mean 'cosine'"),
        (["analyse", "{one}", "--sparsity", "0.7"], "sparsity: 0.7; the run has 0.5, 0.8"),
        (["analyse", "{one}", "--wat"], "unknown flag --wat: did you mean --what?"),
        (["show", "{one}/.."], "no cell (no settings.json)"),
    ],
)
def test_mistakes_in_result_commands_are_a_single_line(args, message, home, capsys):
    assert cli.main([arg.format(one=home / "one") for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_analyse_prints_and_writes_all_its_tables(home, capsys):
    out = output_of(capsys, "analyse", str(home / "one"), str(home / "other"))
    for title in ("Similarity of masks at 80 %, iou", "Orthogonality scores", "Densities of layers at 50 %"):
        assert out.count(title) == 2
    assert out.count("Optimism gaps") == 1
    written = home / "one" / "analysis"
    text = (written / "analysis.md").read_text()
    assert text.count("## MACs of layers") == 4
    figures = re.findall(r"\]\(([^)]+)\)", text)
    kinds = {"similarity_cosine", "similarity_hamming", "similarity_iou", "layers", "weights", "training"}
    names = {f"{run}_{kind}_{sparsity}" for run in ("one", "other") for kind in kinds for sparsity in (50, 80)}
    assert set(figures) == {f"{name}.png" for name in names}
    assert all((written / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert {path.stem for path in written.glob("*.svg")} == names
    assert all("light-dark(" not in (written / f"{name}.svg").read_text() for name in names)
    result = read_sweep(home / "one")
    cells = [cell for cell in result.cells if (cell.method, cell.sparsity) == ("snip", 0.8)]
    density = sum(cell.mask.densities["fc2"] for cell in cells) / 3
    macs = sum(cell.layers["fc2"].macs_left for cell in cells) / 3
    assert re.search(rf"^ *fc2 .* {100 * density:.2f} *$", out, re.MULTILINE)
    assert re.search(rf"^ *fc2 +75 .* {macs:,.0f} *$", out, re.MULTILINE)
    gap = 100 * sum(c.score.accuracy_gap for c in result.cells if c.method == "annealing") / 6
    shown = re.findall(r"one +50 +annealing +\d+ % +([+-][0-9.]+)", out)
    assert sum(map(float, shown)) / 2 == pytest.approx(gap, abs=0.01)


def test_analyse_writes_only_the_requested_tables(home, capsys, tmp_path):
    out = output_of(capsys, "analyse", str(home / "one"), "--what", "macs", "--sparsity", "0.8", "--out", str(tmp_path))
    assert out.count("MACs of layers at 80 %") == 1
    assert "50 %" not in out
    assert "Similarity" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["analysis.md"]


def test_setting_given_in_a_single_run_is_shown_as_not_given_in_the_other(home):
    one = read_sweep(home / "one")
    [settings] = one.settings
    scoring, sweep = replace(settings.scoring, search_examples=None), replace(settings.sweep, find_at=("end",))
    other = replace(one, settings=[replace(settings, scoring=scoring, sweep=sweep)])
    different = different_settings([one, other])
    assert different["scoring.search_examples"] == ("50", "not given")
    assert different["sweep.find_at"] == ("not given", "end")


def test_analyse_names_the_run_of_each_table(home, capsys, tmp_path):
    runs = [str(home / name) for name in ("one", "other")]
    out = output_of(capsys, "analyse", *runs, "--what", "macs", "early_bird", "--out", str(tmp_path))
    for run in ("one", "other"):
        assert len(re.findall(rf"^{run}: MACs of layers at (?:50|80) %", out, re.MULTILINE)) == 2
        assert f"{run}: early_bird: none, no early-bird tickets" in out
    assert "## MACs of layers at 50 %" in (tmp_path / "analysis.md").read_text()


def test_analyse_reports_missing_results_and_paths_of_figures(home, capsys, tmp_path):
    asked = ["--what", "controls", "early_bird", "weights", "--sparsity", "0.8", "--out", str(tmp_path)]
    out = output_of(capsys, "analyse", str(home / "one"), *asked)
    assert out.splitlines() == [
        "controls: none, no ticket has a control: --control shuffle reinit repair",
        "early_bird: none, no early-bird tickets: --schedule early_bird",
        f"weights, as PNG and SVG:  {tmp_path / 'one_weights_80.png'}",
        f"written  {tmp_path / 'analysis.md'}",
    ]
    text = (tmp_path / "analysis.md").read_text()
    assert "controls: none, " in text
    assert "early_bird: none, " in text


def test_orthogonality_from_files_equals_that_of_the_network(home):
    result = read_sweep(home / "one")
    group = next(g for g in group_cells(result.cells) if (g.method, g.sparsity) == ("snip", 0.8))
    folder = result.folders[group.places[1]]
    seed = group.cells[1].seed
    model = build_model("lenet_300_100:0.05", (1, 8, 8), seed=seed)
    mask = read_mask(folder / "mask.safetensors", "weight")
    space = weight_space(model)
    assert mask.space.fingerprint == space.fingerprint
    assert torch.equal(load_tensors(folder / "mask.safetensors")[0]["bits"], mask_bits(mask))
    expected = orthogonality_score(model, space, mask)
    assert group_orthogonality(result, {seed: mask}, [seed]).mean == pytest.approx(expected)
    full = Mask(mask.space, torch.ones(space.n_units, dtype=torch.bool))
    assert group_orthogonality(result, {seed: full}, [seed]).mean == pytest.approx(orthogonality_score(model, space))


def test_training_analysis_shows_the_losses_of_retraining(home, capsys, tmp_path):
    out = output_of(capsys, "analyse", str(home / "other"), "--what", "training", "--out", str(tmp_path))
    cells = [c for c in read_sweep(home / "other").cells if (c.method, c.sparsity) == ("annealing", 0.5)]
    first, last = (sum(cell.epochs[place].train_loss for cell in cells) / 3 for place in (0, 1))
    assert re.search(rf"^ *annealing +{first:.4f} ± [0-9.]+ +{first:.4f} ± [0-9.]+ +{last:.4f} ", out, re.MULTILINE)
    result = read_sweep(home / "other")
    groups = [group for group in group_cells(result.cells) if group.sparsity == 0.5]
    _, [drawing] = training(groups, Looks(groups))
    [curve, *_] = [line.get_ydata() for line in drawing.figure.axes[0].lines if line.get_linestyle() == "-"]
    assert list(curve) == pytest.approx([first, last])


def test_optimism_gaps_are_drawn_against_the_number_of_search_images(home):
    result = read_sweep(home / "one")
    seen = [
        replace(
            result,
            cells=[
                changed(cell, settings={"scoring": {"search_examples": images}}, score={"accuracy_gap": 1 / images})
                for cell in result.cells
            ],
        )
        for images in (100, 50)
    ]
    [grid], [drawing] = gaps(dict(zip("ab", seen, strict=True)))
    assert [row[1:5:3] for row in grid.rows[::2]] == [("100", "+1.00 ± 0.00"), ("50", "+2.00 ± 0.00")]
    line, *_ = drawing.figure.axes[0].lines
    assert line.get_xydata().tolist() == [[50, 2.0], [100, 1.0]]
    assert gaps({"a": seen[0]})[1] == []
    # Searches of a method that differ in find_at have separate lines.
    other = [replace(one, cells=[changed(cell, find_at="end") for cell in one.cells]) for one in seen]
    both = [replace(one, cells=one.cells + more.cells) for one, more in zip(seen, other, strict=True)]
    [_], [drawing] = gaps(dict(zip("ab", both, strict=True)))
    assert all(line.get_xydata()[:, 0].tolist() == [50, 100] for line in drawing.figure.axes[0].lines)
    assert len(drawing.figure.axes[0].lines) == 4


def test_early_bird_analysis_has_a_table_and_a_heat_map(tmp_path, capsys):
    flat = {"model": "lenet_300_100:0.05", "methods": ["magnitude"], "sparsity": [0.5], "seeds": 1, "epochs": 6}
    result = run_sweep(settings_in(tmp_path, **flat, schedule=["early_bird"]))
    out = output_of(capsys, "analyse", str(result.path), "--what", "early_bird")
    [cell] = result.cells
    fired = cell.early_bird.fired
    assert re.search(rf"magnitude +50 % +0 +{'never' if fired is None else fired} ", out)
    assert (result.path / "analysis" / f"{result.path.name}_early_bird.png").exists()


def test_early_bird_tickets_of_different_epochs_are_compared(home):
    """The epoch of an early-bird ticket is a result of each seed, not a setting that differs."""
    result = read_sweep(home / "one")
    cells = [cell for cell in result.cells if (cell.method, cell.sparsity) == ("snip", 0.5)]
    rule = EarlyBirdResult(0.1, False, None, {"absolute": None, "relative": None}, [])
    early = [changed(cell, early_bird=rule, find_at=f"{cell.seed + n}ep") for n, cell in enumerate(cells)]
    later = [changed(cell, find_at="end") for cell in early]
    [row] = paired_rows([replace(result, cells=early), replace(result, cells=later)])
    assert (row.kind.find_at, row.difference[0].n) == ("early", 3)


def test_filter_and_weight_masks_are_analysed_separately(tmp_path, capsys):
    flat = {"model": "conv2:0.1", "sparsity": [0.5], "seeds": 2, "epochs": 1, "on_empty": "keep_one", "name": "both"}
    kinds = {"filter": ["filter_l1", "random"], "weight": ["magnitude"]}
    parts = [settings_in(tmp_path, **flat, granularity=kind, methods=names) for kind, names in kinds.items()]
    run_sweep([parts[0]])
    one = output_of(capsys, "analyse", str(tmp_path / "both"))
    run_sweep(parts)
    assert "Similarity of masks at 50 %, iou" in one
    two = output_of(capsys, "analyse", str(tmp_path / "both"), "--measure", "iou")
    assert len(re.findall(r"Similarity of masks at 50 %, \d+ (?:filter|weight)s, iou", two)) == 2
    assert len(list((tmp_path / "both" / "analysis").glob("both_similarity_iou_50_*s.png"))) == 2


def test_figures_of_two_runs_with_equal_names_have_different_files(home, capsys, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(home / "one", tmp_path / name / "one")
    runs = [str(tmp_path / name / "one") for name in ("a", "b")]
    output_of(capsys, "analyse", *runs, "--what", "densities", "--sparsity", "0.8", "--out", str(tmp_path))
    assert {file.name for file in tmp_path.glob("*.png")} == {f"{name}_one_layers_80.png" for name in "ab"}
    assert "# a/one" in (tmp_path / "analysis.md").read_text()


def test_orthogonality_of_the_dense_network_uses_only_masked_layers(tmp_path, capsys):
    flat = {"model": "conv2:0.1", "layers": "linear", "methods": ["random"], "sparsity": [0.001], "seeds": 1}
    result = run_sweep(settings_in(tmp_path, **flat, epochs=1))
    out = output_of(capsys, "analyse", str(result.path), "--what", "orthogonality")
    dense, ticket = (float(re.search(rf"{name} .*?([0-9]+[.][0-9]{{5}})", out)[1]) for name in ("dense", "random"))
    assert ticket == pytest.approx(dense, rel=0.05)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A sweep whose tickets have all controls."""
    home = tmp_path_factory.mktemp("controlled")
    flat = {"model": "lenet_300_100:0.05", "methods": ["snip"], "sparsity": [0.5], "seeds": 2, "epochs": 1}
    return run_sweep(settings_in(home, **flat, control=["shuffle", "reinit", "repair"]))


def test_controls_are_compared_with_their_tickets(controlled, capsys):
    accuracies = {(c.control, c.seed): c.trained.test_accuracy for c in controlled.cells}
    out = output_of(capsys, "analyse", str(controlled.path), "--what", "controls")
    for control, word in (("shuffle", "shuffled"), ("reinit", "reinitialised"), ("repair", "repaired")):
        lost = sum(accuracies[control, seed] - accuracies["none", seed] for seed in (0, 1)) / 2
        assert re.search(rf"snip +{word} +50 % .* \{100 * lost:+.2f} \(", out)
    without = replace(controlled, cells=[c for c in controlled.cells if (c.control, c.seed) != ("none", 0)])
    [row, *_] = control_rows(group_cells(without.cells))
    assert row.treated.n == row.control.n == 1


def test_repaired_tickets_have_a_lower_orthogonality_score_than_their_tickets(controlled, capsys):
    out = output_of(capsys, "analyse", str(controlled.path), "--what", "orthogonality")
    scores = dict(re.findall(r"^ *(snip[a-z, ]*?) +50 % +([0-9.]+)", out, re.MULTILINE))
    assert set(scores) == {"snip", "snip, shuffled", "snip, repaired"}
    assert float(scores["snip, repaired"]) < 0.95 * float(scores["snip"])


def mask_bits(mask):
    return torch.from_numpy(np.packbits(mask.bits.numpy()))


def test_show_lists_command_progress_and_files_of_a_sweep(home, capsys):
    out = output_of(capsys, "show", str(home / "one"))
    assert re.search(r"run +masksearch run .*--methods annealing snip", out)
    assert re.search(r"done +12 of 12", out)
    assert re.search(r"\*/mask\.safetensors +the mask: ms\.Mask\.load +12 ", out)
    assert re.search(r"\*/history\.jsonl .* 6 ", out)
    assert len(re.findall(r"lenet_300_100-0\.05_seed\d_", out)) == 3


def test_show_lists_results_settings_and_files_of_a_cell_and_a_dense_network(home, capsys):
    result = read_sweep(home / "one")
    out = output_of(capsys, "show", str(result.folders[0]))
    accuracy = result.cells[0].trained.test_accuracy
    assert re.search(rf"trained\.test_accuracy +{accuracy}", out)
    assert re.search(r"dense\.training\.epochs +1", out)
    assert re.search(r"mask\.safetensors +the mask", out)
    [dense, *_] = (home / "dense").iterdir()
    assert re.search(r"init\.safetensors +weights at the start +1", output_of(capsys, "show", str(dense)))


def test_paired_rows_pair_only_cells_with_equal_settings(home):
    one = read_sweep(home / "one")
    others = [changed(cell, rewind_to="end") for cell in one.cells]
    rows = paired_rows([one, replace(one, cells=others)])
    assert len(rows) == 8
    assert all(row.difference[0].n == 0 for row in rows)
    assert all(row.difference[0].mean == 0 for row in paired_rows([one, one]))
