"""Number of images per pass: 250 on a CPU; on other devices, the largest output of a layer limits it."""

import torch
from torch import nn

from masksearch.scoring.paths.network_path import images_per_pass


def test_pass_on_a_cpu_has_250_images():
    assert images_per_pass(nn.Flatten(), torch.zeros(5, 1, 4, 4)) == 250


def test_largest_output_limits_the_images_of_a_pass_on_other_devices():
    """On torch's device ``meta``, which has only shapes."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))
        images = torch.zeros(7, 1, 8, 8)
    assert images_per_pass(model, images) == 10_000
    assert (
        images_per_pass(nn.Upsample(scale_factor=100), images)
        == images_per_pass(nn.Upsample(scale_factor=100), images[:1])
        == 2**26 // 800**2
    )
    with torch.device("meta"):
        huge = torch.zeros(2, 1, 2**14, 2**14)
    assert images_per_pass(model[:2], huge) == 1
    with torch.device("meta"):
        recurrent = nn.Sequential(nn.Unflatten(1, (256, 256)), nn.LSTM(256, 256))  # returns a tuple
        sequences = torch.zeros(3, 256 * 256)
    assert images_per_pass(recurrent, sequences) == 2**26 // 256**2
    assert not any(module._forward_hooks for module in model.modules())
