"""Pages: a single file with the numbers of the cells, and equal bytes for equal cells."""

import re
from dataclasses import replace
from urllib.parse import parse_qs
from xml.etree import ElementTree

import numpy as np
import pytest
from changed_results import changed
from report_cases import COMMAND, METHODS, SPARSITY, Page, table_with
from scipy.stats import t

from masksearch.analysis import Estimate, SummaryRow, group_cells, summarise
from masksearch.analysis.summary_rows import Moment, RoundRow
from masksearch.experiment import Settings, read_sweep, run_sweep
from masksearch.experiment.cell_results import Cap, CellResult, EarlyBirdResult
from masksearch.experiment.settings.all_settings import RunSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.report import write_report
from masksearch.report.result_sentences import what_steps_brought, why_searches_trail
from masksearch.report.tables.summary_tables import results_grid
from masksearch.report.tensorboard_address import board_link
from masksearch.training import TrainSettings

COLUMNS = "method sparsity found untrained_% trained_% gap params MACs_% speed_x scorings search_s train_s"


@pytest.fixture(scope="module")
def page(finished):
    return Page(finished[1].read_text())


def elsewhere(result, path, **changes):
    """The page of a result with changes, written into another folder."""
    (path / "sweep.json").write_bytes((result.path / "sweep.json").read_bytes())
    return Page(write_report(replace(result, path=path, **changes)).read_text())


def test_page_is_well_formed_html(page):
    assert page.open == []
    assert page.tags[:2] == ["html", "head"]
    assert {"title", "style", "body", "table", "svg", "figure"} <= set(page.tags)


def test_page_loads_no_external_resource_and_has_a_single_script(finished, page):
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "img", "object", "embed", "image"} & set(page.tags)
    loads = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}
    references = [value for _, name, value in page.attributes if name in loads]
    assert references  # of matplotlib's glyphs and clip paths, within the page
    led = [value for value in references if not value.startswith("#")]
    assert led[:2] == ["results.csv", "results.md"]
    assert all(value.startswith("http://localhost:6006/#custom_scalars&") for value in led[2:])
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    text = finished[1].read_text()
    assert all(target.startswith("#") for target in re.findall(r"""url\(["']?([^)]*)\)""", text))
    assert not any(word in text for word in ("@import", "import(", "fetch(", "XMLHttpRequest", "WebSocket"))
    links = {(tag, name) for tag, name, value in page.attributes if value and re.match("https?:|//", value)}
    links -= {("a", "href")}  # led to by a click, not loaded
    assert links <= {(tag, name) for tag, name in links if name.startswith("xmlns") or tag.startswith(("cc:", "dc:"))}


def estimate(values, scale=100.0):
    """``mean ± half width``, by SciPy; of two values ``mean (± half difference)``."""
    values = np.array(values)
    if len(values) == 2:
        return f"{scale * values.mean():.2f} (±{scale * np.ptp(values) / 2:.2f})"
    error = values.std(ddof=1) / len(values) ** 0.5
    half = t.interval(0.95, len(values) - 1, scale=error)[1] if error else 0.0
    return f"{scale * values.mean():.2f} ± {scale * half:.2f}"


