"""Retraining of tickets: their initial weights, their learning rates in every epoch, and the choice of the rate."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from small_sweeps import same, settings_in, small_data, small_world, sweep_in  # noqa: F401

from masksearch.analysis.seed_groups import best_rates
from masksearch.experiment import run_sweep
from masksearch.experiment.cell_results import DenseResult
from masksearch.experiment.result_parts import Metric
from masksearch.models import build_model
from masksearch.spaces import filter_space
from masksearch.utils.files import load_tensors
from masksearch.utils.seeds import derive

REWINDS = ["0", "1ep", "5it", "best", "best:1ep", "end", "none", "lr", "random"]
FRESH = derive(0, "fresh weights")


def fresh(model):
    return build_model(model, small_data(), seed=FRESH).state_dict()


def start_of(cell, rewind):
    """The weights that a one-shot ticket starts from."""
    if rewind == "random":
        return fresh(cell.settings["sweep"]["model"])
    return cell.moment(cell.metrics.find_at if rewind in ("none", "lr") else rewind.replace(":", "_"))


@pytest.mark.parametrize(
    "point",
    [
        {"methods": ["magnitude"]},
        {"methods": ["random_search"]},
        {"methods": ["filter_l1"], "granularity": "filter", "scope": "layerwise", "model": "tiny_residual"},
    ],
    ids=["criterion", "search", "filters"],
)
def test_ticket_without_retraining_has_the_rewound_weights_under_its_mask(point, tmp_path):
    cells = sweep_in(tmp_path, **point, rewind_to=REWINDS, retrain_epochs=0)
    assert [cell.metrics.rewind_to for cell in cells] == REWINDS
    assert len({cell.mask for cell in cells}) == 1
    for cell, rewind in zip(cells, REWINDS, strict=True):
        assert same(cell.raw(), cell.drawn(start_of(cell, rewind))), rewind
        assert cell.metrics.trained.test_loss == cell.metrics.untrained.test_loss
        assert cell.metrics.epochs == []


@pytest.mark.parametrize("rewind", ["0", "1ep", "5it", "best", "random"])
def test_every_lottery_ticket_round_starts_from_the_same_weights(rewind, tmp_path):
    [cell] = sweep_in(
        tmp_path, schedule=["lottery_ticket"], rounds=[3], rewind_to=[rewind], between_epochs=1, retrain_epochs=0
    )
    start = start_of(cell, rewind)
    assert same(cell.raw(), cell.drawn(start))  # though two rounds were trained before it
    for one, mask in zip(cell.metrics.rounds, cell.masks, strict=True):
        assert len(one.epochs) == (one.number < 3)
        images, labels = small_data().test.images, small_data().test.labels
        with torch.no_grad():
            right = (cell.build(cell.drawn(start, mask))(images).argmax(1) == labels).float().mean()
        assert one.untrained.test_accuracy == pytest.approx(float(right))
    assert not same(cell.trained[0], cell.drawn(start, cell.masks[0]))


@pytest.mark.parametrize("rewind", ["none", "lr"])
def test_later_rounds_continue_from_the_weights_of_the_previous_round(rewind, tmp_path):
    point = {"methods": ["filter_l1"], "granularity": "filter", "scope": "layerwise", "model": "tiny_residual"}
    for name, more in {"weights": {}, "filters": point}.items():
        [cell] = sweep_in(
            tmp_path / name,
            **more,
            schedule=["iterative"],
            rounds=[2],
            rewind_to=[rewind],
            between_epochs=1,
            retrain_epochs=0,
        )
        assert same(cell.raw(), cell.drawn(cell.trained[0]))


def test_rewinding_restores_the_statistics_of_batch_norm(tmp_path):
    """The residual network of the models' table, with filters removed and BatchNorm all over."""
    [cell] = sweep_in(
        tmp_path,
        model="resnet20:0.25",
        granularity="filter",
        methods=["random"],
        sparsity=[0.4],
        schedule=["lottery_ticket"],
        rounds=[2],
        rewind_to=["3it"],
        epochs=1,
        between_epochs=1,
        retrain_epochs=0,
        train_examples=150,
    )
    rewound, trained = cell.moment("3it"), cell.trained[0]
    assert cell.space.fingerprint == filter_space(cell.build(), small_data().test.images[:1]).fingerprint
    saved, expected = cell.raw(), cell.drawn(rewound)
    assert same(saved, expected)
    statistics = [name for name in saved if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 2 * sum(name.endswith("num_batches_tracked") for name in saved) > 30
    for name in statistics:
        assert not torch.equal(rewound[name], cell.moment("0")[name])
        assert not torch.equal(rewound[name], trained[name])
    assert {int(saved[name]) for name in saved if name.endswith("num_batches_tracked")} == {3}


MULTISTEP = {"epochs": 4, "lr": 0.1, "lr_schedule": "multistep", "milestones": [2, 3]}  # .1 .1 .01 .001
A, B, C = 0.1, 0.01, 0.001
ANEW = {"0": "all", "3it": "all", "best": "all", "best:2ep": "all", "lr": "all", "random": "all"}


def rates(row):
    return [(epoch.epoch, epoch.lr) for epoch in row.epochs]


def numbered(first, *values):
    return [(number, pytest.approx(value)) for number, value in enumerate(values, start=first)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            None,
            {
                **dict.fromkeys(ANEW, numbered(1, A, A, B, C)),
                "1ep": numbered(2, A, B, C),
                "6it": numbered(2, A, B, C),  # within the second epoch
                "3ep": numbered(4, C),
                "end": numbered(5, C, C, C, C),
                "none": numbered(5, C, C, C, C),
            },
        ),
        (
            2,
            {
                **dict.fromkeys(ANEW, numbered(1, A, A)),
                "1ep": numbered(2, A, B),
                "6it": numbered(2, A, B),
                "3ep": numbered(4, C, C),
                "end": numbered(5, C, C),
                "none": numbered(5, C, C),
            },
        ),
        (
            6,
            {
                **dict.fromkeys(ANEW, numbered(1, A, A, B, C, C, C)),
                "1ep": numbered(2, A, B, C, C, C, C),
                "6it": numbered(2, A, B, C, C, C, C),
                "3ep": numbered(4, C, C, C, C, C, C),
                "end": numbered(5, C, C, C, C, C, C),
                "none": numbered(5, C, C, C, C, C, C),
            },
        ),
    ],
    ids=["remaining epochs", "two epochs", "six epochs"],
)
def test_learning_rates_follow_the_rewinding_moment(asked, expected, tmp_path):
    more = {} if asked is None else {"retrain_epochs": asked}
    cells = sweep_in(tmp_path, **MULTISTEP, **more, rewind_to=list(expected))
    assert [cell.metrics.rewind_to for cell in cells] == list(expected)
    for cell in cells:
        assert rates(cell.metrics) == expected[cell.metrics.rewind_to], cell.label


