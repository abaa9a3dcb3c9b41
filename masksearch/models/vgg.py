"""VGG-11, 13, 16 and 19 in the form used for CIFAR: one linear layer on 512 channels."""

from torch import nn

from masksearch.models.chain import Named, Shape, chain, scaled
from masksearch.models.initial import he_normal

__all__ = ["vgg"]

# Convolutions in each of the five blocks (Simonyan & Zisserman 2015, table 1: A, B, D and E).
_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FILTERS = (64, 128, 256, 512, 512)


def vgg(shape: Shape, classes: int, width: float, depth: int, norm: bool) -> nn.Module:
    """Padded 3x3 convolutions with biases, max pooling after each of five blocks, mean over space, linear.

    On 32x32 images the mean is over one pixel, and the layers are those of the networks published for CIFAR. ``norm``
    puts batch normalisation after every convolution. Initial weights of He et al. 2015: without batch normalisation the
    deep ones don't start to learn from smaller weights.
    """
    channels, layers = shape[0], list[Named]()
    for block, (count, size) in enumerate(zip(_BLOCKS[depth], _FILTERS, strict=True), start=1):
        for number in range(1, count + 1):
            name, filters = f"{block}_{number}", scaled(size, width)
            layers.append((f"conv{name}", nn.Conv2d(channels, filters, 3, padding=1)))
            if norm:
                layers.append((f"norm{name}", nn.BatchNorm2d(filters)))
            layers.append((f"relu{name}", nn.ReLU()))
            channels = filters
        layers.append((f"pool{block}", nn.MaxPool2d(2)))
    layers += [("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(channels, classes))]
    return he_normal(chain(layers))
