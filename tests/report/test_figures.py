"""Figures: their lines have the values of the metrics."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from changed_results import changed
from safetensors.torch import load_file

from masksearch.analysis import group_cells, summarise
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.report import sweep_drawings
from masksearch.report.figures.accuracy import accuracy_drawings
from masksearch.report.figures.accuracy_by_find_at import found_at_drawings
from masksearch.report.figures.curves_by_sparsity import trajectory_drawings
from masksearch.report.figures.drawing import few, one_sparsity
from masksearch.report.figures.early_bird_heatmaps import early_bird_drawings, early_bird_grid
from masksearch.report.figures.layer_densities import layer_drawings
from masksearch.report.figures.style import Looks
from masksearch.report.figures.weight_histograms import weight_drawings


def drawn(result):
    """All figures of a sweep by name."""
    rows = summarise(result.cells, result.dense)
    return {d.name: d for _, drawings in sweep_drawings(result, rows) for d in drawings}


def lines_of(axes, colour=None, style=None):
    return [
        line
        for line in axes.lines
        if (colour is None or line.get_color() == colour) and (style is None or line.get_linestyle() == style)
    ]


def treated(result, **wanted):
    return [
        cell
        for cell in result.cells
        if cell.control == "none" and all(getattr(cell, name) == value for name, value in wanted.items())
    ]


@pytest.mark.parametrize("side", [0, 1])
def test_accuracy_line_goes_through_the_means(finished, side):
    rows = summarise(finished[0].cells)
    looks = Looks(group_cells(finished[0].cells))
    [drawing] = accuracy_drawings(rows, looks)
    axes = drawing.figure.axes[side]
    for method in looks.methods:
        own = [row for row in rows[1:] if row.method == method]
        moments = [row.trained if side else row.untrained for row in own]
        [line] = [line for line in lines_of(axes, looks.colour(method)) if line.get_linestyle() == "-"]
        assert list(line.get_ydata()) == pytest.approx([100 * moment.mean for moment in moments])
        assert list(line.get_xdata()) == pytest.approx([50, 90], abs=0.5)
    [dense] = lines_of(drawing.figure.axes[1], style=":")
    assert dense.get_ydata()[0] == pytest.approx(100 * rows[0].trained.mean)


def test_each_method_has_a_colour_and_each_variant_a_line_style(rounds):
    groups = group_cells(rounds.cells)
    looks = Looks(groups)
    assert len({looks.colour(method) for method in looks.methods}) == len(looks.methods)
    assert len({str(looks.line(label, looks.labels[:6])) for label in looks.labels[:6]}) == 6
    assert not looks.has_line_styles  # 2 schedules, 2 moments, controls and without
    labels = [handle.get_label() for handle in looks.handles(looks.labels[:2])]
    assert labels == [*looks.methods, *looks.labels[:2]]


def test_methods_with_equal_table_colours_get_different_colours(finished):
    """Random search and SynFlow are ten places apart from one another, twice."""
    cells = [changed(cell, method=m) for cell in finished[0].cells[:1] for m in ("random_search", "synflow", "own")]
    looks = Looks(group_cells(cells))
    assert len({looks.colour(method) for method in looks.methods}) == 3


def test_each_of_many_variants_has_a_panel(rounds):
    rows = summarise(rounds.cells)
    looks = Looks(group_cells(rounds.cells))
    drawings = {d.name: d for d in accuracy_drawings(rows, looks)}
    assert set(drawings) == {"accuracy", "accuracy_untrained"}
    panels = [axes for axes in drawings["accuracy"].figure.axes if axes.get_visible()]
    assert len(panels) == len({row.variant for row in rows[1:]}) == 4
    axes = panels[0]
    for row in rows[1:]:
        if row.variant == rows[1].variant and row.sparsity == 0.5:
            heights = [line.get_ydata()[0] for line in lines_of(axes, looks.colour(row.method))]
            assert any(height == pytest.approx(100 * row.trained.mean) for height in heights)


def test_accuracy_figure_of_a_single_sparsity_has_dots(rounds):
    cells = [cell for cell in rounds.cells if cell.sparsity == 0.8]
    rows = summarise(cells)
    [drawing] = accuracy_drawings(rows, Looks(group_cells(cells)))
    axes = drawing.figure.axes[1]
    dots = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o")
    assert dots == pytest.approx(sorted(100 * row.trained.mean for row in rows[1:]))
    assert [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()] == list(
        dict.fromkeys(row.label for row in rows[1:])
    )


def test_sweep_without_masks_has_only_the_training_figure(dense_alone):
    assert list(drawn(dense_alone)) == ["training"]


def test_training_curves_are_means_over_seeds_with_consecutive_rounds(rounds):
    groups = group_cells(rounds.cells)
    looks = Looks(groups)
    drawings = list(trajectory_drawings(groups, rounds.dense, looks))
    titles = [axes.get_title() for d in drawings for axes in d.figure.axes if axes.get_title()]
    assert len(titles) == len(set(titles)) == 6  # random masks are found at one moment only
    cells = treated(rounds, method="magnitude", schedule="lottery_ticket", find_at="1ep")
    [(drawing, place)] = [
        (d, place)
        for d in drawings
        for place, axes in enumerate(d.figure.axes)
        if axes.get_title().split() == ["magnitude", "lottery", "ticket,", "2", "rounds,", "found", "at", "1ep"]
    ]
    columns = len(drawing.figure.axes) // 2
    loss, accuracy = drawing.figure.axes[place], drawing.figure.axes[place + columns]
    for axes, name, scale in ((loss, "train_loss", 1), (accuracy, "val_accuracy", 100)):
        curves = [
            line for line in axes.lines if len(line.get_xdata()) == 5 and line.get_alpha() is None
        ]  # two rounds of two epochs and a gap
        assert len(curves) == 2  # sparsities
        for line, sparsity in zip(curves, (0.5, 0.8), strict=True):
            own = [cell for cell in cells if cell.sparsity == sparsity]
            values = [[getattr(row, name) for round_ in cell.rounds for row in round_.epochs] for cell in own]
            x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            assert list(x[~np.isnan(y)]) == [1, 2, 3, 4]
            assert list(y[~np.isnan(y)]) == pytest.approx(list(scale * np.mean(values, axis=0)))
        [dense] = lines_of(axes, style=":")
        expected = scale * np.mean([[getattr(row, name) for row in network.epochs] for network in rounds.dense], axis=0)
        assert list(dense.get_ydata()) == pytest.approx(list(expected))
    assert [line.get_xdata()[0] for line in loss.lines if line.get_color() == "#999999"] == [2.5]


def test_found_at_figure_shows_epochs_and_mean_accuracies(rounds):
    groups = group_cells(rounds.cells)
    [drawing] = found_at_drawings(groups, rounds.dense, Looks(groups))
    panels = [axes for axes in drawing.figure.axes if axes.get_visible()]
    assert [axes.get_title().split()[0] for axes in panels] == ["magnitude", "magnitude"]  # one-shot, lottery ticket
    for axes, schedule in zip(panels, ("one_shot", "lottery_ticket"), strict=True):
        curves = [line for line in axes.lines if line.get_marker() == "o"]
        for line, sparsity in zip(curves, (0.5, 0.8), strict=True):
            assert list(line.get_xdata()) == [1, 2]  # the end is that of the dense training's two epochs
            for height, moment in zip(line.get_ydata(), ("1ep", "end"), strict=True):
                own = treated(rounds, method="magnitude", schedule=schedule, sparsity=sparsity, find_at=moment)
                assert height == pytest.approx(100 * np.mean([cell.trained.test_accuracy for cell in own]))


def test_found_at_figure_places_best_at_the_best_epoch_of_the_dense_network(rounds):
    cells = [changed(cell, find_at="best" if cell.find_at == "end" else cell.find_at) for cell in rounds.cells]
    dense = [
        replace(network, epochs=[replace(row, val_metric=1 / row.epoch) for row in network.epochs])
        for network in rounds.dense
    ]
    groups = group_cells(cells)
    [drawing] = found_at_drawings(groups, dense, Looks(groups))
    assert list(drawing.figure.axes[0].lines[0].get_xdata()) == [1, 1]


def test_found_at_figure_leaves_out_moments_in_steps(rounds):
    cells = [changed(cell, find_at="7it" if cell.find_at == "end" else cell.find_at) for cell in rounds.cells]
    groups = group_cells(cells)
    assert list(found_at_drawings(groups, rounds.dense, Looks(groups))) == []


def watched(cells, fired=2):
    distances = [[0.0, 0.1, None], [0.1, 0.0, 0.05], [None, 0.05, 0.0]]
    seen = EarlyBirdResult(0.1, False, fired, {"absolute": fired, "relative": None}, distances)
    return [changed(cell, early_bird=seen, schedule="early_bird") for cell in cells]


def test_early_bird_heat_map_shows_distances_and_the_firing_epoch(rounds):
    cells = watched(treated(rounds, method="magnitude", schedule="one_shot", sparsity=0.5, find_at="1ep"))
    groups = group_cells(cells)
    [drawing] = early_bird_drawings(groups)
    axes = drawing.figure.axes[0]
    [image] = axes.images
    shown = np.ma.filled(image.get_array().astype(float), np.nan)
    assert shown == pytest.approx(np.array([[0, 10, np.nan], [10, 0, 5], [np.nan, 5, 0]]), nan_ok=True)
    [star] = [line for line in axes.lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 2)
    assert "magnitude, 50 %: 2 with the threshold as a share of all units, never as a share" in drawing.caption
    assert early_bird_grid(groups).rows == [("magnitude", "", "50 %", str(seed), "2", "2", "never") for seed in (0, 1)]


def test_early_bird_heat_map_without_firing_has_no_star(rounds):
    cells = watched(treated(rounds, method="magnitude", schedule="one_shot", sparsity=0.5, find_at="1ep"), None)
    [drawing] = early_bird_drawings(group_cells(cells))
    assert "mask taken at the end" in drawing.figure.axes[0].get_title()
    assert not drawing.figure.axes[0].lines


def test_found_at_figure_shows_early_bird_tickets_as_stars(rounds):
    plain = treated(rounds, method="magnitude", schedule="one_shot", sparsity=0.5)
    early = watched([cell for cell in plain if cell.find_at == "1ep"])
    groups = group_cells([*plain, *early])
    [drawing] = found_at_drawings(groups, rounds.dense, Looks(groups))
    [star] = [line for line in drawing.figure.axes[0].lines if line.get_marker() == "*"]
    assert star.get_xdata()[0] == 1
    assert star.get_ydata()[0] == pytest.approx(100 * np.mean([cell.trained.test_accuracy for cell in early]))


def test_layer_figure_shows_densities_weights_and_macs(finished):
    groups = group_cells(finished[0].cells)
    looks = Looks(groups)
    [drawing] = layer_drawings(groups, looks)
    density, weights, macs = drawing.figure.axes[:3]
    layers = finished[0].cells[0].layers
    assert [text.get_text() for text in density.get_yticklabels()] == list(layers)
    assert one_sparsity(groups) == 0.9
    own = [cell.layers for cell in treated(finished[0], method="snip", sparsity=0.9)]
    left = {
        key: [np.mean([getattr(one[name], key) for one in own]) for name in layers]
        for key in ("weights_left", "macs_left")
    }
    for axes, expected in (
        (density, [100 * n / layers[name].weights for n, name in zip(left["weights_left"], layers, strict=True)]),
        (weights, left["weights_left"]),
        (macs, left["macs_left"]),
    ):
        [line] = lines_of(axes, looks.colour("snip"))
        assert list(line.get_xdata()) == pytest.approx(expected)
    assert list(macs.lines[0].get_xdata()) == [layer.macs for layer in layers.values()]  # the dense network


def test_weight_histograms_show_kept_weights_before_and_after_retraining(finished):
    result, _ = finished
    groups = group_cells(result.cells)
    looks = Looks(groups)
    [drawing] = weight_drawings(result, groups, looks)
    assert [axes.get_title() for axes in drawing.figure.axes] == [looks.name(method) for method in looks.methods]
    assert "90 % sparsity, seed 0" in drawing.caption
    place = looks.methods.index("snip")
    axes = drawing.figure.axes[place]
    layers = list(result.cells[0].layers)
    assert len(axes.collections) == len(axes.lines) == len(layers)  # filled, and as a line
    [group] = [group for group in groups if (group.method, group.sparsity) == ("snip", 0.9)]
    trained = load_file(result.folders[group.places[0]] / "retrained.safetensors")["fc1.weight"]
    kept = trained[trained != 0].numpy()
    [home] = [path for path in (result.path.parent / "dense").iterdir() if "seed0" in path.name]
    found = load_file(home / "init.safetensors")["fc1.weight"][trained != 0].numpy()
    line = axes.lines[0]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    x, y = x[1:-1], y[1:-1]  # the outline goes on to the edges
    width = x[1] - x[0]
    edges = np.append(x - width / 2, x[-1] + width / 2)
    counts = np.histogram(found, edges)[0]
    assert (-y / -y.min()).round(2) == pytest.approx((counts / counts.max()).round(2), abs=0.011)
    filled = np.unique(axes.collections[0].get_paths()[0].vertices[:, 0].round(6))
    assert len(kept) == len(found)
    assert len(filled) == len(x) + 2
    cells = json.loads(axes.collections[0].get_gid().removeprefix("cells:"))
    now, before = np.histogram(kept, edges)[0], counts
    assert cells["rows"] == ["fc1, weights near"]
    assert [float(text) for text in cells["columns"]] == pytest.approx(list(x), rel=0.05)
    for text, one, other in zip(cells["values"][0], now, before, strict=True):
        shares = [float(number) for number in re.findall(r"[0-9.e+-]+(?= %)", text)]
        assert shares == pytest.approx([100 * one / len(kept), 100 * other / len(kept)], rel=0.06, abs=1e-9)


def test_few_keeps_the_first_variants_of_every_method(rounds):
    groups = group_cells(rounds.cells)
    assert len(few(groups, 100)) == 6
    chosen = few(groups, 3)
    assert {method for method, _ in chosen} == {"magnitude", "random"}
    assert not any("shuffled" in way for _, way in few(groups, 100))


def test_figures_of_many_cells_stay_small(rounds):
    """Copies of the cells at eight times as many sparsities: the size of the figures stays bounded."""
    cells, folders = [], []
    for copy in range(8):
        cells += [changed(cell, sparsity=cell.sparsity + 0.01 * copy) for cell in rounds.cells]
        folders += rounds.folders
    many = type(rounds)(rounds.path, rounds.settings, rounds.machine, cells, folders, rounds.dense)
    assert len(cells) >= 190
    assert sum(len(drawing.svg()) for drawing in drawn(many).values()) < 2_000_000


def test_png_of_a_figure_is_reproducible(finished):
    drawing = drawn(finished[0])["layers"]
    content = drawing.png()
    assert content.startswith(b"\x89PNG")
    assert content == drawing.png() == drawn(finished[0])["layers"].png()
    assert len(drawing.png(50)) < len(content)
