"""Pruned networks: equal to masked networks, trained, pruned again, saved and loaded, restored to full size."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from masksearch.core.mask import Mask
from masksearch.models import MODELS, build_model
from masksearch.pruning.physical import load_pruned, prune, restore_state, save_pruned, slice_state
from masksearch.spaces import weight_space
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.utils.errors import InputError

CLASSIFIERS = [name for name, row in MODELS.items() if row.task == "classification"]
TORCHVISION = [
    *("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0"),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t"),
]


def randomise(net, generator):
    """Replace zeros and ones, which would hide errors, in vectors and buffers; matrices keep their initial weights."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() <= max(parameter.shape):
                sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(sign * (torch.rand(parameter.shape, generator=generator) + 0.5))
            elif not parameter.any():
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *(f"torchvision:{name}" for name in TORCHVISION)])
def test_masked_network_equals_pruned_network_and_pruned_network_is_trained(name):
    shape = (3, 64, 64) if ":" in name else (3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    net = build_model(name, shape).eval()
    space = filter_space(net, torch.zeros(1, *shape))
    randomise(net, generator)
    images = torch.randn(2, *shape, generator=generator)
    # Float64 checks the structure, float32 the accuracy of networks in use.
    for dtype, tolerance, densities in ((torch.float32, 1e-5, (0.9, 0.5, 0.2)), (torch.float64, 1e-9, (0.5,))):
        net, images = net.to(dtype), images.to(dtype)
        for density in densities:
            mask = space.random(density, "layerwise", generator)
            small = prune(net, space, mask)
            with torch.no_grad():
                with space.applied(net, mask):
                    masked = net(images)
                assert (small(images) - masked).abs().max() <= tolerance * masked.std()
    assert type(small) is type(net)
    assert sum(parameter.numel() for parameter in small.parameters()) == space.kept_params(mask)

    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    F.cross_entropy(small(images), torch.tensor([0, 1])).backward()
    optimiser.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True))


class Own(nn.Module):
    """A network outside of the table, with a buffer outside of the state dict."""

    def __init__(self, filters=16):
        super().__init__()
        self.conv = nn.Conv2d(3, filters, 3)
        self.norm = nn.BatchNorm2d(filters)
        self.depthwise = nn.Conv2d(filters, filters, 3, groups=filters)
        self.fc = nn.Linear(filters, 10)
        self.register_buffer("shift", torch.linspace(0, 1, filters), persistent=False)

    def forward(self, images):
        features = self.depthwise(self.norm(self.conv(images)).relu())
        return self.fc(features.mean((2, 3)) + self.shift)


@pytest.fixture
def custom_case():
    net = Own().eval()
    randomise(net, torch.Generator().manual_seed(0))
    space = filter_space(net, torch.zeros(1, 3, 8, 8))
    return net, space, space.random(0.5, generator=torch.Generator().manual_seed(1))


def test_layers_of_a_pruned_network_have_the_new_sizes(custom_case):
    net, space, mask = custom_case
    small = prune(net, space, mask)
    assert str(small.conv) == "Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))"
    assert str(small.depthwise) == "Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), groups=8)"
    assert small.norm.num_features == 8
    assert (small.fc.in_features, small.fc.out_features) == (8, 10)
    assert torch.equal(small.shift, net.shift[mask.bits])
    assert net.conv.out_channels == 16


