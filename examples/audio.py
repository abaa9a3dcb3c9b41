"""Halve the multiply-adds of a 1-D convolutional classifier of sounds, made here: tones, chirps and noise."""

import torch
from torch import Tensor, nn

import masksearch as ms


def sounds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``n`` sounds (n, 1, 1000) of three classes: a tone, a rising chirp, and noise."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (n,), generator=generator)
    time = torch.linspace(0, 1, 1000)
    pitch = 20 + 60 * torch.rand(n, 1, generator=generator)
    noise = torch.randn(n, 1000, generator=generator)
    tone, chirp = torch.sin(6.28 * pitch * time), torch.sin(6.28 * pitch * (time + time**2))
    return (torch.stack([tone, chirp, noise])[classes, torch.arange(n)] + noise)[:, None], classes


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 9, 4, 4), nn.BatchNorm1d(outputs), nn.ReLU())


def main(n: int = 2000, epochs: int = 5) -> ms.Compressed:
    data = ms.Data.from_tensors("sounds", train=sounds(n, seed=0), test=sounds(n // 4, seed=1))
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 3))
    model = nn.Sequential(block(1, 16), block(16, 32), block(32, 64), *head)
    training = ms.TrainSettings(epochs=epochs, optimizer="adam", lr=1e-3)
    ms.train(model, data.train, training, val=data.val)
    result = ms.compress(model, data, macs=0.5, train=training)
    print(result)
    return result


if __name__ == "__main__":
    main()
