"""Every schedule in small sweeps: masks are nested, densities exact, pruned weights zero, metrics match weights."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from small_sweeps import MLP, CellFiles, cells_of, same, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.criteria import select
from masksearch.experiment import run_sweep
from masksearch.experiment.cell_results import DenseResult
from masksearch.schedules import SCHEDULES, round_densities
from masksearch.spaces import FilterSpace
from masksearch.training import evaluate
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json

RANK_AGAIN = [name for name, row in SCHEDULES.items() if row.has_own_moment]
REGROW = [name for name, row in SCHEDULES.items() if row.changes in ("set", "rigl")]
IN_ROUNDS = [name for name, row in SCHEDULES.items() if row.rounds > 1]
WHOLE = "tiny_residual"

POINTS = {
    "weights of a criterion": (list(SCHEDULES), {"methods": ["magnitude"]}),
    "weights of a search": ([s for s in SCHEDULES if s not in RANK_AGAIN], {"methods": ["annealing"]}),
    "filters of a criterion": (
        [s for s in SCHEDULES if s not in REGROW],
        {"methods": ["bn_scale"], "granularity": "filter", "scope": "layerwise"},
    ),
    "filters of a search": (
        [s for s in SCHEDULES if s not in (*RANK_AGAIN, *REGROW)],
        {"methods": ["random_search"], "granularity": "filter", "on_empty": "keep_one"},
    ),
}
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "lr": 0.01, "weight_decay": 1e-2},
}
CASES = [("sgd", point, schedule) for point, (schedules, _) in POINTS.items() for schedule in schedules]
ADAM = ["iterative", "lottery_ticket", "gradual", "rigl"]
CASES += [("adam", "weights of a criterion", schedule) for schedule in ADAM]
ROUNDS, DENSITY = 2, 0.36


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All cells of the table, by optimiser, kind of point and schedule; a sweep for each optimiser."""
    cells = {}
    for optimizer, how in OPTIMIZERS.items():
        folder = tmp_path_factory.mktemp(optimizer)
        points = [point for point in POINTS if any(case[:2] == (optimizer, point) for case in CASES)]
        common = how | {"model": WHOLE, "sparsity": [1 - DENSITY], "rounds": [ROUNDS], "retrain_epochs": 2}
        keys = [case for case in CASES if case[0] == optimizer]
        parts = [
            settings_in(folder, **common, **POINTS[point][1], schedule=[case[2] for case in keys if case[1] == point])
            for point in points
        ]
        cells |= dict(zip(keys, cells_of(run_sweep(parts)), strict=True))
    return cells


@pytest.fixture(params=CASES, ids=lambda case: " ".join(case))
def cell(request, finished):
    return finished[request.param]


def test_metrics_match_the_files_of_every_round(cell):
    metrics = cell.metrics
    row, rounds = SCHEDULES[metrics.schedule], metrics.rounds
    assert len(rounds) == metrics.n_rounds == (ROUNDS if row.rounds > 1 else 1)
    assert [one.number for one in rounds] == list(range(1, len(rounds) + 1))
    assert metrics.last is rounds[-1]
    epochs = [epoch.seconds for one in rounds for epoch in one.epochs]
    assert metrics.retrain_seconds == pytest.approx(sum(epochs))
    assert {place.name for place in cell.folder.glob("round*")} == {place.name for place in cell.places[:-1]}
    for one, mask in zip(rounds, cell.masks, strict=True):
        assert one.mask.kept == mask.n_kept
        assert one.mask.density == mask.density
        assert one.mask.densities == mask.densities()
        assert one.mask.empty_layers == mask.empty_layers()
    trains = [bool(one.epochs) for one in rounds]
    assert trains == [row.trains_between] * (len(rounds) - 1) + [True]
    assert all(len(one.epochs) in (0, 2) for one in rounds)
    assert not list(cell.folder.rglob("retraining.safetensors"))


def test_masks_are_nested_and_keep_exact_density(cell):
    space = cell.space
    for mask, density in zip(cell.masks, round_densities(DENSITY, len(cell.masks)), strict=True):
        assert mask.n_kept == space.count(density)
        if cell.settings.get("scope") == "layerwise":
            assert list(mask.kept_per_layer().values()) == space.quotas(density)
    for before, after in pairwise(cell.masks):
        assert not (after.bits & ~before.bits).any()


def test_pruned_weights_stay_exactly_zero_after_every_training(cell):
    for mask, place, whole in zip(cell.masks, cell.places, cell.trained, strict=True):
        saved = cell.raw(place)
        keep = cell.space.parameter_masks(mask)
        if isinstance(cell.space, FilterSpace):
            assert mask.empty_layers() == []
            assert all(saved[name].numel() == int(bits.sum()) for name, bits in keep.items())  # removed, not zeroed
        for name, bits in keep.items():
            assert (whole[name][~bits] == 0).all()
            assert bits.ndim == 1 or (whole[name][bits] != 0).any()