def test_learning_rates_in_rounds_follow_the_rewinding_moment(tmp_path):
    cells = sweep_in(
        tmp_path, **MULTISTEP, methods=["snip"], schedule=["iterative"], rounds=[2], rewind_to=["none", "lr", "1ep"]
    )
    expected = [
        [numbered(1, A, A, B, C), numbered(5, C, C, C, C)],  # found at the start: training goes on from there
        [numbered(1, A, A, B, C)] * 2,
        [numbered(2, A, B, C)] * 2,
    ]
    assert [[rates(row) for row in cell.metrics.rounds] for cell in cells] == expected


@pytest.mark.parametrize("schedule", [{"schedule": ["multi_shot"]}, {"schedule": ["iterative"], "between_epochs": 0}])
def test_rounds_without_training_do_not_advance_the_learning_rate_schedule(schedule, tmp_path):
    flat = MULTISTEP | {"methods": ["snip"], "rewind_to": ["none"], "rounds": [2]} | schedule
    [cell] = sweep_in(tmp_path, **flat)
    assert rates(cell.metrics) == numbered(1, A, A, B, C)  # found at the start, by both rounds


def test_training_without_rewinding_continues_the_learning_rate_schedule(tmp_path):
    cells = sweep_in(tmp_path, **MULTISTEP, rewind_to=["none"], find_at=["0", "2ep", "end", "best:3ep"])
    expected = [numbered(1, A, A, B, C), numbered(3, B, C), numbered(5, C, C, C, C), numbered(4, C)]
    assert [rates(cell.metrics) for cell in cells] == expected


def test_retrain_lr_restarts_the_learning_rate_schedule(tmp_path):
    cells = sweep_in(tmp_path, **MULTISTEP, rewind_to=["1ep", "none"], retrain_lr=[0.5])
    assert [rates(cell.metrics) for cell in cells] == [numbered(1, 0.5, 0.5, 0.05, 0.005)] * 2