def test_results_table_has_the_numbers_of_the_cells(finished, page):
    result, _ = finished
    metrics = [CellResult.load(path.parent) for path in sorted(result.path.glob("*/metrics.json"))]
    assert len(metrics) == 18
    head, dense, *rows = page.tables[0]
    assert head == [column.replace("_", " ") for column in COLUMNS.split()]
    seeds = {cell.seed: cell.dense.test_accuracy for cell in metrics}
    assert dense[0] == "dense"
    assert dense[head.index("trained %")] == estimate(list(seeds.values()))
    expected = [(method, sparsity) for sparsity in SPARSITY for method in METHODS]
    assert len(rows) == len(expected)
    for row, (method, sparsity) in zip(rows, expected, strict=True):
        cells = [cell for cell in metrics if (cell.method, cell.sparsity) == (method, sparsity)]
        assert sorted(cell.seed for cell in cells) == [0, 1, 2]
        shown = dict(zip(head, row, strict=True))
        name = method.replace("_", " ") + " (learned)" * (method == "edge_popup")
        assert re.sub(r" \((empties|constant) .*", "", shown["method"]) == name
        assert shown["sparsity"] == f"{sparsity:.0%}".replace("%", " %")
        assert shown["untrained %"] == estimate([cell.untrained.test_accuracy for cell in cells])
        assert shown["trained %"] == estimate([cell.trained.test_accuracy for cell in cells])
        gap = 100 * np.mean([cell.score.accuracy_gap for cell in cells])
        assert float(shown["gap"]) == pytest.approx(gap, abs=0.051)
        params = np.mean([cell.cost.nonzero_params for cell in cells])
        assert float(shown["params"].replace(",", "")) == pytest.approx(params, abs=0.51)
        macs = 100 * np.mean([cell.cost.effective_macs / cell.dense.cost.macs for cell in cells])
        assert float(shown["MACs %"]) == pytest.approx(macs, abs=0.051)
        assert shown["scorings"] == ("15" if method == "annealing" else "0")


def test_learned_masks_are_marked_as_learned(page):
    assert "(learned): supermasks. They are learned from gradients" in " ".join("".join(page.text).split())


def test_costs_table_has_the_costs_of_the_cells(finished, page):
    rows = table_with(page, "compression", "latency ms")
    cells = [cell for cell in finished[0].cells if (cell.method, cell.sparsity) == ("snip", 0.9)]
    [row] = [row for row in rows if (row["method"].partition(" (e")[0], row["sparsity"]) == ("snip", "90 %")]
    for column, scale, values in (
        ("accuracy %", 100, [cell.trained.test_accuracy for cell in cells]),
        ("params", 1, [cell.cost.nonzero_params for cell in cells]),
        ("MACs", 1, [cell.cost.effective_macs for cell in cells]),
        ("test s", 1, [cell.test_seconds for cell in cells]),
        ("latency ms", 1000, [cell.latency.ticket_batch_64 for cell in cells]),
        ("compression", 1, [c.dense.cost.nonzero_params / c.cost.nonzero_params for c in cells]),
    ):
        digits = len(row[column].partition(".")[2])
        got = float(row[column].replace(",", ""))
        assert got == pytest.approx(scale * np.mean(values), abs=0.51 * 10**-digits)


def test_moments_table_has_the_accuracies_of_each_round(rounds, tmp_path):
    page = elsewhere(rounds, tmp_path)
    rows = table_with(page, "round", "best epoch")
    chosen = [row for row in rows if row["method"] == "magnitude" and row["variant"].startswith("lottery ticket")]
    [first, last, *_] = [
        row for row in chosen if (row["sparsity"], row["found"]) == ("80 %", "1ep") and "shuffled" not in row["variant"]
    ]
    cells = [
        cell
        for cell in rounds.cells
        if (cell.method, cell.schedule, cell.sparsity) == ("magnitude", "lottery_ticket", 0.8)
        and (cell.find_at, cell.control) == ("1ep", "none")
    ]
    assert len(cells) == 2
    for number, row in enumerate((first, last)):
        assert row["round"] == str(number + 1)
        rounds_ = [cell.rounds[number] for cell in cells]
        assert float(row["density %"]) == pytest.approx(100 * 0.2 ** ((number + 1) / 2), abs=0.2)
        for column, moment in (
            ("rewound %", "untrained"),
            ("best dense %", "best_dense"),
            ("as found %", "found"),
            ("trained %", "trained"),
        ):
            mean = np.mean([getattr(round_, moment).test_accuracy for round_ in rounds_])
            assert row[column] == f"{100 * mean:.2f}"
        assert row["loss"] == f"{np.mean([r.trained.test_loss for r in rounds_]):.3f}"  # the last one's