def test_prune_with_a_full_mask_returns_an_equal_copy(custom_case):
    net, space, _ = custom_case
    net.conv.weight.requires_grad_(False)
    copy = prune(net, space, space.full())
    assert copy.conv.weight.data_ptr() != net.conv.weight.data_ptr()
    assert not copy.conv.weight.requires_grad
    assert copy.fc.weight.requires_grad
    for (name, ours), (_, theirs) in zip(net.state_dict().items(), copy.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name


def test_network_pruned_twice_equals_network_pruned_by_both_masks(custom_case):
    net, space, mask = custom_case
    small = prune(net, space, mask)
    again = filter_space(small, torch.zeros(1, 3, 8, 8))
    assert again.n_units == mask.n_kept
    bits = torch.arange(8) < 3
    both = mask.bits.clone()
    both[mask.bits.nonzero().flatten()[3:]] = False
    images = torch.randn(2, 3, 8, 8)
    twice, once = prune(small, again, Mask(again, bits)), prune(net, space, Mask(space, both))
    assert torch.equal(twice(images), once(images))


def test_slice_state_gives_the_state_of_the_pruned_network(custom_case):
    net, space, mask = custom_case
    earlier = Own()
    small = prune(net, space, mask)
    small.load_state_dict(slice_state(space, mask, earlier.state_dict()))
    expected = prune(earlier, space, mask)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name
    with pytest.raises(InputError, match=r"state has no 'conv\.weight'"):
        slice_state(space, mask, {})
    with pytest.raises(InputError, match=r"shape \(20, 3, 3, 3\) for 'conv\.weight'"):
        slice_state(space, mask, Own(20).state_dict())


def test_empty_masks_and_masks_of_other_networks_raise_input_error(custom_case):
    net, space, mask = custom_case
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=r"keeps nothing of layer '(conv|norm|depthwise|fc)'"):
        prune(net, space, Mask(space, torch.zeros(16, dtype=torch.bool)))
    other = filter_space(Own(20), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="doesn't fit"):
        prune(net, space, other.full())
    with pytest.raises(InputError, match=r"Own has shape \(20, 3, 3, 3\) for 'conv\.weight'"):
        prune(Own(20), space, mask)
    weights = weight_space(net)
    with pytest.raises(InputError, match="a weight space; only removed filters"):
        prune(net, weights, weights.full())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_saved_network_of_the_table_is_loaded_in_a_new_process(tmp_path):
    generator = torch.Generator().manual_seed(0)
    net = build_model("resnet20:0.5", (3, 16, 16), 7, seed=3).eval()
    randomise(net, generator)
    space = filter_space(net, torch.zeros(1, 3, 16, 16))
    mask = space.random(0.4, "layerwise", generator)
    small = prune(net, space, mask)
    save_pruned(tmp_path / "small", small, space, mask)
    images = torch.randn(2, 3, 16, 16, generator=generator)
    torch.save(images, tmp_path / "images.pt")
    torch.save(net.state_dict(), tmp_path / "dense.pt")
    script = """
import sys, torch
from masksearch.core.mask import Mask
from masksearch.models import build_model
from masksearch.pruning.physical import load_pruned, prune
from masksearch.spaces.filter_mask_space import filter_space
folder = sys.argv[1]
loaded = load_pruned(f"{folder}/small")
net = build_model("resnet20:0.5", (3, 16, 16), 7).eval()
net.load_state_dict(torch.load(f"{folder}/dense.pt"))
space = filter_space(net, torch.zeros(1, 3, 16, 16))
replayed = prune(net, space, Mask.load(f"{folder}/small/mask.safetensors", space))
images = torch.load(f"{folder}/images.pt")
torch.save([replayed.state_dict(), loaded.state_dict(), loaded(images)], f"{folder}/out.pt")
"""
    subprocess.run(
        [sys.executable, "-c", script, tmp_path], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))}
    )
    replayed, loaded, outputs = torch.load(tmp_path / "out.pt")
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, replayed[name]), name
        assert torch.equal(tensor, loaded[name]), name
    assert torch.allclose(
        outputs, small(images), rtol=1e-5, atol=1e-6
    )  # another process may use another number of threads


