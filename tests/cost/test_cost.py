"""Costs: MACs, parameters, bytes on disk, latency and peak memory against counts by hand."""

import copy
import json
import pickle
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as from_safetensors
from torch import nn
from torch.nn.utils import prune

import masksearch as ms
from masksearch import cost
from masksearch.cost.sizes import compressed, kept_entries, tensors_of

# (layer, input, MACs by hand: output positions x filters x kernel x channels that one filter sees)
BY_HAND = {
    "linear": (nn.Linear(20, 7), (20,), 20 * 7),
    "linear_on_tokens": (nn.Linear(20, 7), (5, 20), 5 * 20 * 7),
    "convolution": (nn.Conv2d(3, 8, 3), (3, 10, 12), 8 * 10 * 8 * 9 * 3),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 8, 8), 8 * 8 * 6 * 9),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 8, 8), 8 * 8 * 12 * 9 * 2),
    "strided": (nn.Conv2d(3, 8, 5, stride=2, padding=2), (3, 9, 9), 5 * 5 * 8 * 25 * 3),
    "dilated": (nn.Conv2d(3, 8, 3, dilation=3), (3, 10, 10), 4 * 4 * 8 * 9 * 3),
    "one_dimension": (nn.Conv1d(4, 5, 3), (4, 11), 9 * 5 * 3 * 4),
    "transposed": (nn.ConvTranspose2d(4, 5, 2, stride=2), (4, 3, 3), 3 * 3 * 4 * 5 * 4),
}
VGG16 = [1769472, 37748736, 18874368, 37748736, 18874368, 37748736, 37748736, 18874368]
VGG16 += [37748736, 37748736, 9437184, 9437184, 9437184, 5120]