def test_page_has_all_figures_with_captions_and_files(finished, page):
    figures = ["accuracy", "training", "layers", "weights", "search_annealing"]
    assert page.tags.count("svg") == page.tags.count("figcaption") == len(figures)
    assert page.captions[0] == "Test accuracy after the last epoch, means over 3 seeds with 95 % intervals."
    assert page.captions[-1] == "annealing, 90 % sparse, seed 0"
    text = "".join(page.text)
    for words in ("Hamming distance (units)", "scorings", "test accuracy (%)", "score (calibrated loss)", "dense"):
        assert words in text
    folder = finished[0].path / "figures"
    assert {path.name for path in folder.iterdir()} == {f"{n}.{kind}" for n in figures for kind in ("png", "svg")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


def test_svg_figures_are_well_formed_with_light_colours(finished):
    for path in (finished[0].path / "figures").glob("*.svg"):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "light-dark(" not in text
        assert "font" in text


def test_markdown_file_has_the_tables_of_the_page(finished, page):
    text = (finished[0].path / "results.md").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["Results", "Masks at all moments", "Costs"]
    lines = text.splitlines()
    assert all("| " + " | ".join(row) + " |" in lines for row in page.tables[0])


def test_page_has_settings_versions_and_the_command(finished, page):
    shown = {row[0]: row[1] for table in page.tables[1:] for row in table if len(row) == 2}
    result, _ = finished
    assert shown["budget"] == "15"
    assert shown["sparsity"] == "0.5 0.9"
    assert shown["torch"] == result.machine["torch"]
    assert shown["name"] == "<a> & b"  # and no markup
    assert "masksearch run --name '<a> & b'" in "".join(page.text)


def answer_of(page):
    text = " ".join("".join(page.text).split())
    return text[text.index("The dense network reaches") : text.index("Results")]


def test_answer_names_the_best_method_by_validation_with_size_speed_and_cost(finished, page):
    rows = summarise(finished[0].cells, finished[0].dense)
    dense, answer = rows[0], answer_of(page)
    for sparsity in SPARSITY:
        here = [row for row in rows[1:] if row.sparsity == sparsity]
        best = max(here, key=lambda row: row.validation.mean)
        name = best.method.replace("_", " ") + " (learned)" * best.learned
        points = 100 * abs(best.trained.mean - dense.trained.mean)
        assert f"{100 * sparsity:g} % sparse: {name} {best.trained.text(100)} % on the test set, {points:.2f}" in answer
        assert f"{best.compression.mean:.1f} times fewer parameters, {1 / best.macs.mean:.1f} times fewer" in answer
        assert "as fast as before: dense kernels multiply zeros, too" in answer
        if best.learned:
            other = max((row for row in here if not row.learned), key=lambda row: row.validation.mean)
            assert f"{other.method.replace('_', ' ')} (best method without masks learned by gradient)" in answer
    masks = re.findall(r"[\w.]+/mask\.safetensors", answer)
    assert len(masks) >= len(SPARSITY)
    assert all((finished[0].path / mask).is_file() for mask in masks)


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        (
            (0.03, 0.03, 0.03),
            "3.00 points above the dense network (95 % interval over 3 seeds, paired: +3.00 to +3.00)",
        ),
        (
            (-0.02, -0.02, -0.05),
            "3.00 points below the dense network (not significant; 95 % interval over 3 seeds, paired: -7.30 to +1.30)",
        ),
        (
            (0.02, -0.01),
            "0.50 points above the dense network (two seeds, paired: -1.00 and +2.00; too few for an interval)",
        ),
        ((0.01,), "1.00 points above the dense network (one seed, so without an interval)"),
    ],
)
def test_answer_states_significance_of_the_difference_to_the_dense_network(finished, tmp_path, differences, says):
    snip = [cell for cell in finished[0].cells if cell.method == "snip" and cell.sparsity == 0.5]
    cells = []
    whole, networks = {network.seed: network for network in finished[0].dense}, []
    for cell, difference, dense in zip(snip, differences, (0.5, 0.7, 0.9), strict=False):  # far apart, but paired
        networks.append(replace(whole[cell.seed], test_accuracy=dense))
        cells.append(changed(cell, trained={"test_accuracy": dense + difference}))
    answer = answer_of(elsewhere(finished[0], tmp_path, cells=cells, dense=networks))
    assert says in answer