def test_recorded_accuracies_match_the_saved_weights(cell):
    metrics, data = cell.metrics, small_data()
    known = cell.moment(metrics.find_at)
    rounds = zip(metrics.rounds, cell.places, cell.masks, cell.trained, strict=True)
    for one, place, mask, trained in rounds:
        moments = {
            "found": known,
            "untrained": {"0": cell.moment("0"), "none": known}[metrics.rewind_to],
            "best_dense": cell.moment("best"),
            "trained": trained,
        }
        for moment, weights in moments.items():
            seen = evaluate(cell.build(cell.masked(weights, mask)), data.test)
            noted = getattr(one, moment)
            assert getattr(one, moment).test_accuracy == pytest.approx(
                seen.accuracy, abs=1.5 / len(data.test.labels)
            ), moment
            assert noted.test_loss == pytest.approx(seen.loss, rel=1e-4), moment
        if one.epochs:
            known = trained
            assert one.trained.val_accuracy == one.epochs[-1].val_accuracy
        else:
            assert same(cell.raw(place), cell.drawn(moments["untrained"], mask))


def test_every_schedule_is_tested(finished):
    assert {schedule for _, _, schedule in finished} == set(SCHEDULES)
    moments = {cell.metrics.rounds[-1].found.test_loss for cell in finished.values()}
    assert len(moments) > 20  # the tests above compare different things


def test_schedules_without_the_network_slimming_term_share_a_dense_network(finished):
    folders = {key: cell.dense for key, cell in finished.items() if key[0] == "sgd"}
    assert len({folder for (_, _, name), folder in folders.items() if name != "network_slimming"}) == 1
    [slimmed] = {folder for (_, _, name), folder in folders.items() if name == "network_slimming"}
    assert read_json(slimmed / "settings.json")["identity"]["training"]["bn_l1"] == 1e-4
    plain = next(iter(folders.values()))
    assert not same(load_tensors(slimmed / "dense.safetensors")[0], load_tensors(plain / "dense.safetensors")[0])


@pytest.mark.parametrize("schedule", [name for name in IN_ROUNDS if SCHEDULES[name].trains_between])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_three_rounds_of_seventy_percent_keep_two_point_seven_percent_of_lenet(schedule, scope, tmp_path):
    """The published prune-and-fine-tune: every round removes p of what is alive, in every layer if it ranks there."""
    [cell] = sweep_in(
        tmp_path, schedule=[schedule], rounds=[3], sparsity=[0.973], scope=scope, retrain_epochs=1, between_epochs=0
    )
    n = cell.space.n_units
    alive = [n, *(mask.n_kept for mask in cell.masks)]
    assert alive[1:] == [round(0.3 * n), round(0.09 * n), round(0.027 * n)]
    for before, after in pairwise(alive):
        assert abs(before - after - 0.7 * before) <= 1
    if scope == "layerwise":
        for layer in cell.space.layers:
            left = [layer.size, *(mask.kept_per_layer()[layer.name] for mask in cell.masks)]
            for before, after in pairwise(left):
                assert abs(before - after - 0.7 * before) <= 1.3  # a share of a unit is rounded before and after


@pytest.mark.parametrize("method", ["random", "magnitude", "mag_sign"])
def test_multi_shot_equals_one_shot_for_criteria_with_constant_ranks(method, tmp_path):
    one, many = sweep_in(
        tmp_path, methods=[method], schedule=["one_shot", "multi_shot"], rounds=[5], rewind_to=["0"], save_at=["1ep"]
    )
    assert len(many.masks) == 5
    assert one.mask == many.mask
    assert same(one.raw(), many.raw())
    assert [len(row.epochs) for row in many.metrics.rounds] == [0, 0, 0, 0, 2]
    assert len(list(many.folder.rglob("retrained_1ep.safetensors"))) == 1


def test_multi_shot_ranks_again_in_every_round(tmp_path):
    """SNIP's gradients are those of the network that earlier rounds have left (de Jorge et al. 2021)."""
    one, many = sweep_in(tmp_path, methods=["snip"], schedule=["one_shot", "multi_shot"], rounds=[3])
    assert one.mask != many.mask
    assert one.mask.n_kept == many.mask.n_kept


def test_each_round_ranks_the_weights_of_the_previous_training(tmp_path):
    [cell] = sweep_in(tmp_path, schedule=["iterative"], rounds=[3], sparsity=[0.875])
    found_at = [cell.moment("end"), *cell.trained[:-1]]
    alive = None
    for weights, mask, density in zip(found_at, cell.masks, [0.5, 0.25, 0.125], strict=True):
        assert mask == select("magnitude", cell.build(weights), cell.space, density=density, alive=alive)
        alive = mask