def test_cosine_and_plateau_schedules_continue_in_retraining(tmp_path):
    """A cosine from the start ends with the retraining; plateau continues at its last rate."""
    cosine = sweep_in(tmp_path, epochs=4, lr_schedule="cosine", rewind_to=["0", "2ep"], retrain_epochs=2)
    assert [rates(cell.metrics) for cell in cosine] == [numbered(1, 0.1, 0.05), numbered(3, 0.05, 0.1 * 0.146446609)]
    [plateau] = sweep_in(tmp_path, epochs=4, lr=1e-12, lr_schedule="plateau", patience=0, rewind_to=["none"])
    last = DenseResult.load(plateau.dense).epochs[-1].lr
    assert last < 1e-12
    assert rates(plateau.metrics) == numbered(5, *[last] * 4)


def test_prune_finetune_fine_tunes_for_the_published_number_of_epochs(tmp_path):
    """Li et al. 2017, LeNet: three rounds, each with four epochs of fine-tuning at the last learning rate."""
    [cell] = sweep_in(tmp_path, schedule=["prune_finetune"], sparsity=[0.973])
    assert [rates(row) for row in cell.metrics.rounds] == [numbered(3, 0.1, 0.1, 0.1, 0.1)] * 3


def test_best_learning_rate_is_chosen_by_validation_per_method_and_sparsity(tmp_path):
    flat = {"methods": ["magnitude", "random"], "sparsity": [0.5, 0.9], "retrain_lr": [0.1, 1e-6, 0.02]}
    result = run_sweep(settings_in(tmp_path, **flat))
    assert len(result.cells) == 2 * 2 * 3
    assert all(cell.epochs[0].lr == cell.retrain_lr for cell in result.cells)
    kept = best_rates(result.cells)
    for method, sparsity in product(("magnitude", "random"), (0.5, 0.9)):
        own = [cell for cell in result.cells if (cell.method, cell.sparsity) == (method, sparsity)]
        best = max(own, key=lambda cell: cell.trained.val_accuracy)
        chosen = [result.cells[place] for place in kept if result.cells[place] in own]
        assert [cell.retrain_lr for cell in chosen] == [best.retrain_lr]
        assert best.retrain_lr != 1e-6


@pytest.mark.parametrize(
    ("metric", "best"), [(Metric(), [0, 3, 5]), (Metric("R2"), [0, 3, 5]), (Metric("perplexity", False), [1, 2, 5])]
)
def test_best_learning_rate_ignores_the_test_set(metric, best):
    def cell(sparsity, lr, val, test):
        trained = SimpleNamespace(val_accuracy=val, test_accuracy=test)
        return SimpleNamespace(method="a", sparsity=sparsity, retrain_lr=lr, trained=trained, metric=metric)

    cells = [
        cell(0.5, 0.1, 0.8, 0.1),
        cell(0.5, 0.2, 0.7, 0.9),
        cell(0.9, 0.1, 0.3, 0.9),
        cell(0.9, 0.2, 0.4, 0.2),
        cell(0.9, 0.3, None, 0.95),  # diverged
        cell(0.9, None, 0.1, None),
    ]
    assert best_rates(cells) == best


def test_save_at_keeps_weights_of_moments_of_the_retraining(tmp_path):
    moments = ["0", "1ep", "6it", "best", "end"]
    anew, half_way = sweep_in(tmp_path, rewind_to=["0", "1ep"], save_at=moments, epochs=3)
    names = {
        path.name.removeprefix("retrained_").removesuffix(".safetensors") for path in anew.folder.glob("retrained_*")
    }
    assert names == {"1ep", "6it", "best", "end"}  # the start is the rewound weights under the mask
    keep = anew.space.parameter_masks(anew.mask)
    for name in names:
        weights = load_tensors(anew.folder / f"retrained_{name}.safetensors")[0]
        assert all((weights[part][~bits] == 0).all() for part, bits in keep.items())
    assert same(load_tensors(anew.folder / "retrained_end.safetensors")[0], anew.raw())
    best = max(anew.metrics.epochs, key=lambda row: row.val_accuracy).epoch
    assert best == anew.metrics.trained.best_val_epoch
    for part, epochs in {"1ep": 1, "best": best}.items():
        [shorter] = sweep_in(tmp_path / part, epochs=3, retrain_epochs=epochs, rewind_to=["0"])
        assert same(load_tensors(anew.folder / f"retrained_{part}.safetensors")[0], shorter.raw())
    assert {path.name for path in half_way.folder.glob("retrained_*")} == {
        "retrained_6it.safetensors",
        "retrained_best.safetensors",
        "retrained_end.safetensors",
    }
    assert {"weights_1ep.safetensors", "weights_6it.safetensors"} <= {path.name for path in anew.dense.iterdir()}