def test_answer_gives_the_measured_speed_of_filter_masks(finished, tmp_path):
    cells = [changed(cell, granularity="filter") for cell in finished[0].cells if cell.method == "snip"]
    answer = answer_of(elsewhere(finished[0], tmp_path, cells=cells))
    for row in summarise(cells)[1:]:
        assert f"measured {row.speedup.mean:.2f} times as fast" in answer
    assert "zeros" not in answer


def test_answer_calls_a_cost_cap_a_cap_and_not_a_sparsity(finished, tmp_path):
    snip = [cell for cell in finished[0].cells if (cell.method, cell.sparsity) == ("snip", 0.5)]
    cells = [changed(cell, cap=Cap("macs", 0.5)) for cell in snip]
    answer = answer_of(elsewhere(finished[0], tmp_path, cells=cells))
    assert "At most 50 % of the MACs: snip" in answer
    assert "sparse" not in answer


def test_answer_chooses_by_validation_and_never_a_control(rounds, tmp_path):
    cells = []
    for cell in rounds.cells:
        high = cell.control == "shuffle" or (cell.method, cell.schedule) == ("magnitude", "one_shot")
        test = 0.999 if cell.method == "random" else 0.5
        cells.append(changed(cell, trained={"val_accuracy": 0.9 if high else 0.8, "test_accuracy": test}))
    answer = answer_of(elsewhere(rounds, tmp_path, cells=cells))
    assert answer.count("50.00 (±0.00) %") == 2
    assert "shuffled" not in answer
    assert "magnitude (one shot, found at 1ep)" in answer


def runs_in_link(page):
    """The regular expression by which the link to TensorBoard selects runs."""
    [address] = [value for tag, name, value in page.attributes if tag == "a" and value.startswith("http")]
    assert len(address) < 120
    return parse_qs(address.partition("#")[2])["regexInput"][0]


def test_tensorboard_link_selects_a_single_seed_and_sparsity(finished, page):
    names = [folder.name for folder in finished[0].folders]
    on = [name for name in names if re.search(runs_in_link(page), name)]
    assert on == [name for name in names if "s0.9" in name and "seed0" in name]
    assert len(on) == len(METHODS)
    assert not re.search(runs_in_link(page), f"{on[0]}/round1")


def test_tensorboard_link_of_more_than_40_cells_selects_a_single_method(finished):
    groups = [group for group in group_cells(finished[0].cells) if group.sparsity == 0.9]
    address, _ = board_link(groups * 20)
    pattern = parse_qs(address.partition("#")[2])["regexInput"][0]
    methods = [folder.name.split("_s0.9")[0] for folder in finished[0].folders if re.search(pattern, folder.name)]
    assert methods == [groups[0].method]


def test_validation_of_untrained_rows_is_the_rest_accuracy_and_of_diverged_rows_zero(finished):
    cells = [
        changed(cell, trained={"val_accuracy": None, "rest_accuracy": 0.25 + cell.seed})
        for cell in finished[0].cells
        if cell.method == "snip"
    ]
    assert summarise(cells)[1].validation.mean == pytest.approx(0.25 + 1)
    cells = [changed(cell, trained={"diverged": True}) for cell in cells]
    assert summarise(cells)[1].validation.mean == 0


def test_dense_network_alone_has_a_page(dense_alone, tmp_path):
    page = elsewhere(dense_alone, tmp_path)
    text = " ".join("".join(page.text).split())
    accuracies = [network.test_accuracy for network in dense_alone.dense]
    assert f"The dense network reaches {estimate(accuracies)} % with" in text
    assert "0 cells, 2 seeds" in text
    assert [row["trained %"] for row in table_with(page, "round")] == [f"{100 * np.mean(accuracies):.2f}"]
    assert page.captions == ["Training loss and validation accuracy of the dense training, means over 2 seeds."]