def test_saved_custom_network_is_loaded_with_a_fresh_instance(custom_case, tmp_path):
    net, space, mask = custom_case
    small = prune(net, space, mask)
    save_pruned(tmp_path / "small", small, space, mask)
    fresh = Own()
    loaded = load_pruned(tmp_path / "small", model=fresh)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), small(images))
    assert fresh.conv.out_channels == 16
    assert Mask.load(tmp_path / "small" / "mask.safetensors", space) == mask
    with pytest.raises(InputError, match="can't build; give model="):
        load_pruned(tmp_path / "small")
    with pytest.raises(InputError, match="Own has other parameters than the Own"):
        load_pruned(tmp_path / "small", model=Own(20))
    with pytest.raises(InputError, match="no folder"):
        load_pruned(tmp_path / "nothing")
    (tmp_path / "small" / "network.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(InputError, match="holds no pruned network"):
        load_pruned(tmp_path / "small", model=fresh)


def test_network_pruned_twice_is_loaded_with_a_fresh_instance(custom_case, tmp_path):
    net, space, mask = custom_case
    once = prune(net, space, mask)
    save_pruned(tmp_path / "once", once, space, mask)
    for first in (once, load_pruned(tmp_path / "once", model=Own())):
        again = filter_space(first, torch.zeros(1, 3, 8, 8))
        second_mask = again.random(0.5, "layerwise", torch.Generator().manual_seed(1))
        twice = prune(first, again, second_mask)
        save_pruned(tmp_path / "twice", twice, again, second_mask)
        images = torch.randn(2, 3, 8, 8)
        for model in (Own(), once):
            assert torch.equal(load_pruned(tmp_path / "twice", model=model)(images), twice(images))
    with pytest.raises(InputError, match="before it was pruned for the first time"):
        load_pruned(tmp_path / "twice", model=Own(20))


def test_save_pruned_of_an_unpruned_network_raises_input_error(custom_case, tmp_path):
    net, space, mask = custom_case
    with pytest.raises(
        InputError, match=r"Own has \(16, 3, 3, 3\) for 'conv\.weight'; this mask leaves \(8, 3, 3, 3\)"
    ):
        save_pruned(tmp_path / "small", net, space, mask)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "name", ["lenet5", "basic_cnn:0.25", "conv4:0.25", "vgg11_bn:0.1", "resnet20:0.5", "resnetb20:0.5"]
)
def test_restored_state_equals_masked_state_and_inverts_slice_state(name):
    shape = (3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    net = build_model(name, shape).eval()
    space = filter_space(net, torch.zeros(1, *shape))
    randomise(net, generator)
    images = torch.randn(4, *shape, generator=generator)
    mask = space.random(0.4, "layerwise", generator)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    restored = restore_state(space, mask, slice_state(space, mask, state))
    assert list(restored) == list(state)
    with space.applied(net, mask):
        masked = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    for tensor_name, tensor in restored.items():
        assert (tensor.shape, tensor.dtype) == (state[tensor_name].shape, state[tensor_name].dtype)
        if tensor_name in parameters:
            assert torch.equal(tensor, masked[tensor_name]), tensor_name
        else:  # statistics of a removed channel, which nothing reads, are zero
            assert torch.equal(tensor[tensor != 0], state[tensor_name][tensor != 0]), tensor_name
    # Restored and sliced again, from a pruned network with other weights.
    small = prune(net, space, mask)
    randomise(small, generator)
    small.eval()
    back = restore_state(space, mask, small.state_dict())
    for tensor_name, tensor in slice_state(space, mask, back).items():
        assert torch.equal(tensor, small.state_dict()[tensor_name]), tensor_name
    whole = build_model(name, shape).eval()
    whole.load_state_dict(back)
    with torch.no_grad():
        outputs, expected = whole(images), small(images)
    assert (outputs - expected).abs().max() <= 1e-5 * expected.std()


def test_restoring_states_of_other_masks_raises_input_error(custom_case):
    net, space, mask = custom_case
    state = slice_state(space, mask, net.state_dict())
    before = {name: tensor.clone() for name, tensor in state.items()}
    restore_state(space, mask, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.items())  # unchanged
    with pytest.raises(InputError, match=r"shape \(16, 3, 3, 3\) for 'conv\.weight'; this mask leaves \(8, 3, 3, 3\)"):
        restore_state(space, mask, net.state_dict())
    with pytest.raises(InputError, match="doesn't fit"):
        restore_state(space, filter_space(Own(20), torch.zeros(1, 3, 8, 8)).full(), state)
    weights = weight_space(net)
    with pytest.raises(InputError, match="a weight space; only removed filters"):
        restore_state(weights, weights.full(), state)