class Attention(nn.Module):
    """Attention with two heads of eight, on inputs (batch, tokens, 16)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).view(-1, x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class ChangesState(nn.Module):
    """Its forward pass changes buffers, attributes, statistics and the random state."""

    def __init__(self):
        super().__init__()
        self.linear = prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))
        self.count = 0

    def forward(self, x):
        self.seen += 1
        self.last = self.seen * 2
        self.count += 1
        self.cache = F.dropout(self.norm(self.linear(x)), 0.5, training=True)
        return {"outputs": (self.cache,)}


@pytest.mark.parametrize("case", BY_HAND)
def test_macs_of_layers_equal_counts_by_hand(case):
    layer, shape, expected = BY_HAND[case]
    for n in (1, 3):  # for any batch size
        counted = cost.macs(layer, torch.randn(n, *shape))
        assert counted == expected
        assert counted.per_layer == {"": expected}
        assert not counted.uncounted


def test_macs_per_layer_of_vgg16_equal_the_published_numbers():
    counted = cost.macs(ms.build_model("vgg16", (3, 32, 32)), torch.randn(1, 3, 32, 32))
    assert counted == 313_201_664
    assert list(counted.per_layer.values()) == VGG16
    assert next(iter(counted.per_layer)) == "conv1_1"
    assert not counted.uncounted


@pytest.mark.parametrize(("name", "published"), [("resnet18", 1.814), ("mobilenet_v2", 0.301), ("vit_b_32", 4.409)])
def test_macs_equal_the_numbers_published_by_torchvision(name, published):
    model = ms.build_model(f"torchvision:{name}", (3, 224, 224), 1000)
    assert cost.macs(model, torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_macs_of_attention_do_not_depend_on_gradients(trainable, grad):
    products = 2 * (2 * 5 * 5 * 8)  # queries x keys, weights x values: two heads, five tokens
    x = torch.randn(3, 5, 16)
    with torch.set_grad_enabled(grad):
        counted = cost.macs(Attention().requires_grad_(trainable), x)
        assert counted.per_layer == {"": products, "qkv": 5 * 16 * 48}
        block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).requires_grad_(trainable)
        counted = cost.macs(block, x)
    # The attention multiplies its input projections itself; the output projection is a separate module.
    assert counted.per_layer == {
        "self_attn": 5 * 16 * 48 + products,
        "self_attn.out_proj": 5 * 16 * 16,
        "linear1": 5 * 16 * 32,
        "linear2": 5 * 16 * 32,
    }


def functional(function):
    module = nn.Module()
    module.forward = function
    return module


@torch.library.custom_op("masksearch_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: torch.einsum("nij,nkj->nik", x, x), 4 * 4 * 6),
        (lambda x: x @ x.mT, 4 * 4 * 6),
        (lambda x: torch.bmm(x, x.mT), 4 * 4 * 6),
        (lambda x: x[0] @ x[0, 0], 4 * 6),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), 6),
    ],
)
def test_macs_include_products_of_activations(function, expected):
    counted = cost.macs(functional(function), torch.randn(1, 4, 6))
    assert counted == expected
    assert not counted.uncounted


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (nn.BatchNorm1d(4), "aten.native_batch_norm"),
        (nn.LayerNorm(6), "aten.native_layer_norm"),
        (functional(lambda x: x[:, :, None] * x[:, None]), "aten.mul"),
        (functional(lambda x: torch.cdist(x, x + 1)), "aten._cdist_forward"),
        (functional(twice), "masksearch_tests.twice"),
        (nn.PReLU(), "aten._prelu_kernel"),
        (functional(lambda x: torch.linalg.inv(x @ x.mT)), "aten.linalg_inv_ex"),
    ],
)
def test_operators_without_a_formula_are_listed_as_uncounted(model, operator):
    assert cost.macs(model, torch.randn(1, 4, 6)).uncounted == {operator: 1}


def test_operators_without_products_are_not_listed_as_uncounted():
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Softmax(1))
    counted = cost.macs(model, torch.randn(1, 3, 8, 8))
    assert counted == 0
    assert not counted.uncounted


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # a CPU may run a float32 LSTM as one fused operator
def test_macs_of_recurrent_layers_equal_counts_by_hand(kind, gates, dtype):
    steps, inputs, hidden = 5, 16, 8
    layer = kind(inputs, hidden, num_layers=2, bidirectional=True, batch_first=True).to(dtype)
    counted = cost.macs(layer, torch.randn(2, steps, inputs, dtype=dtype))
    first, second = inputs + hidden, 2 * hidden + hidden
    assert counted == steps * 2 * gates * hidden * (first + second)


def test_macs_of_a_repeated_layer_count_every_use():
    layer = nn.Linear(6, 6)
    assert cost.macs(nn.Sequential(layer, layer), torch.randn(1, 6)).per_layer == {"0": 2 * 36}


def test_macs_are_copied_pickled_and_written_as_json():
    counted = cost.macs(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), torch.randn(1, 4))
    for other in (copy.deepcopy(counted), pickle.loads(pickle.dumps(counted))):
        assert (other, other.per_layer, other.uncounted) == (12, {"0": 12}, {"aten.native_layer_norm": 1})
    assert json.dumps(counted) == "12"


def test_params_and_nonzero_params_count_by_hand():
    model = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False))
    assert cost.params(model) == 55 + 10 + 10
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model[0].weight[:, :4] = 0
    assert cost.nonzero_params(model) == 75 - 20
    keep = torch.ones(5, 10, dtype=torch.bool)
    keep[:, :5] = False
    assert cost.nonzero_params(model, {"0.weight": keep}) == 75 - 25
    prune.random_unstructured(model[2], "weight", amount=3)
    assert cost.nonzero_params(model) == 75 - 20 - 3
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert cost.params(tied) == 16 + 8
    with pytest.raises(ms.InputError, match=r"unknown parameter in masks '0.wait'"):
        cost.nonzero_params(model, {"0.wait": keep})
    with pytest.raises(ms.InputError, match=r"\(5, 10\) is needed"):
        cost.disk(model, {"0.weight": keep[:2]})


def test_disk_sizes_dense_and_compressed_follow_the_density():
    model = ms.build_model("lenet_300_100", (1, 28, 28))
    space = ms.weight_space(model)
    sizes = {}
    for density in (0.5, 0.1, 0.01):
        mask = space.random(density=density, generator=torch.Generator().manual_seed(0))
        sizes[density] = cost.disk(model, space.parameter_masks(mask))
        # 4 bytes a kept weight, and at most a bit a weight, with a few bytes of names and shapes
        assert 3 * mask.n_kept < sizes[density].compressed < 4 * mask.n_kept + space.n_units / 8 + 4 * 410 + 2000
    assert 4 * 266_610 < sizes[0.1].dense < 4 * 266_610 + 1000
    assert "zlib" in sizes[0.1].codec


def test_compressed_file_contains_all_kept_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    masks = {"0.weight": torch.rand(8, 3, 3, 3) < 0.3, "3.weight": torch.rand(5, 8) < 0.3}
    tensors = tensors_of(model)
    content = zlib.decompress(compressed(tensors, kept_entries(tensors, list(masks), masks)))
    shapes = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["shapes"])
    parts = from_safetensors(content)
    for name, tensor in tensors.items():
        if name in masks:
            bits = np.unpackbits(parts[f"{name}.bits"].numpy(), count=tensor.numel()).astype(bool)
            restored = torch.zeros(tensor.numel())
            restored[torch.from_numpy(bits)] = parts[f"{name}.values"]
            assert torch.equal(restored.view(shapes[name]), tensor * masks[name])
        else:
            assert torch.equal(parts[name], tensor)


def test_timing_has_a_median_and_an_interval():
    timing = cost.timing.timing_of([float(value) for value in range(100, 0, -1)])
    assert (timing.low, timing.median, timing.high, timing.runs) == (41, 50.5, 60, 100)


def test_interval_of_a_timing_covers_the_true_median_with_95_percent():
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(1000, 25, generator=generator).tolist()  # true median 0.5
    timings = [cost.timing.timing_of(sample) for sample in samples]
    assert 930 <= sum(timing.low <= 0.5 <= timing.high for timing in timings) <= 990


def test_latency_grows_with_the_batch_size():
    model = ms.build_model("lenet_300_100", (1, 28, 28))
    measured = cost.latency(model, torch.randn(3, 1, 28, 28), batch_sizes=(1, 512), seconds=0.1)
    assert list(measured) == [1, 512]
    assert measured[1].high < measured[512].low
    for size, result in measured.items():
        assert result.low <= result.median <= result.high
        assert (result.batch_size, result.device, result.threads) == (size, "cpu", torch.get_num_threads())
        assert result.runs >= 11
    assert "for a batch of 1 on cpu" in str(measured[1])
    with pytest.raises(ms.InputError, match="batch_sizes: 0"):
        cost.latency(model, torch.randn(1, 1, 28, 28), batch_sizes=(0,))


def test_peak_memory_equals_bytes_by_hand():
    x = torch.randn(8, 10)
    # At the ReLU: the input, which the caller keeps, and the hidden layer twice.
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 5))
    assert cost.peak_memory(model, x) == 4 * 8 * (10 + 100 + 100)
    assert cost.peak_memory(nn.Sequential(nn.Linear(10, 100), nn.ReLU(inplace=True)), x) == 4 * 8 * (10 + 100)
    deep = nn.Sequential(*[nn.Linear(10, 10) for _ in range(20)])
    assert cost.peak_memory(deep, x) == 4 * 8 * (10 + 10 + 10)  # not 21 times
    assert cost.peak_memory(model, x[:1]) == 4 * (10 + 100 + 100)


MEASURES = {
    "macs": cost.macs,
    "latency": lambda model, x: cost.latency(model, x, (2,), seconds=0.01),
    "peak_memory": cost.peak_memory,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("training", [True, False])
def test_measures_of_cost_do_not_change_the_model(measure, training):
    model = ChangesState().train(training)
    model.norm.eval()
    model.linear.bias.grad = torch.ones(4)
    buffers = dict(model.named_buffers())
    before = copy.deepcopy({name: value.detach() for name, value in model.state_dict().items()})
    masked, attributes = model.linear.weight, dict(vars(model))
    random = torch.get_rng_state()
    MEASURES[measure](model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), random)
    assert vars(model) == attributes
    assert model.linear.weight is masked
    assert [module.training for module in (model, model.linear, model.norm)] == [training, training, False]
    assert all(value is buffers[name] for name, value in model.named_buffers())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.linear.bias.grad, torch.ones(4))
    assert model.norm.weight.grad is None
    assert not model._forward_hooks
    assert len(model.linear._forward_pre_hooks) == 1  # of torch.nn.utils.prune


@pytest.mark.parametrize("measure", MEASURES)
def test_wrong_inputs_of_measures_raise_input_error(measure):
    model = ms.build_model("lenet5", (1, 28, 28))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = [
        (
            model,
            torch.randn(2, 3, 28, 28),
            "doesn't take a batch of 1 inputs float32 3x28x28 .*channels|doesn't take a batch of 2 inputs .*channels",
        ),
        (model, "an image", "example_input: a str is no tensor"),
        (model, torch.tensor(1.0), "a single number; a tensor"),
        (model, torch.randn(0, 1, 28, 28), "n at least 1"),
        (model, torch.randn(2, 1, 28, 28).double(), "inputs float64 1x28x28"),
        (TwoInputs(), torch.randn(2, 3), "TwoInputs doesn't take a batch .*missing 1 required"),
        (nn.LazyLinear(3), torch.randn(2, 3), "lazy layers"),
    ]
    for network, example, message in bad:
        with pytest.raises(ms.InputError, match=message) as raised:
            MEASURES[measure](network, example)
        assert "\n" not in str(raised.value)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("measure", MEASURES)
def test_measures_of_cost_work_on_cuda(measure):
    model = ms.build_model("lenet5", (1, 28, 28)).cuda()
    assert MEASURES[measure](model, torch.randn(2, 1, 28, 28))
