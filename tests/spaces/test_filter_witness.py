"""An independent check: the dependency graph of torch-pruning has the same groups of channels."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

from masksearch.models import build_model
from masksearch.spaces.filter_mask_space import filter_space

NETWORKS = [
    "lenet5",
    "vgg11_bn",
    "resnet20",
    "torchvision:resnet18",
    "torchvision:mobilenet_v3_small",
    "torchvision:squeezenet1_1",
]


def ours(space, unit):
    """(weight, dimension) -> positions, of the weights of convolutions and linear layers."""
    found = {}
    for run in space.groups.runs:
        positions = (run.units == unit).nonzero()[0].tolist()
        if positions and len(space.groups.shapes[run.tensor]) > 1:
            found[run.tensor, run.dim] = positions
    return found


def theirs(net, graph, weight, position):
    names = {module: name for name, module in net.named_modules()}
    found = {}
    root = net.get_submodule(weight.removesuffix(".weight"))
    group = graph.get_pruning_group(root, tp.prune_conv_out_channels, [position])
    for dependency, positions in group:
        module = dependency.target.module
        if isinstance(module, nn.Linear | nn.Conv2d):
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            dim = 0 if depthwise or graph.is_out_channel_pruning_fn(dependency.handler) else 1
            found.setdefault((f"{names[module]}.weight", dim), set()).update(positions)
    return {key: sorted(positions) for key, positions in found.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of_channels_equal_the_groups_of_torch_pruning(name):
    shape = (3, 64, 64) if ":" in name else (3, 32, 32)
    net = build_model(name, shape).eval()
    image = torch.zeros(1, *shape)
    space = filter_space(net, image)
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=image)
    convolutions = [layer for layer in space.layers if len(layer.shape) == 4]
    for layer in convolutions[
        :: max(1, len(convolutions) // 3)
    ]:  # only some, as torch-pruning takes a while for a group
        weight = f"{layer.name}.weight"
        for unit in {layer.start, layer.stop - 1}:
            mine = ours(space, unit)
            assert mine == theirs(net, graph, weight, mine[weight, 0][0]), f"{name} {layer.name} unit {unit}"