def test_report_of_equal_cells_has_equal_bytes(finished):
    result, path = finished
    before = path.read_bytes(), (path.parent / "figures" / "layers.png").read_bytes()
    again = write_report(read_sweep(result.path), COMMAND)
    assert again == path
    assert (again.read_bytes(), (path.parent / "figures" / "layers.png").read_bytes()) == before


def test_single_seed_has_no_intervals_and_criteria_have_no_search_figures(finished, tmp_path):
    result, _ = finished
    chosen = [place for place, cell in enumerate(result.cells) if cell.method == "snip" and cell.seed == 0]
    cells, folders = ([part[i] for i in chosen] for part in (result.cells, result.folders))
    page = elsewhere(result, tmp_path, cells=cells, folders=folders, dense=result.dense[:1])
    assert page.open == []
    assert not any(caption.startswith("annealing") for caption in page.captions)
    assert not any("±" in cell for row in page.tables[0] for cell in row)
    assert "one seed, so without intervals" in "".join(page.text)
    assert "masksearch run --model lenet_300_100:0.05" in "".join(page.text)  # though no command was given


def test_early_bird_page_embeds_its_heat_maps(rounds, tmp_path):
    distances = [[0.0, 0.1, 0.2], [0.1, 0.0, 0.05], [0.2, 0.05, 0.0]]
    seen = EarlyBirdResult(0.1, False, 2, {"absolute": 2, "relative": None}, distances)
    cells = [changed(cell, early_bird=seen) for cell in rounds.cells if cell.control == "none"]
    folders = [f for f, cell in zip(rounds.folders, rounds.cells, strict=True) if cell.control == "none"]
    page = elsewhere(rounds, tmp_path, cells=cells, folders=folders)
    pictures = [value for tag, name, value in page.attributes if tag == "image" and name == "xlink:href"]
    assert pictures
    assert all(value.startswith("data:image/png;base64,") for value in pictures)
    row = table_with(page, "drawn at")[0]
    assert (row["drawn at"], row["absolute"], row["relative"]) == ("2", "2", "never")


def test_diverged_retraining_is_marked_on_the_page(tmp_path):
    sweep = SweepSettings(model="lenet_300_100:0.1", methods=("random",), sparsity=(0.5,), seeds=1)
    schedules = ScheduleSettings(retrain_lr=(1e30,))
    run = RunSettings(runs=str(tmp_path), device="cpu", threads=1, latency_seconds=0.002)
    result = run_sweep(Settings(sweep, TrainSettings(epochs=1), schedules, run=run))
    assert result.cells[0].trained.diverged
    assert "diverged: 1 of 1" in write_report(result).read_text()


def test_sentence_explains_why_searches_trail_criteria_of_trained_weights():
    def row(method, find_at, accuracy):
        figure = Estimate.of([accuracy])
        names = ("trained", "params", "compression", "macs", "total_macs", "speedup", "latency", "validation")
        rest = dict.fromkeys(names, figure)
        return SummaryRow(method=method, sparsity=0.9, find_at=find_at, granularity="weight", rounds=(), **rest)

    dense, search = row("dense", "–", 0.99), row("annealing", "0", 0.9)
    sentence = why_searches_trail([dense, search, row("magnitude", "end", 0.95)])
    assert "ranks trained weights (found at end)" in sentence
    assert sentence.count(".") == 1
    for other in (row("magnitude", "end", 0.8), row("snip", "0", 0.95)):
        assert why_searches_trail([dense, search, other]) == ""


