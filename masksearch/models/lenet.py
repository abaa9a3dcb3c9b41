"""LeNet-5."""

from torch import nn

from masksearch.models.chain import Named, Shape, chain, flat_size, scaled

__all__ = ["lenet5"]


def lenet5(shape: Shape, classes: int, width: float) -> nn.Module:
    """Two 5x5 convolutions (6 and 16 filters), then 120-84-10 (LeCun et al. 1998, figure 2), in its modern form.

    Modern: every filter sees every channel, max pooling, ReLU and a linear output. Images smaller than the paper's
    32x32 are padded by two pixels a side, which is what makes MNIST's 28x28 into 32x32. Torch's initial weights.
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
