"""Controls: a shuffled mask with the same weights, the same mask with others or repaired ones; nothing else changes."""

import pytest
import torch
from small_sweeps import BegunCells, same, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.analysis.similarity_and_orthogonality import weights_orthogonality
from masksearch.experiment import grid, run_sweep
from masksearch.models import build_model
from masksearch.pruning.physical import load_pruned

POINTS = {
    "weights of a criterion": {"methods": ["magnitude"]},
    "weights of a search": {"methods": ["annealing"]},
    "weights of a supermask": {"methods": ["edge_popup"]},
    "filters of a criterion": {
        "methods": ["filter_l1"],
        "granularity": "filter",
        "scope": "layerwise",
        "model": "tiny_residual",
    },
    "filters of a search": {
        "methods": ["random_search"],
        "granularity": "filter",
        "on_empty": "keep_one",
        "model": "tiny_residual",
    },
}
ROUNDS = {name: point | {"schedule": ["lottery_ticket"], "rounds": [2]} for name, point in POINTS.items()}
ROUNDS = {f"{name} in rounds": point for name, point in ROUNDS.items() if "supermask" not in name}


def start(cell):
    """The weights that training started from: what it ends with where there is no training."""
    return cell.raw()


@pytest.mark.parametrize("point", [*POINTS.values(), *ROUNDS.values()], ids=[*POINTS, *ROUNDS])
def test_each_control_changes_only_its_own_factor(point, tmp_path):
    flat = point | {"control": ["shuffle", "reinit"], "rewind_to": ["1ep"], "retrain_epochs": 0, "sparsity": [0.64]}
    treated, shuffled, fresh = sweep_in(tmp_path, **flat)
    assert [cell.metrics.control for cell in (treated, shuffled, fresh)] == ["none", "shuffle", "reinit"]
    rewound = treated.moment("1ep")
    assert same(start(treated), treated.drawn(rewound))

    assert shuffled.mask != treated.mask
    assert shuffled.mask.kept_per_layer() == treated.mask.kept_per_layer()
    assert same(start(shuffled), shuffled.drawn(rewound))

    assert fresh.mask == treated.mask
    assert not same(start(fresh), start(treated))
    for weights in (rewound, treated.moment("0"), treated.moment("end")):
        assert not same(start(fresh), fresh.drawn(weights))
    layer = max(start(fresh), key=lambda name: start(fresh)[name].numel())
    mine, theirs = (start(cell)[layer].flatten().double() for cell in (fresh, treated))
    assert abs(torch.corrcoef(torch.stack([mine, theirs]))[0, 1]) < 0.9  # the zeros of weight masks go together

    for control in (shuffled, fresh):
        assert len(control.metrics.rounds) == 1  # its mask is there already
        assert control.metrics.scorings == 0
        assert not (control.folder / "history.jsonl").exists()
        assert control.dense == treated.dense


def test_reinit_weights_depend_on_the_seed_and_not_on_the_method(tmp_path):
    cells = sweep_in(
        tmp_path,
        model="tiny_residual",
        granularity="filter",
        methods=["random", "filter_l1"],
        scope="layerwise",
        control=["reinit"],
        retrain_epochs=0,
        seeds=2,
    )
    biases = {}
    for cell in cells:
        if cell.metrics.control == "reinit":
            biases.setdefault(cell.metrics.seed, []).append(cell.raw()["fc.bias"])  # no mask touches it
    assert [len(group) for group in biases.values()] == [2, 2]
    assert all(torch.equal(*group) for group in biases.values())
    assert not torch.equal(biases[0][0], biases[1][0])
    for seed in (0, 1):
        assert not torch.equal(biases[seed][0], build_model("tiny_residual", small_data(), seed=seed).fc.bias)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_control_trains_with_the_same_epochs_and_learning_rates_as_its_treated_cell(granularity, tmp_path):
    flat = {"granularity": granularity, "methods": ["random"], "model": "tiny_residual", "on_empty": "keep_one"}
    treated, shuffled, fresh = sweep_in(
        tmp_path,
        **flat,
        control=["shuffle", "reinit"],
        rewind_to=["0"],
        lr_schedule="multistep",
        milestones=[1],
        weight_decay=1e-2,
    )
    rates = [[(row.epoch, row.lr) for row in cell.metrics.epochs] for cell in (treated, shuffled, fresh)]
    assert rates == [[(1, 0.1), (2, pytest.approx(0.01))]] * 3
    for cell in (treated, shuffled, fresh):
        gone = cell.space.parameter_masks(cell.mask)
        assert all((cell.trained[0][name][~keep] == 0).all() for name, keep in gone.items())
        if granularity == "filter":
            small = load_pruned(cell.folder / "pruned", cell.build())
            assert same(small.state_dict(), cell.raw())


