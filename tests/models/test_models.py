"""Every model of the table: shapes, published sizes, seeds, widths and errors."""

import copy
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from masksearch.models import MODELS, build_model, built_as
from masksearch.models.resnet import basic_resnet, bottleneck_resnet
from masksearch.models.torchvision_and_timm import torchvision_names
from masksearch.testing import check_model_builders as contract
from masksearch.utils.errors import InputError

CLASSIFIERS = [name for name, row in MODELS.items() if row.task == "classification"]
MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)

# name: parameters on the images of the paper
PARAMETERS = {
    ("lenet_300_100", MNIST): 266_610,
    ("thesis_mlp", MNIST): 266_200,
    ("fc", MNIST): 784 * 100 + 4 * 100 * 100 + 100 * 10 + 5 * 100 + 10,
    ("lenet5", MNIST): 61_706,
    ("lenet5", CIFAR): 62_006,
    ("vgg16", CIFAR): 14_714_688 + 512 * 10 + 10,  # convolutions with biases, linear
    ("resnet18", CIFAR): 11_173_962,
    ("mobilenet_v2", CIFAR): 2_236_682,  # as torchvision's with 10 classes
}
# He et al. 2016, table 6, in millions, to 10,000 (option B adds less than that)
RESNETS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
VGG16_MACS = [1769472, 37748736, 18874368, 37748736, 18874368, 37748736, 37748736, 18874368, 37748736, 37748736]
VGG16_MACS += [9437184, 9437184, 9437184, 5120]


def count(model, kind=nn.Module):
    return sum(p.numel() for m in model.modules() if isinstance(m, kind) for p in m.parameters(recurse=False))


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def macs(model, shape):
    """Per layer, in the order of execution."""
    counted = []

    def hook(layer, inputs, output):
        positions = output.numel() // output.shape[1]
        counted.append(positions * layer.weight.numel())

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return counted


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_model_classifies_images_and_trains_all_parameters(name):
    assert build_model(f"{name}:0.25", CIFAR).training
    row = MODELS[name]
    contract.check_classifies(replace(row, build=lambda shape, classes, width: row.build(shape, classes, 0.25)), CIFAR)
    contract.check_same_seed_same_weights(row, CIFAR)
    contract.check_width(row, CIFAR)
    contract.check_units(row, CIFAR)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_seed_decides_the_weights_and_the_global_random_state_is_kept(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(f"{name}:0.1", CIFAR, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same_weights(first, build_model(f"{name}:0.1", CIFAR, seed=1))
    assert not same_weights(first, build_model(f"{name}:0.1", CIFAR, seed=2))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_build_model_leaves_batch_norm_statistics_unused(name):
    for layer in build_model(f"{name}:0.1", CIFAR).modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_batches_tracked == 0
            assert layer.running_mean.eq(0).all()


@pytest.mark.parametrize(("name", "shape"), PARAMETERS)
def test_parameter_counts_match_the_published_values(name, shape):
    assert count(build_model(name, shape)) == PARAMETERS[name, shape]


@pytest.mark.parametrize("depth", RESNETS)
def test_resnets_have_the_published_size(depth):
    model = build_model(f"resnet{depth}", CIFAR)
    assert count(model) / 1e6 == pytest.approx(RESNETS[depth], abs=0.01 if depth < 110 else 0.05)
    shortcuts = sum(m.kernel_size == (1, 1) for m in model.modules() if isinstance(m, nn.Conv2d))
    assert shortcuts == 2
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) - shortcuts == depth


@pytest.mark.parametrize("depth", [20, 29, 47, 56, 110])
def test_bottleneck_depth_counts_weighted_layers(depth):
    model = build_model(f"resnetb{depth}", CIFAR)
    in_shortcuts = sum(isinstance(m, nn.Conv2d) for name, m in model.named_modules() if "shortcut" in name)
    assert in_shortcuts == 3
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) - in_shortcuts == depth
    assert model.fc.in_features == 256


