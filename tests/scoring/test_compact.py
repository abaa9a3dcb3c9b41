"""The compact path for filter masks: folded and sliced networks have the logits of the masked network."""

import pytest
import torch
from torch import nn

from masksearch.core.problem_and_trials import Proposal
from masksearch.models import build_model
from masksearch.scoring.paths.compact import CompactPath, folded
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.spaces import filter_space


def with_random_norms(name, shape=(3, 32, 32)):
    """A network whose normalisations are not the identity, in eval mode."""
    model = build_model(name, shape, seed=1)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


SLICED = {
    "vgg11_bn:0.25": True,
    "resnet20:0.5": True,
    "resnetb20:0.25": True,
    "basic_cnn:0.25": True,
    "conv2:0.25": True,
    "torchvision:densenet121": True,
    "torchvision:mobilenet_v3_small": False,  # depthwise convolutions have a number of groups
}


@pytest.mark.parametrize(("name", "sliced"), SLICED.items())
def test_logits_of_the_compact_path_equal_the_masked_networks(name, sliced):
    model = with_random_norms(name)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    space = filter_space(model, images[:1])
    compact, reference = (path(model, space, images, 4) for path in (CompactPath, ReferencePath))
    assert compact._slices is sliced
    for seed, density in enumerate((0.2, 0.5, 0.9)):
        generator = torch.Generator().manual_seed(seed)
        proposal = Proposal.of(space.random(density, "layerwise", generator, on_empty="keep_one"))
        wanted = reference.logits(proposal)
        assert torch.allclose(compact.logits(proposal), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_folding_removes_batch_norms_and_keeps_units():
    model = with_random_norms("vgg11_bn:0.25")
    space = filter_space(model, torch.zeros(1, 3, 32, 32))
    small, groups = folded(model, space.groups)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    assert groups.families == space.groups.families
    assert {run.tensor for run in groups.runs} <= set(small.state_dict())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())  # the model itself does not change


class Checking(nn.Module):
    """A network that torch.fx can't trace, as it accepts only tensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, images):
        if not isinstance(images, torch.Tensor):
            raise TypeError("images are no tensor")
        return self.fc(self.norm(self.conv(images)).relu().mean((2, 3)))


def test_network_that_cannot_be_traced_is_sliced_without_folding():
    model = Checking().eval()
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    space = filter_space(model, images[:1])
    same, groups = folded(model, space.groups)
    assert type(same) is Checking
    assert groups is space.groups
    proposal = Proposal.of(space.random(0.5, generator=torch.Generator().manual_seed(0)))
    compact, reference = (path(model, space, images, 4) for path in (CompactPath, ReferencePath))
    assert compact._slices
    assert torch.allclose(compact.logits(proposal), reference.logits(proposal), atol=1e-6)
