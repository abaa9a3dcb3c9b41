"""Feed-forward networks without shortcuts: multilayer perceptrons, LeNet-5, Conv-2/4/6, BasicCNN and VGG.

Arguments: ``shape`` is (channels, height, width) of an image, ``width`` a multiplier of all hidden layers' sizes.
"""

from itertools import pairwise
from math import prod

from torch import nn

from masksearch.models.network_construction import Named, Shape, chain, flat_size, glorot_normal, he_normal, scaled

__all__ = ["basic_cnn", "conv", "fc", "lenet5", "lenet_300_100", "mlp", "thesis_mlp", "vgg"]


def mlp(inputs: int, hidden: list[int], classes: int, bias: bool = True) -> nn.Sequential:
    """Build a multilayer perceptron: linear layers named ``fc1`` ... ``fcN``, with a ReLU after each but the last.

    Initial weights are torch's: uniform in +- 1 / sqrt(fan_in).
    """
    sizes = [inputs, *hidden, classes]
    layers: list[Named] = [("flatten", nn.Flatten())]
    for number, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layers.append((f"fc{number}", nn.Linear(n_in, n_out, bias=bias)))
        if number <= len(hidden):
            layers.append((f"relu{number}", nn.ReLU()))
    return chain(layers)


def lenet_300_100(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build LeNet-300-100, a perceptron with biases and hidden layers of 300 and 100 units (LeCun et al. 1998).

    Initial weights are Glorot normal, as in Frankle & Carbin 2019, figure 2.
    """
    return glorot_normal(mlp(prod(shape), [scaled(300, width), scaled(100, width)], classes))


def thesis_mlp(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build a perceptron without biases, with hidden layers of 300 and 100 units and PyTorch's initialisation.

    The network of "Heuristic Approach Towards Early Pruning of Neural Networks" (2020).
    """
    return mlp(prod(shape), [scaled(300, width), scaled(100, width)], classes, bias=False)


def fc(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build a perceptron with five hidden layers of 100 units and PyTorch's initialisation (Tanaka et al. 2020)."""
    return mlp(prod(shape), [scaled(100, width)] * 5, classes)


def lenet5(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build LeNet-5: 5x5 convolutions of 6 and 16 filters, then linear layers of 120, 84 and ``classes`` units.

    LeCun et al. 1998, figure 2, in its modern form: every filter reads every channel, max pooling, ReLU and a linear
    output. Images smaller than the paper's 32x32 are padded by two pixels per side (MNIST: 28x28 -> 32x32). Torch's
    initial weights.
    """
    c, h, _ = shape
    n1, n2, n3, n4 = (scaled(size, width) for size in (6, 16, 120, 84))
    layers: list[Named] = [
        ("conv1", nn.Conv2d(c, n1, 5, padding=2 if h < 32 else 0)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(n1, n2, 5)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
    ]
    layers += [
        ("fc1", nn.Linear(flat_size(layers, shape), n3)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(n3, n4)),
        ("relu4", nn.ReLU()),
        ("fc3", nn.Linear(n4, classes)),
    ]
    return chain(layers)


def conv(shape: Shape, classes: int, width: float, depth: int) -> nn.Module:
    """Build Conv-2, Conv-4 or Conv-6: ``depth`` padded 3x3 convolutions, with max pooling after every second one.

    Frankle & Carbin 2019, figure 2, initial weights (Glorot normal) included. The pairs have 64, 128 and 256 filters;
    linear layers of 256, 256 and ``classes`` units follow. On CIFAR-10 the networks have 4.3, 2.4 and 2.3 million
    parameters.
    """
    channels, layers = shape[0], list[Named]()
    for number in range(1, depth + 1):
        pair = (number - 1) // 2
        filters = scaled(64 * 2**pair, width)
        layers += [(f"conv{number}", nn.Conv2d(channels, filters, 3, padding=1)), (f"relu{number}", nn.ReLU())]
        if number % 2 == 0:
            layers.append((f"pool{pair + 1}", nn.MaxPool2d(2)))
        channels = filters
    layers.append(("flatten", nn.Flatten()))
    hidden = scaled(256, width)
    layers += [
        ("fc1", nn.Linear(flat_size(layers, shape), hidden)),
        (f"relu{depth + 1}", nn.ReLU()),
        ("fc2", nn.Linear(hidden, hidden)),
        (f"relu{depth + 2}", nn.ReLU()),
        ("fc3", nn.Linear(hidden, classes)),
    ]
    return glorot_normal(chain(layers))


def basic_cnn(shape: Shape, classes: int, width: float) -> nn.Module:
    """Build a network of four unpadded 3x3 convolutions of 64, 128, 256 and 512 filters and one linear layer.

    The first and the third convolution have stride 2. Each convolution is followed by ReLU, dropout of 0.3 and batch
    normalisation, in this order; on 3x32x32 images the linear layer reads 512 x 4 x 4 = 8192 numbers ("Heuristic
    Approach Towards Early Pruning of Neural Networks", 2020). Torch's initial weights.
    """
    channels, layers = shape[0], list[Named]()
    for number, (size, stride) in enumerate([(64, 2), (128, 1), (256, 2), (512, 1)], start=1):
        filters = scaled(size, width)
        layers += [
            (f"conv{number}", nn.Conv2d(channels, filters, 3, stride=stride)),
            (f"relu{number}", nn.ReLU()),
            (f"dropout{number}", nn.Dropout(0.3)),
            (f"norm{number}", nn.BatchNorm2d(filters)),
        ]
        channels = filters
    layers.append(("flatten", nn.Flatten()))
    layers.append(("fc", nn.Linear(flat_size(layers, shape), classes)))
    return chain(layers)


# Convolutions in each of the five blocks (Simonyan & Zisserman 2015, table 1: A, B, D and E).
_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FILTERS = (64, 128, 256, 512, 512)


def vgg(shape: Shape, classes: int, width: float, depth: int, norm: bool) -> nn.Module:
    """Build VGG-``depth`` for small images: five blocks of padded 3x3 convolutions, average pooling, a linear layer.

    Convolutions have biases; max pooling follows each block. On 32x32 images the mean is over one pixel, and the layers
    are those of the networks published for CIFAR. ``norm`` puts batch normalisation after every convolution. Initial
    weights of He et al. 2015: without batch normalisation, deep networks with smaller initial weights do not learn.
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