def test_vgg16_has_the_published_macs():
    model = build_model("vgg16", CIFAR)
    assert macs(model, CIFAR) == VGG16_MACS
    assert sum(VGG16_MACS) == 313_201_664


# Sandler et al. 2018, table 2: expansion, channels, blocks, and the side of the outputs with the strides for CIFAR
INVERTED = [
    (1, 16, 1, 32),
    (6, 24, 2, 32),
    (6, 32, 3, 16),
    (6, 64, 4, 8),
    (6, 96, 3, 8),
    (6, 160, 3, 4),
    (6, 320, 1, 4),
]


def test_mobilenet_v2_has_the_macs_of_its_published_layers():
    expected, channels, side = [32 * 32 * 3 * 9 * 32], 32, 32
    for expansion, filters, blocks, after in INVERTED:
        for _ in range(blocks):
            hidden = expansion * channels
            expected += [side**2 * channels * hidden] * (expansion > 1)
            side = after
            expected += [side**2 * 9 * hidden, side**2 * hidden * filters]
            channels = filters
    expected += [4 * 4 * 320 * 1280, 1280 * 10]
    assert macs(build_model("mobilenet_v2", CIFAR), CIFAR) == expected
    assert sum(expected) == 87_976_448


@pytest.mark.parametrize(("depth", "convolutions"), {11: 8, 13: 10, 16: 13, 19: 16}.items())
def test_vggs_have_their_convolutions_and_a_single_linear_layer(depth, convolutions):
    for name in (f"vgg{depth}", f"vgg{depth}_bn"):
        kinds = [type(m) for m in build_model(f"{name}:0.1", CIFAR).modules()]
        assert (kinds.count(nn.Conv2d), kinds.count(nn.Linear)) == (convolutions, 1)
        assert kinds.count(nn.BatchNorm2d) == (convolutions if name.endswith("_bn") else 0)


def test_basic_cnn_has_the_layers_of_the_thesis():
    model = build_model("basic_cnn", CIFAR)
    filters = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert filters == [64, 128, 256, 512]
    assert sum(filters) == 960
    assert model.fc.in_features == 8192
    kinds = [type(m) for m in model][:4]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Dropout, nn.BatchNorm2d]


@pytest.mark.parametrize(("depth", "conv", "total"), [(2, 38e3, 4.3e6), (4, 260e3, 2.4e6), (6, 1.1e6, 2.26e6)])
def test_lottery_ticket_conv_networks_have_the_published_sizes(depth, conv, total):
    model = build_model(f"conv{depth}", CIFAR)
    assert count(model, nn.Conv2d) == pytest.approx(conv, rel=0.05)
    assert count(model) == pytest.approx(total, rel=0.02)


def test_initial_weights_have_the_published_distributions():
    glorot = build_model("lenet_300_100", MNIST)
    assert glorot.fc1.weight.std().item() == pytest.approx((2 / 1084) ** 0.5, rel=0.02)
    assert glorot.fc1.bias.eq(0).all()
    he = build_model("vgg16", CIFAR).conv4_2
    assert he.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    uniform = build_model("thesis_mlp", MNIST).fc1
    assert uniform.weight.abs().max().item() == pytest.approx(1 / 28, rel=0.01)
    assert uniform.bias is None


@pytest.mark.parametrize("shape", [MNIST, CIFAR, DIGITS])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_small_images_are_accepted_or_raise_input_error(name, shape):
    too_small = (name.startswith("vgg") and shape != CIFAR) or (name in ("lenet5", "basic_cnn") and shape == DIGITS)
    if too_small:
        with pytest.raises(InputError, match=f"{name}.*can't take images of 1x") as caught:
            build_model(f"{name}:0.1", shape)
        assert "\n" not in str(caught.value)
    else:
        assert build_model(f"{name}:0.1", shape)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", ["lenet5", "conv4", "vgg11_bn", "basic_cnn"])
