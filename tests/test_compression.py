"""ms.compress and ms.find_mask: reported values against independent computations, methods, amounts, input errors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import masksearch as ms
from masksearch.scoring.latency import macs_within_latency

SHORT = ms.TrainSettings(epochs=2, optimizer="adam", lr=1e-3)


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return 0.3 * torch.randn(n, 1, 8, 8, generator=generator) + labels[:, None, None, None] / 2, labels


def table(n, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 6, generator=generator)
    return inputs, (inputs[:, :1] * inputs[:, 1:2] + inputs[:, 2:3]).float()


@pytest.fixture(scope="module")
def classifier():
    data = ms.Data.from_tensors("bright", images(300, 0), images(100, 1))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip
    ms.train(model, data.train, SHORT, val=data.val)
    return model, data


@pytest.fixture(scope="module")
def regressor():
    data = ms.Data.from_tensors("products", table(400, 0), table(100, 1), task="regression")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    ms.train(model, data.train, ms.TrainSettings(epochs=30, optimizer="adam", lr=3e-3), val=data.val)
    return model, data


def conv_macs(model, side):
    """Multiply-adds of the classifier by hand: 3x3 convolutions keep the size of the image."""
    first, second, head = model[0], model[3], model[7]
    return 9 * side**2 * (first.out_channels + first.out_channels * second.out_channels) + head.weight.numel()


def accuracy(model, data):
    with torch.no_grad():
        return float((model.eval()(data.test.inputs).argmax(1) == data.test.targets).double().mean())


@pytest.mark.parametrize("share", [{"macs": 0.5}, {"params": 0.5}, {"sparsity": 0.5, "granularity": "filter"}])
def test_compress_reports_correct_values_for_smaller_networks(classifier, share):
    model, data = classifier
    before = copy.deepcopy(model.state_dict())
    result = ms.compress(model, data, train=SHORT, progress=False, **share)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.before.macs == conv_macs(model, 8)
    assert result.after.macs == result.pruned.macs == conv_macs(result.model, 8)
    assert result.after.params == sum(parameter.numel() for parameter in result.model.parameters())
    assert result.before.metric == accuracy(model, data)
    assert result.after.metric == accuracy(result.model, data)
    with torch.no_grad():
        loss = float(F.cross_entropy(result.model(data.test.inputs), data.test.targets))
    assert result.after.loss == pytest.approx(loss, rel=1e-5)
    kept = {"macs": result.after.macs / result.before.macs, "params": result.after.params / result.before.params}
    if "sparsity" in share:
        assert result.mask.density == 0.5
    else:
        [(name, value)] = share.items()
        assert value - 0.12 < kept[name] <= value
    unrepaired = ms.compress(model, data, train=False, repair=False, progress=False, **share)
    with torch.no_grad(), result.space.applied(copy.deepcopy(model).eval(), result.mask) as masked:
        outputs = masked(data.test.inputs)
    assert unrepaired.pruned.metric == float((outputs.argmax(1) == data.test.targets).double().mean())
    assert result.pruned.loss < unrepaired.pruned.loss
    assert [line.split()[0] for line in str(result).splitlines()[1:4]] == ["accuracy", "loss", "parameters"]


def test_compress_reports_correct_values_for_a_sparse_regression(regressor):
    model, data = regressor
    result = ms.compress(model, data, sparsity=0.8, train=SHORT, progress=False)
    zeros = sum(int((result.model[place].weight == 0).sum()) for place in (0, 2, 4))
    total = sum(model[place].weight.numel() for place in (0, 2, 4))
    assert zeros == total - round(0.2 * total)
    assert result.after.params == sum(int((parameter != 0).sum()) for parameter in result.model.parameters())
    assert result.before.macs == total
    assert result.after.macs == total - zeros
    targets = data.test.targets
    with torch.no_grad():
        error = (result.model(data.test.inputs) - targets).square()
    assert result.after.loss == pytest.approx(float(error.mean()), rel=1e-5)
    r2 = 1 - float(error.sum() / (targets - targets.mean()).square().sum())
    assert result.after.metric == pytest.approx(r2, rel=1e-4)
    assert (result.before.metric_name, result.history) == ("R2", None)


def test_parameter_count_of_the_dense_network_excludes_zeros(regressor):
    model, data = copy.deepcopy(regressor[0]), regressor[1]
    with torch.no_grad():
        model[2].bias.zero_()
    result = ms.compress(model, data, sparsity=0.5, train=False, progress=False)
    assert result.before.params == sum(parameter.numel() for parameter in model.parameters()) - 32


def test_search_starts_from_the_default_criterion_and_ends_no_worse(regressor):
    model, data = regressor
    magnitude = ms.find_mask(model, data, sparsity=0.8, progress=False)
    searched = ms.find_mask(model, data, sparsity=0.8, method="annealing", budget=60, progress=False)
    assert magnitude == magnitude.space.top_k(ms.criteria.magnitude(model, magnitude.space), sparsity=0.8)
    score = ms.Scorer(model, magnitude.space, data.search, "loss")
    assert score(searched).value >= score(magnitude).value
    random = ms.find_mask(
        model, data, sparsity=0.8, method=ms.searchers.Annealing(), budget=5, start="random", progress=False
    )
    assert random.hamming(magnitude) > searched.hamming(magnitude)
    result = ms.compress(model, data, sparsity=0.8, method="annealing", budget=60, train=False, progress=False)
    assert result.mask == searched
    assert len(result.history) == 60
    assert result.after == result.pruned
    restarted = ms.compress(
        model, data, sparsity=0.8, method="annealing", budget=1, start=random, train=False, progress=False
    )
    assert restarted.mask == random
    drawn = ms.compress(
        model, data, sparsity=0.8, method="annealing", budget=5, start="random", train=False, progress=False
    )
    assert drawn.mask == random


def test_search_can_score_masks_after_repair(classifier):
    model, data = classifier
    result = ms.compress(
        model, data, macs=0.5, method="annealing", objective="reconstructed", budget=6, train=False, progress=False
    )
    values = [trial.score.value for trial in result.history.trials]
    assert all(value <= 0 for value in values)
    assert result.history.best.score.value >= values[0]


class Residual(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x):
        return x + self.f(x)


@pytest.fixture(scope="module")
def residual():
    data = ms.Data.from_tensors("bright", images(300, 0), images(100, 1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *[Residual() for _ in range(4)], nn.Linear(16, 3))
    ms.train(model, data.train, SHORT, val=data.val)
    return model, data


@pytest.mark.parametrize("granularity", ["block", "union"])
@pytest.mark.parametrize("method", [None, "annealing", "taylor"])
@pytest.mark.parametrize("share", [{"macs": 0.6}, {"params": 0.7}, {"sparsity": 0.5}])
def test_compress_removes_blocks_and_unions(residual, granularity, method, share):
    model, data = residual
    fine = ms.TrainSettings(epochs=1)
    result = ms.compress(model, data, granularity=granularity, method=method, budget=10, train=fine, **share)
    example = data.test.inputs[:1]
    assert result.space.granularity == granularity
    assert result.method == (method or {"block": "block_cosine", "union": "taylor"}[granularity])
    assert (
        result.after.params
        == sum(p.numel() for p in result.model.parameters())
        == result.space.kept_params(result.mask)
    )
    assert result.after.macs == int(ms.cost.macs(result.model, example)) == result.space.kept_macs(result.mask)
    for name, most in share.items():
        hold = {"sparsity": "units"}.get(name, name)
        reached = result.space.share(result.mask, hold)
        assert reached <= most + 1e-9
        assert (f"({reached:.4g} are)" in str(result)) == (abs(reached - most) > 0.01 * most)
    assert result.before.params == sum(p.numel() for p in model.parameters())
    assert f"{granularity} mask, at most" in str(result)
    mask = ms.find_mask(model, data, granularity=granularity, method=method, budget=10, **share)
    assert mask == result.mask


def test_find_mask_reaches_a_latency_share_with_blocks(residual):
    model, data = residual
    mask = ms.find_mask(model, data, granularity="block", latency=0.9)
    assert mask.n_kept < 4


@pytest.mark.parametrize("method", [None, "annealing", "snip"])
def test_nm_compression_keeps_two_of_four_weights(residual, method):
    model, data = residual
    fine = ms.TrainSettings(epochs=1)
    result = ms.compress(model, data, granularity="nm", method=method, budget=10, train=fine)
    assert result.space.has_pattern(result.mask)
    weight = result.model[2].f[1].weight
    assert ((weight.view(-1, 4) != 0).sum(1) <= 2).all()
    assert ms.find_mask(model, data, granularity="nm", sparsity=0.5, method=method, budget=10) == result.mask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"granularity": "nm", "sparsity": 0.6}, "2:4 masks remove 0.5 of the weights"),
        ({"granularity": "nm", "macs": 0.6}, "masked weights save no macs"),
        ({"granularity": "block", "macs": 0.5, "method": "fpgm"}, "'fpgm' ranks filter units, not block"),
        ({"granularity": "union", "macs": 0.5, "method": "block_cosine"}, "ranks block units, not union"),
        (
            {"granularity": "block", "macs": 0.5, "repair": True},
            "repair: True; it is for weights and filters",
        ),
        ({"granularity": "parts", "macs": 0.5}, "granularity 'parts'"),
    ],
)
def test_compress_with_wrong_granularity_settings_raises_input_error(residual, arguments, message):
    with pytest.raises(ms.InputError, match=message):
        ms.compress(*residual, **arguments)


def test_equal_seeds_give_equal_results(classifier):
    model, data = classifier
    one, other = (ms.compress(model, data, macs=0.5, train=SHORT, seed=3, progress=False) for _ in range(2))
    assert one.mask == other.mask
    assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


def test_compress_reaches_a_latency_share(classifier):
    model, data = classifier
    result = ms.compress(model, data, latency=0.9, train=False, progress=False)
    assert result.amount.hold == "macs"
    assert result.after.macs < result.before.macs
    assert result.after.latency.device == "cpu"


@pytest.mark.parametrize(("slope", "found"), [(1.0, 0.25), (2.0, 0.125), (4.0, None)])
def test_latency_share_needs_masks_with_a_unit_in_each_layer(slope, found):
    """The latency is slope x the share of MACs, and masks begin at 10 % of the MACs."""

    def mask_at(macs):
        if macs < 0.1:
            raise ms.InputError("density: too low")
        return macs

    def share():
        return macs_within_latency(0.25, lambda macs: slope * macs, mask_at)

    if found is None:
        with pytest.raises(
            ms.InputError, match=r"latency: 0.25 .* can't be reached; .* smallest measured share is 0.4"
        ):
            share()
    else:
        assert share() == found


def test_user_training_loop_keeps_pruned_weights_zero(regressor):
    model, data = regressor

    def noisy(network, data, *, masks, epochs, seed, device):
        assert (set(masks), epochs, device.type) == ({"0.weight", "2.weight", "4.weight"}, 5, "cpu")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)

    result = ms.compress(model, data, sparsity=0.8, train_fn=noisy, progress=False)
    pruned = ~result.space.parameter_masks(result.mask)["2.weight"]
    assert (result.model[2].weight[pruned] == 0).all()
    assert (result.model[0].bias != model[0].bias).all()


def test_dense_network_is_the_teacher_when_distillation_is_set(regressor):
    model, data = regressor
    plain, taught = (
        ms.compress(
            model, data, sparsity=0.8, progress=False, train=ms.TrainSettings(epochs=2, lr=1e-3, distill=weight)
        )
        for weight in (0.0, 0.5)
    )
    assert plain.mask == taught.mask
    assert plain.after.loss != taught.after.loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one is needed, and none of them is given"),
        ({"macs": 0.5, "params": 0.5}, "macs, params is given"),
        ({"macs": 0.0}, r"macs: 0.0; allowed is a number in \(0, 1\]"),
        ({"macs": "0.5"}, r"macs: '0.5' is a str; allowed is a number in \(0, 1\]"),
        ({"macs": True}, "macs: True is a bool"),
        ({"macs": 0.001}, "macs: 0.001 of the macs is less than .*; give a higher macs"),
        ({"macs": 0.5, "device": "gpu"}, "device: 'gpu'; allowed are cpu"),
        ({"macs": 0.5, "seed": "a"}, "seed: a; allowed is a whole number"),
        ({"macs": 0.5, "method": ms.searchers.Annealing}, r"Annealing is a class; give an object, Annealing\(\)"),
        ({"sparsity": 1.0}, r"sparsity: 1.0; allowed is a number in \[0, 1\)"),
        ({"macs": 0.5, "granularity": "weight"}, "masked weights save no macs"),
        ({"macs": 0.5, "granularity": "filters"}, "did you mean 'filter'"),
        ({"macs": 0.5, "method": "magnitud"}, "did you mean 'magnitude'"),
        ({"macs": 0.5, "method": "magnitude"}, "ranks weight units, not filter; there are"),
        ({"macs": 0.5, "method": 3}, "a int; allowed is a name or a searcher"),
        ({"macs": 0.5, "budget": 0}, "budget: 0"),
        ({"macs": 0.5, "method": "annealing", "start": "rand"}, "did you mean 'random'"),
        ({"macs": 0.5, "train": False, "train_fn": print}, "leave train_fn out"),
        ({"macs": 0.5, "train": {"epochs": 1}}, r"train: .* is a dict; allowed is ms.TrainSettings"),
    ],
)
def test_compress_with_wrong_arguments_raises_input_error_before_any_work(classifier, arguments, message):
    model, data = classifier
    with pytest.raises(ms.InputError, match=message) as raised:
        ms.compress(model, data, **arguments, progress=False)
    assert "\n" not in str(raised.value)


def test_wrapped_networks_are_compressed_and_scripted_networks_raise_input_error(classifier):
    model, data = classifier
    plain, wrapped = (
        ms.compress(each, data, macs=0.5, train=False, progress=False) for each in (model, nn.DataParallel(model))
    )
    assert plain.mask == wrapped.mask
    assert plain.model.state_dict().keys() == wrapped.model.state_dict().keys()
    space = ms.weight_space(model)
    assert ms.criteria.select("magnitude", nn.DataParallel(model), space, density=0.5).density == 0.5
    with pytest.raises(ms.InputError, match="model: a ScriptModule"):
        ms.compress(torch.jit.ScriptModule(), data, macs=0.5, progress=False)


def test_resnet18_of_torchvision_keeps_half_of_its_macs():
    from torchvision.models import resnet18

    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 32, 32, generator=generator), torch.arange(64) % 4
    data = ms.Data.from_tensors("noise", (images, labels), (images[:16], labels[:16]))
    torch.manual_seed(0)
    model = resnet18(num_classes=4)
    result = ms.compress(model, data, macs=0.5, repair=False, train=False, progress=False)
    assert len([m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]) == 21
    rows = [line.split() for line in str(result).splitlines()]
    for column, (measured, network) in enumerate(((result.before, model), (result.after, result.model)), start=-2):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(data.test.inputs[:1])
        with torch.no_grad():
            outputs = network(data.test.inputs)
        accuracy = float((outputs.argmax(1) == data.test.targets).double().mean())
        loss = float(F.cross_entropy(outputs, data.test.targets))
        params, macs = sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2
        assert outputs.shape == (16, 4)
        assert (measured.metric, measured.params, measured.macs) == (accuracy, params, macs)
        assert measured.loss == pytest.approx(loss, rel=1e-5)
        assert [rows[row][column] for row in (3, 4)] == [f"{params:,}", f"{macs:,}"]
        assert [float(rows[row][column]) for row in (1, 2)] == pytest.approx([accuracy, loss], rel=1e-3)
    assert 0.45 < result.after.macs / result.before.macs <= 0.5


def test_energy_criterion_and_search_keep_the_share_of_macs(classifier):
    model, data = classifier
    options = {"macs": 0.5, "train": False, "progress": False}
    ranked = ms.compress(model, data, method="energy", **options)
    searcher = ms.searchers.EnergyAnnealing(moves=1000, states=5)
    searched = ms.compress(model, data, method=searcher, budget=10, objective="bn_recalibrated", **options)
    assert searched.method == "EnergyAnnealing"
    assert len(searched.history) == 10
    assert all(result.after.macs <= 0.5 * result.before.macs for result in (ranked, searched))
    assert searched.history.first == ranked.mask  # the search starts from greedy removal
    for method in ("energy", "energy_annealing"):
        with pytest.raises(ms.InputError, match=method):
            ms.compress(model, data, sparsity=0.5, method=method, progress=False)


def test_tuple_in_place_of_data_raises_input_error(classifier):
    with pytest.raises(ms.InputError, match=r"data: \(float32 3, float32\); allowed is a data set, made by ms\.Data"):
        ms.compress(classifier[0], (torch.zeros(8, 3), torch.zeros(8)), macs=0.5)


def test_budget_in_seconds_limits_the_search(classifier):
    model, data = classifier
    result = ms.compress(
        model, data, sparsity=0.5, method="random_search", budget=ms.Budget(10**6, 0.2), train=False, progress=False
    )
    assert 1 <= len(result.history) < 10**6
    with pytest.raises(ms.InputError, match=r"budget: 'many' is a str; allowed is a number of scorings, or ms\.Budget"):
        ms.find_mask(model, data, sparsity=0.5, method="random_search", budget="many", progress=False)


def test_result_of_a_search_that_found_nothing_better_names_its_start(classifier):
    model, data = classifier
    options = {"sparsity": 0.5, "method": "random_search", "train": False, "progress": False}
    first, later = (ms.compress(model, data, **options, budget=budget) for budget in (1, 200))
    assert first.kept_start
    assert "no better mask than the first one" in str(first)
    assert later.kept_start == (later.mask == first.mask)


def test_networks_of_other_types_than_the_data_are_refused(classifier):
    model, data = classifier
    with pytest.raises(ms.InputError, match=r"parameters of torch.float64, and inputs of data sets are float32"):
        ms.compress(copy.deepcopy(model).double(), data, macs=0.5, progress=False)