def test_sentence_explains_why_searches_on_trained_weights_trail():
    def row(method, found, trained):
        names = ("trained", "validation", "params", "compression", "macs", "total_macs", "speedup", "latency")
        figures = dict.fromkeys(names, Estimate.of([trained]))
        moment = Moment(Estimate.of([found]), Estimate.of([1.0]))
        last = RoundRow(1, Estimate.of([0.1]), {"found": moment}, Estimate.of([1]))
        return SummaryRow(method=method, sparsity=0.9, find_at="end", granularity="weight", rounds=(last,), **figures)

    dense, best = row("dense", 0.99, 0.99), row("magnitude", 0.7, 0.95)
    search = row("annealing", 0.8, 0.9)
    sentence = why_searches_trail([dense, search, best])
    assert sentence.startswith(
        "annealing leads with the weights at which masks were found (accuracy 80.00, magnitude 70.00)"
    )
    assert "magnitude leads after retraining" in sentence
    assert "--objective short_training" in sentence
    repaired = replace(search, masked=Estimate.of([0.5]))
    for other in (row("annealing", 0.6, 0.9), repaired):
        assert why_searches_trail([dense, other, best]) == ""


def test_sentences_give_the_effects_of_masking_repair_and_retraining():
    def row(method, *steps, **kind):
        names = ("params", "compression", "macs", "total_macs", "speedup", "latency", "validation")
        figures = dict.fromkeys(names, Estimate.of([steps[-1]]))
        figures |= dict(zip(("masked", "untrained", "trained"), (Estimate.of([step]) for step in steps), strict=True))
        return SummaryRow(
            method=method, sparsity=0.9, find_at="end", granularity="filter", rounds=(), **figures, **kind
        )

    def pairs(repaired, retrained):
        return {"by_seed": dict(enumerate(zip(repaired, retrained, strict=True)))}

    dense = row("dense", 0.99, 0.99, 0.99)
    rows = [dense, row("taylor", 0.1, 0.4, 0.7), row("fpgm", 0.1, 0.5, 0.8, **pairs((0.45, 0.55), (0.8, 0.8)))]
    rows.append(row("annealing", 0.2, 0.6, 0.9, **pairs((0.55, 0.65), (0.9, 0.9))))
    assert what_steps_brought(rows) == [
        "Repair changes the accuracy at 90 % sparsity from 20.00 to 60.00 with annealing and from 10.00 to 50.00 with "
        "fpgm.",
        "After repair, the best search differs from the best criterion at 90 % sparsity by +10.00 (±0.00) "
        "points (annealing minus fpgm).",
        "Retraining changes the accuracy at 90 % sparsity from 60.00 to 90.00 with annealing and from 50.00 to 80.00 "
        "with fpgm; then they differ by +10.00 (±0.00) points.",
    ]
    assert what_steps_brought([*rows[:3], replace(rows[1], label="global")]) == [
        "Repair changes the accuracy at 90 % sparsity from 10.00 to 50.00 with fpgm.",
        "Retraining changes the accuracy at 90 % sparsity from 50.00 to 80.00 with fpgm.",
    ]
    heads = results_grid(rows).head
    assert heads[:5] == ["method", "sparsity", "masked %", "repaired %", "retrained %"]
    assert what_steps_brought([replace(row, masked=Estimate.of([])) for row in rows]) == []


def test_large_sweep_has_an_overview_and_a_page_for_each_method(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("masksearch.report.html_page._MOST_ROWS", 1)
    (tmp_path / "sweep.json").write_bytes((finished[0].path / "sweep.json").read_bytes())
    overview = write_report(replace(finished[0], path=tmp_path)).read_text()
    pages = {path.name for path in tmp_path.glob("report_*.html")}
    assert pages == {f"report_{cell.method}.html" for cell in finished[0].cells}
    for name in pages:
        assert f'href="{name}"' in overview
        assert "<h2>Costs</h2>" in (tmp_path / name).read_text()
    assert "<h2>Costs</h2>" not in overview
    assert "<h2>Best method at each sparsity, by validation</h2>" in overview
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + len(finished[0].cells)