def test_iterative_with_a_single_round_equals_one_shot(tmp_path):
    one, rounds = sweep_in(
        tmp_path, methods=["magnitude"], schedule=["one_shot", "iterative"], rounds=[1], rewind_to=["none"]
    )
    assert one.mask == rounds.mask
    assert same(one.raw(), rounds.raw())


def test_zero_rounds_train_only_the_dense_networks(tmp_path):
    result = run_sweep(settings_in(tmp_path, rounds=[0], seeds=2, save_at=["1ep"], control=["shuffle"]))
    assert (result.cells, result.folders) == ([], [])
    assert [metrics.seed for metrics in result.dense] == [0, 1]
    assert len(result.dense[0].epochs) == 2
    folders = sorted((tmp_path / "runs" / "dense").iterdir())
    assert len(folders) == 2
    for folder, metrics in zip(folders, result.dense, strict=True):
        weights = load_tensors(folder / "dense.safetensors")[0]
        probe = CellFiles(folder, SimpleNamespace(seed=metrics.seed, granularity="weight"))
        probe.__dict__["settings"] = {"sweep": {"model": MLP}}
        assert evaluate(probe.build(weights), small_data().test).accuracy == metrics.test_accuracy
        assert (folder / "weights_1ep.safetensors").exists()
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    assert run_sweep(settings_in(tmp_path, rounds=[0], seeds=2, save_at=["1ep"])).dense == result.dense
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))] == before
    run_sweep(settings_in(tmp_path, rounds=[0], seeds=2, save_at=["3it"]))  # a moment that was not kept
    assert all((folder / "weights_3it.safetensors").exists() for folder in folders)


def test_zero_rounds_train_the_dense_network_of_each_schedule(tmp_path):
    result = run_sweep(settings_in(tmp_path, model=WHOLE, rounds=[0], schedule=["network_slimming", "early_bird"]))
    trainings = [
        read_json(folder / "settings.json")["identity"]["training"]
        for folder in (tmp_path / "runs" / "dense").iterdir()
    ]
    assert sorted(training.get("bn_l1", 0.0) for training in trainings) == [0.0, 1e-4]
    assert len(result.dense) == 2