def test_chain_network_runs_with_a_filter_removed_from_every_convolution(name):
    model = copy.deepcopy(build_model(f"{name}:0.25", CIFAR)).eval()
    convs = [m for m in model if isinstance(m, nn.Conv2d)]
    linear = next(m for m in model if isinstance(m, nn.Linear))
    block = linear.in_features // convs[-1].out_channels
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            for key, tensor in layer.state_dict().items():
                if tensor.ndim:
                    narrowed = nn.Parameter(tensor[1:], requires_grad=False)
                    old = getattr(layer, key)
                    setattr(layer, key, narrowed if isinstance(old, nn.Parameter) else narrowed.data)
    for _, later in pairwise(convs):
        later.weight = nn.Parameter(later.weight[:, 1:])
    linear.weight = nn.Parameter(linear.weight[:, block:])
    assert model(torch.zeros(2, *CIFAR)).shape == (2, 10)


def test_data_decides_input_shape_and_classes():
    data = SimpleNamespace(shape=DIGITS, classes=4)
    assert build_model("lenet_300_100", data)(torch.zeros(1, *DIGITS)).shape == (1, 4)
    with pytest.raises(InputError, match="classes is 5, and the data has 4"):
        build_model("lenet_300_100", data, classes=5)


def test_built_as_describes_a_model_and_its_copies():
    model = build_model("resnet20:0.5", CIFAR, classes=3, seed=4)
    known = built_as(copy.deepcopy(model))
    assert same_weights(build_model(known.name, known.shape, known.classes, seed=4), model)
    assert built_as(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "allowed are resnet18, resnet20, resnet32, resnet44, resnet56, resnet110"),
        ("resnetb21", "allowed are resnetb20, resnetb29"),
        ("vgg12_bn", "allowed are vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn"),
        ("lenet_300_10", "did you mean 'lenet_300_100'"),
        ("lenet300", "did you mean 'lenet_300_100'"),
        ("vgg16:wide", "'wide' is no width; allowed are numbers above 0"),
        ("vgg16:0", "'0' is no width"),
        ("vgg16:nan", "'nan' is no width"),
        ("vgg16:", "'' is no width"),
        ("torchvision:resnet19", "unknown torchvision classifier 'resnet19'"),
    ],
)
def test_wrong_model_name_raises_input_error(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_model(name, CIFAR)


@pytest.mark.parametrize(("build", "depth"), [(basic_resnet, 21), (basic_resnet, 2), (bottleneck_resnet, 32)])
def test_wrong_resnet_depth_raises_input_error(build, depth):
    with pytest.raises(InputError, match=rf"depth {depth} .* n \+ 2"):
        build(CIFAR, 10, 1.0, depth=depth)


@pytest.mark.parametrize("shape", [(3, 32), (3, 0, 32), (3, 32.0, 32)])
def test_wrong_shape_or_classes_raise_input_error(shape):
    with pytest.raises(InputError, match="three positive integers"):
        build_model("fc", shape)
    with pytest.raises(InputError, match="classes"):
        build_model("fc", torch.zeros(3))
    with pytest.raises(InputError, match="classes is 1"):
        build_model("fc", CIFAR, classes=1)


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_32"])
def test_torchvision_classifiers_return_a_single_tensor_in_training_mode(name):
    before = torch.get_rng_state()
    model = build_model(f"torchvision:{name}", (3, 64, 64), classes=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_torchvision_auxiliary_heads_are_left_out():
    model = build_model("torchvision:inception_v3", (3, 75, 75), classes=7)
    assert not any("aux" in key.lower() for key in model.state_dict())


def test_torchvision_models_with_incompatible_images_raise_input_error():
    assert "resnet50" in torchvision_names()
    with pytest.raises(InputError, match="takes images of 3 channels, not 1"):
        build_model("torchvision:resnet18", MNIST)
    with pytest.raises(InputError, match="can't take images of 3x32x32"):
        build_model("torchvision:alexnet", CIFAR)
    with pytest.raises(InputError, match="square"):
        build_model("torchvision:vit_b_32", (3, 32, 64))
