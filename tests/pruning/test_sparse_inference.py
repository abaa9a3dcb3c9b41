"""Sparse inference: equal outputs, the choice of sparse layers by timings, break-even sparsities."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import masksearch as ms
from masksearch import cost
from masksearch.cost import Timing
from masksearch.pruning import sparse_inference as deploy
from masksearch.pruning import sparse_layer_choice
from masksearch.utils import files

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "sparse.py"


@pytest.fixture(autouse=True)
def spread(monkeypatch):
    """Replace timings by numbers of products (a sparse product costs as 20 dense ones), so that choices are repeatable.

    Tests can change the width of the intervals of times, relative to the median.
    """
    spread = {"dense": 0.1, "sparse": 0.1}

    def counted(contestants, device, seconds):
        for run in contestants.values():
            run()
        twin = contestants["sparse"].func
        times = {"dense": 1.0, "sparse": 20 * len(twin.values) / (twin.shape[0] * twin.shape[1])}
        return {
            name: Timing(time, time * (1 - spread[name]), time * (1 + spread[name]), 10) for name, time in times.items()
        }

    for module in (deploy, sparse_layer_choice):
        monkeypatch.setattr(module, "time_runs", counted)
    return spread


def thinned(layer, sparsity, seed=0):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        layer.weight[torch.rand(layer.weight.shape, generator=generator) < sparsity] = 0
    return layer


SPARSE_FORMS = {
    "linear": (nn.Linear(30, 12), (30,)),
    "linear_without_bias": (nn.Linear(30, 12, bias=False), (30,)),
    "linear_on_tokens": (nn.Linear(30, 12), (7, 30)),
    "conv1x1": (nn.Conv2d(30, 12, 1), (30, 5, 6)),
    "conv1x1_strided": (nn.Conv2d(30, 12, 1, stride=(2, 3), bias=False), (30, 5, 7)),
    "conv1x1_same": (nn.Conv2d(30, 12, 1, padding="same"), (30, 5, 6)),
    "nothing_kept": (nn.Linear(30, 12).requires_grad_(False), (30,)),
}


@pytest.mark.parametrize("form", SPARSE_FORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_sparse_form_of_a_layer_has_equal_outputs(form, n):
    layer, shape = SPARSE_FORMS[form]
    layer = thinned(copy.deepcopy(layer), 1.1 if form == "nothing_kept" else 0.8).double()
    twin = deploy._sparse_form(layer)
    x = torch.randn(n, *shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = layer(x)
        assert torch.allclose(twin(x), wanted, rtol=0, atol=1e-12)
    assert twin(x).is_contiguous()
    with torch.no_grad():
        assert torch.allclose(
            twin(x.flip(0).flip(0).transpose(-1, -2).contiguous().transpose(-1, -2)), wanted, atol=1e-12
        )


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, padding=1), nn.Conv2d(8, 8, 3), nn.Conv1d(8, 8, 1)],
)
def test_other_convolutions_have_no_sparse_form(layer):
    assert deploy._sparse_form(thinned(layer, 0.9)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_layers_have_no_sparse_form_on_a_cpu(dtype):
    assert deploy._sparse_form(thinned(nn.Linear(30, 12), 0.9).to(dtype)) is None


def test_layer_without_zeros_has_no_sparse_form():
    assert deploy._sparse_form(nn.Linear(8, 8)) is None


def test_very_sparse_layers_become_sparse_and_nearly_dense_layers_stay_dense():
    network = nn.Sequential(
        thinned(nn.Linear(1024, 1024), 0.995),
        nn.ReLU(),
        thinned(nn.Linear(1024, 512), 0.1),
        nn.ReLU(),
        nn.Linear(512, 10),
    ).train()
    x = torch.randn(64, 1024)
    before = copy.deepcopy(network.state_dict())
    deployed, choices = deploy.sparse(network, x)
    assert {choice.layer: choice.chosen for choice in choices} == {"0": "sparse", "2": "dense"}
    assert isinstance(deployed[0], deploy.SparseLinear)
    assert isinstance(deployed[2], nn.Linear)
    fast, slow = choices
    assert fast.speedup == pytest.approx(10, rel=0.1)
    assert slow.speedup == pytest.approx(1 / 18, rel=0.1)  # a slower sparse form is shown as slower
    assert slow.sparsity == pytest.approx(0.1, abs=0.01)
    assert (slow.shape, slow.rows) == ((512, 1024), 64)
    assert "SparseLinear(1024, 1024, density=0.00" in repr(deployed)
    network.eval()
    with torch.no_grad():
        for batch in (x, x[:1], torch.randn(5, 1024)):
            assert (deployed(batch) - network(batch)).abs().max() <= 1e-4 * network(batch).std()
    network.train()
    assert not deployed.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert cost.disk(deployed).dense < cost.disk(network).dense / 2


@pytest.mark.parametrize(("name", "reach"), [("dense", 0.6), ("sparse", 1.6)])
def test_layer_with_overlapping_time_intervals_stays_dense(spread, name, reach):
    layer, x = thinned(nn.Linear(300, 300), 0.98), torch.randn(4, 300)  # 0.4 against 1
    [clear] = deploy.sparse(layer, x).choices
    spread[name] = reach
    [doubtful] = deploy.sparse(layer, x).choices
    assert (clear.chosen, doubtful.chosen) == ("sparse", "dense")
    assert clear.speedup == doubtful.speedup == pytest.approx(2.5, rel=0.1)


def test_sparse_layers_are_copied_saved_and_converted_to_double(tmp_path):
    twin = nn.Sequential(deploy.SparseLinear(thinned(nn.Linear(20, 9), 0.9).weight, torch.randn(9)))
    x = torch.randn(4, 20)
    assert torch.equal(copy.deepcopy(twin)(x), twin(x))
    files.save_tensors(tmp_path / "twin.safetensors", twin.state_dict())
    tensors, _ = files.load_tensors(tmp_path / "twin.safetensors")
    other = copy.deepcopy(twin)
    other[0].values.zero_()
    other.load_state_dict(tensors)
    assert torch.equal(other(x), twin(x))
    assert torch.allclose(copy.deepcopy(twin).double()(x.double()).float(), twin(x), atol=1e-5)


def test_sparse_form_of_a_resnet_covers_1x1_convolutions_and_the_last_layer():
    model = ms.build_model("resnetb20", (3, 32, 32))
    space = ms.weight_space(model)
    space.apply(model, space.random(density=0.02, scope="layerwise", generator=torch.Generator().manual_seed(0)))
    x = torch.randn(4, 3, 32, 32)
    deployed, choices = deploy.sparse(model, x)
    sizes = {choice.layer: choice.shape[2:] for choice in choices}
    assert set(sizes.values()) == {(1, 1), ()}  # no 3x3 convolution, and the last layer
    with torch.no_grad():
        assert torch.allclose(deployed(x), model.eval()(x), atol=1e-4)


def test_single_layers_and_repeated_layers_become_sparse():
    layer = thinned(nn.Linear(1024, 1024), 0.998)
    x = torch.randn(64, 1024)
    assert isinstance(deploy.sparse(layer, x).model, deploy.SparseLinear)
    deployed, choices = deploy.sparse(nn.Sequential(layer, nn.Tanh(), layer), x)
    assert len(choices) == 1
    assert deployed[0] is deployed[2]


def test_networks_of_torch_prune_become_sparse_and_torch_encoders_stay_dense():
    network = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))
    prune.random_unstructured(network[0], "weight", 0.998)
    network(torch.randn(2, 1024)).sum().backward()  # a weight with a gradient function, which deepcopy refuses
    x = torch.randn(64, 1024)
    deployed, choices = deploy.sparse(network, x)
    assert [choice.chosen for choice in choices] == ["sparse"]
    assert torch.allclose(deployed(x), network(x), atol=1e-4)
    assert network[0].weight.grad_fn is not None

    encoder = nn.TransformerEncoderLayer(16, 2, 2048, batch_first=True)  # its fused form reads linear1.weight directly
    thinned(encoder.linear1, 0.999)
    tokens = torch.randn(8, 5, 16)
    deployed, choices = deploy.sparse(encoder, tokens)
    assert choices == []
    with torch.no_grad():
        assert torch.allclose(deployed(tokens), encoder.eval()(tokens), atol=1e-5)


def test_sparse_form_with_other_outputs_raises_input_error():
    class Subclass(nn.Linear):
        """A subclass of nn.Linear, which stays dense."""

    assert deploy.sparse(thinned(Subclass(64, 64), 0.99), torch.randn(4, 64)).choices == []
    layer = thinned(nn.Linear(1024, 1024), 0.998)
    layer.register_forward_hook(lambda module, inputs, outputs: outputs + 1)  # a hook that the sparse form doesn't have
    with pytest.raises(ms.InputError, match=r"Linear with sparse layers gives other outputs: they differ by 1;"):
        deploy.sparse(layer, torch.randn(64, 1024))


def test_wrong_inputs_and_sparsities_raise_input_error():
    model = ms.build_model("lenet_300_100", (1, 28, 28))
    with pytest.raises(ms.InputError, match="doesn't take a batch of 2 inputs float32 3x28x28"):
        deploy.sparse(model, torch.randn(2, 3, 28, 28))
    with pytest.raises(ms.InputError, match="doesn't take a batch of 2 inputs int64"):
        deploy.sparse(model, [1, 2])
    with pytest.raises(ms.InputError, match=r"sparsities: 1.5"):
        deploy.break_even(sparsities=(1.5,))
    assert model.training


def test_break_even_is_the_lowest_sparsity_with_a_speedup():
    [row] = deploy.break_even(sizes=(512,), sparsities=(0.2, 0.99, 0.995), rows=(64,))
    assert (row.size, row.rows, list(row.speedups)) == (512, 64, [0.2, 0.99, 0.995])
    assert list(row.speedups.values()) == pytest.approx([1 / 16, 5, 10], rel=0.1)
    assert row.sparsity == 0.99
    [never] = deploy.break_even(sizes=(64,), sparsities=(0.1,), rows=(64,))
    assert never.sparsity is None


def test_sparse_benchmark_prints_a_table():
    command = [
        sys.executable,
        BENCHMARK,
        *["--sizes", "64", "--sparsities", "0.5", "0.9", "--rows", "1", "--threads", "1", "--seconds", "0.01"],
    ]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-3] == "| layer | rows | 50% | 90% | breaks even at |"
    assert lines[-1].startswith("| 64 x 64 | 1 | ")