def test_layer_sparsity_gives_layers_their_exact_density(tmp_path):
    methods = ["magnitude", "snip", "random", "edge_popup"]
    cells = sweep_in(tmp_path, methods=methods, layer_sparsity=["fc1=0.9", "fc3=0"], sparsity=[0.5], retrain_epochs=0)
    for cell in cells:
        sizes = {layer.name: layer.size for layer in cell.space.layers}
        kept = cell.mask.kept_per_layer()
        assert kept == {"fc1": round(0.1 * sizes["fc1"]), "fc2": sizes["fc2"] // 2, "fc3": sizes["fc3"]}
    assert len({cell.mask for cell in cells}) == len(methods)


def test_layer_sparsity_is_reached_by_equal_shares_in_every_round(tmp_path):
    [cell] = sweep_in(
        tmp_path,
        methods=["random"],
        schedule=["multi_shot"],
        rounds=[2],
        layer_sparsity=["fc1=0.91"],
        sparsity=[0.36],
        retrain_epochs=0,
    )
    sizes = {layer.name: layer.size for layer in cell.space.layers}
    for mask, shares in zip(cell.masks, ({"fc1": 0.3}, {"fc1": 0.09}), strict=True):
        rest = 0.8 if shares["fc1"] == 0.3 else 0.64
        for name, kept in mask.kept_per_layer().items():
            assert abs(kept - shares.get(name, rest) * sizes[name]) < 1


BAD = {
    "unknown layer": ({"layer_sparsity": ["fc9=0.5"]}, "unknown layer in density 'fc9'"),
    "a layer twice": ({"layer_sparsity": ["fc1=0.5", "fc1=0.6"]}, "layer_sparsity: fc1 fc1; each may be given once"),
    "layer_sparsity with gradual": (
        {"layer_sparsity": ["fc1=0.5"], "schedule": ["gradual"]},
        "layer_sparsity: .*gradual follows",
    ),
    "gradual without retraining": ({"schedule": ["gradual"], "retrain_epochs": 0}, "gradual prunes while it retrains"),
    "gradual without training": ({"schedule": ["gradual"], "epochs": 0}, "gradual prunes while it retrains"),
    "early_bird without training": (
        {"schedule": ["early_bird"], "epochs": 0},
        "early_bird watches the dense training, and",
    ),
    "find_at with early_bird": (
        {"schedule": ["early_bird"], "find_at": ["1ep"]},
        "find_at: 1ep; early_bird decides when masks are found",
    ),
    "moment of a method with gradual": (
        {"schedule": ["gradual"], "methods": ["snip@1ep"]},
        "find_at: 1ep; gradual decides when",
    ),
    "a moment after the end": ({"methods": ["random@3ep"]}, "3ep is longer than the training"),
    "a moment after the end in steps": (
        {"methods": ["random"], "find_at": ["99it"]},
        "99it is longer than the training",
    ),
    "save_at": ({"save_at": ["3ep"]}, "3ep is longer than the training"),
    "save_at of dense networks": ({"save_at": ["3ep"], "rounds": [0]}, "3ep is longer than the training"),
    "slimming without BatchNorm": ({"schedule": ["network_slimming"]}, "has no BatchNorm scale"),
    "slimming of a dense network without BatchNorm": (
        {"schedule": ["network_slimming"], "rounds": [0]},
        "has no BatchNorm scale",
    ),
    "bn_scale without BatchNorm": (
        {"model": "conv2:0.1", "granularity": "filter", "methods": ["bn_scale"]},
        "bn_scale: channels of layer 'conv1' pass through no BatchNorm",
    ),
    "warm start by bn_scale without BatchNorm": (
        {"model": "conv2:0.1", "granularity": "filter", "methods": ["annealing"], "warm_start": "bn_scale"},
        "bn_scale: channels of layer 'conv1' pass through no BatchNorm",
    ),
    "examples_per_class above the class size": (
        {"methods": ["optuna_tpe"], "saliencies": ["snip"], "examples_per_class": 500},
        "examples_per_class: 500; the smallest class",
    ),
    "a search of layers in rounds": (
        {"methods": ["annealing"], "schedule": ["iterative"], "layer_sparsity": ["fc1=0.5"]},
        "annealing can't hold layer_sparsity in several rounds",
    ),
    "a control of iterative pruning without rewinding": (
        {"methods": ["magnitude"], "schedule": ["iterative"], "control": ["shuffle"]},
        "control: shuffle; iterative with rewind_to none retrains",
    ),
    "a supermask in rounds": ({"methods": ["zhou"], "schedule": ["iterative"]}, "zhou learns a mask .* in one round"),
    "a search of MACs in rounds": (
        {
            "model": "conv2:0.1",
            "granularity": "filter",
            "methods": ["annealing"],
            "schedule": ["iterative"],
            "hold": "macs",
        },
        "hold: macs; in several rounds annealing",
    ),
}


@pytest.mark.parametrize(("flat", "message"), BAD.values(), ids=BAD)
def test_schedule_sweep_with_wrong_settings_raises_input_error_before_any_work(flat, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(settings_in(tmp_path, **flat))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "lottery_ticket", "gradual", "rigl"])
def test_diverged_retraining_does_not_end_the_sweep(schedule, tmp_path):
    cells = sweep_in(
        tmp_path, schedule=[schedule], retrain_lr=[1e30, 0.1], **({"rounds": [2]} if schedule in IN_ROUNDS else {})
    )
    bad, good = cells
    assert bad.metrics.trained.diverged
    assert not good.metrics.trained.diverged
    assert all(mask.n_kept == bad.space.count(d) for mask, d in zip(bad.masks[:-1], (0.5,), strict=False))
    assert torch.isfinite(torch.stack([w.sum() for w in good.raw().values()])).all()


def test_best_dense_weights_come_from_the_best_validation_epoch(tmp_path):
    """A rate so high that the last epoch is not the best."""
    [cell] = sweep_in(tmp_path, methods=["random"], sparsity=[0.2], epochs=5, lr=0.5, retrain_epochs=0)
    best, end = cell.moment("best"), cell.moment("end")
    assert not same(best, end)
    rows = DenseResult.load(cell.dense).epochs
    highest = max(rows, key=lambda row: row.val_accuracy)
    assert evaluate(cell.build(best), small_data().val).accuracy == pytest.approx(highest.val_accuracy)
    expected, other = (evaluate(cell.build(cell.masked(weights)), small_data().test).loss for weights in (best, end))
    assert cell.metrics.last.best_dense.test_loss == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("method", ["movement", "mag_sign", "lamp"])
def test_later_rounds_of_criteria_that_favour_zeroed_weights_keep_masks_nested(method, tmp_path):
    """A pruned weight has moved all the way from its initial value to zero."""
    [cell] = sweep_in(tmp_path, methods=[method], schedule=["lottery_ticket"], rounds=[2], retrain_epochs=1)
    first, second = cell.masks
    assert (first.n_kept, second.n_kept) == (cell.space.count(0.5), cell.space.count(0.25))
    assert not (second.bits & ~first.bits).any()