def test_reinit_control_restarts_the_learning_rate_schedule(tmp_path):
    treated, fresh = sweep_in(tmp_path, control=["reinit"], rewind_to=["none"], lr_schedule="multistep", milestones=[1])
    assert [row.epoch for row in treated.metrics.epochs] == [3, 4]
    assert [row.epoch for row in fresh.metrics.epochs] == [1, 2]


@pytest.mark.parametrize("schedule", ["set", "rigl", "gradual", "early_bird"])
def test_controls_use_the_final_mask_of_the_schedule(schedule, tmp_path):
    treated, shuffled, fresh = sweep_in(
        tmp_path, schedule=[schedule], control=["shuffle", "reinit"], epochs=2, update_every=1
    )
    assert fresh.mask == treated.mask
    assert shuffled.mask.kept_per_layer() == treated.mask.kept_per_layer()
    assert shuffled.mask != treated.mask
    assert treated.mask.n_kept == treated.space.count(0.25)
    for cell in (shuffled, fresh):
        keep = cell.space.parameter_masks(cell.mask)
        assert all((cell.raw()[name][~bits] == 0).all() for name, bits in keep.items())


def test_controls_are_separate_cells_after_their_treated_cell(tmp_path):
    settings = settings_in(tmp_path, methods=["random", "magnitude"], control=["reinit", "shuffle"], seeds=2)
    cells = grid(settings)
    assert [cell.control for cell in cells] == ["none", "reinit", "shuffle"] * 4
    assert len({cell.folder for cell in cells}) == 12
    assert all(cell.treated in cells[: cells.index(cell)] for cell in cells if cell.control != "none")


def test_control_added_later_reuses_the_finished_treated_cell(tmp_path):
    run_sweep(settings_in(tmp_path, methods=["random"]))
    log = BegunCells()
    run_sweep(settings_in(tmp_path, methods=["random"], control=["shuffle"]), log)
    assert [cell.control for cell in log.begun] == ["shuffle"]


@pytest.mark.parametrize(
    "point", [POINTS["weights of a criterion"], POINTS["filters of a search"]], ids=["weights", "filters"]
)
def test_repair_control_keeps_the_mask_and_makes_weights_more_orthonormal(point, tmp_path):
    flat = point | {"control": ["repair"], "rewind_to": ["1ep"], "retrain_epochs": 0, "sparsity": [0.64]}
    treated, repaired = sweep_in(tmp_path, **flat)
    assert repaired.mask == treated.mask
    assert repaired.metrics.control == "repair"
    weights = [
        [tensor for name, tensor in start(cell).items() if name.endswith("weight") and tensor.ndim > 1]
        for cell in (treated, repaired)
    ]
    before, after = map(weights_orthogonality, weights)
    assert after < 0.9 * before
    kept = [[tensor != 0 for tensor in cell] for cell in weights]
    assert all(map(torch.equal, *kept))


def test_repair_control_trains_for_the_same_epochs_and_keeps_pruned_weights_zero(tmp_path):
    treated, repaired = sweep_in(tmp_path, methods=["magnitude"], control=["repair"], rewind_to=["0"])
    assert len(repaired.metrics.epochs) == len(treated.metrics.epochs) == 2
    keep = repaired.space.parameter_masks(repaired.mask)
    assert all((repaired.raw()[name][~bits] == 0).all() for name, bits in keep.items())
    assert not same(repaired.raw(), treated.raw())
