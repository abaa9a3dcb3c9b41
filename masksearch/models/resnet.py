"""Residual networks for small images (He et al. 2016, section 4.2), with basic blocks and with bottlenecks.

Arguments: ``shape`` is (channels, height, width) of an image, ``width`` a multiplier of all numbers of filters.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from masksearch.models.network_construction import Named, Shape, chain, he_normal, scaled
from masksearch.utils.errors import InputError

__all__ = ["ResNet", "Residual", "basic_resnet", "bottleneck_resnet", "resnet18"]


class Residual(nn.Module):
    """Residual block of convolutions with batch normalisation: relu(body(x) + shortcut(x)).

    The shortcut is the identity where shapes agree, else a 1x1 convolution with batch normalisation (option B of the
    paper). Option A, the published choice for CIFAR, pads the identity with channels of zeros; then filters could not
    be removed safely. Option B adds about 1 % of parameters to ResNet-20.

    Parameters
    ----------
    convolutions : sequence of (kernel size, filters, stride)
        The body; batch normalisation follows each, ReLU each but the last.
    """

    def __init__(self, channels: int, convolutions: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        body, n_in, stride = list[Named](), channels, 1
        for number, (kernel, filters, step) in enumerate(convolutions, start=1):
            if number > 1:
                body.append((f"relu{number - 1}", nn.ReLU(inplace=True)))
            body += _conv_norm(n_in, filters, kernel, step, str(number))
            n_in, stride = filters, stride * step
        self.body = chain(body)
        same = n_in == channels and stride == 1
        self.shortcut = nn.Identity() if same else chain(_conv_norm(channels, n_in, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return the residual block's outputs (n, filters, h / stride, w / stride) for inputs (n, channels, h, w)."""
        return self.relu(self.body(images) + self.shortcut(images))


class ResNet(nn.Module):
    """Residual network for small images: a 3x3 convolution, stages of residual blocks, average pooling, a linear layer.

    Initial weights are those of He et al. 2015.

    Parameters
    ----------
    stages : sequence of list of blocks
        Each block is the sequence of convolutions of a :class:`Residual`.
    """

    def __init__(
        self, shape: Shape, classes: int, stem: int, stages: Sequence[Sequence[Sequence[tuple[int, int, int]]]]
    ) -> None:
        super().__init__()
        self.stem = chain([*_conv_norm(shape[0], stem, 3, 1), ("relu", nn.ReLU(inplace=True))])
        channels, built = stem, list[Named]()
        for number, stage in enumerate(stages, start=1):
            blocks = list[Named]()
            for position, convolutions in enumerate(stage, start=1):
                blocks.append((f"block{position}", Residual(channels, convolutions)))
                channels = convolutions[-1][1]
            built.append((f"stage{number}", chain(blocks)))
        self.stages = nn.Sequential(OrderedDict(built))
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the residual network's logits (n, classes) for a batch of images (n, channels, h, w)."""
        return self.fc(self.flatten(self.mean(self.stages(self.stem(images)))))


def basic_resnet(shape: Shape, classes: int, width: float, depth: int) -> nn.Module:
    """Build a ResNet of ``depth`` = 6 n + 2 layers: three stages of n basic blocks with 16, 32 and 64 filters."""
    count = _blocks_per_stage(depth, 6)
    stem, *sizes = (scaled(size, width) for size in (16, 16, 32, 64))
    return ResNet(shape, classes, stem, [_basic_stage(size, count, index > 0) for index, size in enumerate(sizes)])


def bottleneck_resnet(shape: Shape, classes: int, width: float, depth: int) -> nn.Module:
    """Build a ResNet of ``depth`` = 9 n + 2 layers: three stages of n bottleneck blocks with 16, 32 and 64 filters.

    A bottleneck has 1x1, 3x3 and 1x1 convolutions; the last has four times as many filters.
    """
    count = _blocks_per_stage(depth, 9)
    stem, *sizes = (scaled(size, width) for size in (16, 16, 32, 64))
    return ResNet(shape, classes, stem, [_bottleneck_stage(size, count, index > 0) for index, size in enumerate(sizes)])


def resnet18(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build ResNet-18 (table 1 of He et al. 2016) for small images: its first layer is a 3x3 convolution, stride 1."""
    stem, *sizes = (scaled(size, width) for size in (64, 64, 128, 256, 512))
    return ResNet(shape, classes, stem, [_basic_stage(size, 2, index > 0) for index, size in enumerate(sizes)])


def _basic_stage(size: int, count: int, halve: bool) -> list[list[tuple[int, int, int]]]:
    return [[(3, size, 2 if halve and block == 0 else 1), (3, size, 1)] for block in range(count)]


def _bottleneck_stage(size: int, count: int, halve: bool) -> list[list[tuple[int, int, int]]]:
    return [[(1, size, 1), (3, size, 2 if halve and block == 0 else 1), (1, 4 * size, 1)] for block in range(count)]


def _blocks_per_stage(depth: int, layers: int) -> int:
    """Return the number n of blocks per stage, from depth = ``layers`` n + 2."""
    if depth < layers + 2 or (depth - 2) % layers:
        examples = ", ".join(str(layers * n + 2) for n in (1, 2, 3))
        raise InputError(
            f"depth {depth} is not a depth of this residual network; allowed are {layers} n + 2: {examples}, ..."
        )
    return (depth - 2) // layers


def _conv_norm(n_in: int, n_out: int, kernel: int, stride: int, number: str = "") -> list[Named]:
    """Return a padded convolution without bias, and its batch normalisation, as (name, layer) pairs."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [(f"conv{number}", conv), (f"norm{number}", nn.BatchNorm2d(n_out))]
