"""MobileNetV2 (Sandler et al. 2018) for small images: inverted bottlenecks with depthwise convolutions."""

from torch import Tensor, nn

from masksearch.models.network_construction import Named, Shape, chain, he_normal, scaled

# Expansion, channels, blocks and stride of the first block, by stage (table 2 of the paper; the second stage has stride
# 1 in place of 2).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedBottleneck(nn.Module):
    """Inverted bottleneck: a 1x1 expansion, a 3x3 depthwise convolution and a linear 1x1 projection.

    Inputs are added to the outputs where both have the same shape. Batch normalisation follows each convolution, ReLU6
    each but the last. An expansion by 1 has no convolution.
    """

    def __init__(self, channels: int, hidden: int, filters: int, stride: int) -> None:
        super().__init__()
        body = list[Named]()
        if hidden != channels:
            body += _conv_norm(channels, hidden, 1, 1, 1, "1")
        body += _conv_norm(hidden, hidden, 3, stride, hidden, "2")
        body += _conv_norm(hidden, filters, 1, 1, 1, "3")[:2]
        self.body = chain(body)
        self.adds = stride == 1 and channels == filters

    def forward(self, images: Tensor) -> Tensor:
        """Return the bottleneck block's outputs (n, filters, h / stride, w / stride) for inputs (n, channels, h, w)."""
        outputs: Tensor = self.body(images)
        return images + outputs if self.adds else outputs


def mobilenet_v2(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build MobileNetV2 for small images: the first convolution and the second stage have stride 1 in place of 2.

    These strides are those of implementations for CIFAR; all else is as in table 2 of Sandler et al. 2018, without
    dropout. On 3x32x32 images with 10 classes it has 2,236,682 parameters and 87,976,448 MACs. Numbers of channels are
    not rounded to multiples of 8. Initial weights of He et al. 2015.
    """
    channels = scaled(32, width)
    layers = _conv_norm(shape[0], channels, 3, 1, 1, "_first")
    for number, (expansion, size, count, first_stride) in enumerate(_STAGES, start=1):
        filters, blocks = scaled(size, width), list[Named]()
        for position in range(1, count + 1):
            stride = first_stride if position == 1 else 1
            block = InvertedBottleneck(channels, expansion * channels, filters, stride)
            blocks.append((f"block{position}", block))
            channels = filters
        layers.append((f"stage{number}", chain(blocks)))
    last = scaled(1280, width)
    layers += _conv_norm(channels, last, 1, 1, 1, "_last")
    layers += [("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(last, classes))]
    return he_normal(chain(layers))


def _conv_norm(n_in: int, n_out: int, kernel: int, stride: int, groups: int, name: str) -> list[Named]:
    """Return a padded convolution without bias, its batch normalisation and ReLU6, as (name, layer) pairs."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [(f"conv{name}", conv), (f"norm{name}", nn.BatchNorm2d(n_out)), (f"relu{name}", nn.ReLU6(inplace=True))]
