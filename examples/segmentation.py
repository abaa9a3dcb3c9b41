"""Prune a small U-Net that segments discs on noise; the images are made here."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import masksearch as ms


def discs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``n`` noisy images (n, 1, 32, 32) of a bright disc, and the class of every pixel (n, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    center, radius = 32 * torch.rand(n, 2, 1, 1, generator=generator), 4 + 6 * torch.rand(n, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    inside = (rows - center[:, 0]) ** 2 + (columns - center[:, 1]) ** 2 < radius**2
    return inside[:, None] + torch.randn(n, 1, 32, 32, generator=generator), inside.long()


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.head = nn.Conv2d(48, 16, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(skip, 4))), scale_factor=4)
        return self.head(F.relu(self.up(torch.cat([skip, deep], 1))))


def main(n: int = 1000, epochs: int = 8) -> ms.Compressed:
    data = ms.Data.from_tensors("discs", train=discs(n, seed=0), test=discs(n // 4, seed=1), task="segmentation")
    torch.manual_seed(0)
    ms.train(model := UNet(), data.train, training := ms.TrainSettings(epochs, optimizer="adam", lr=3e-3), val=data.val)
    print(result := ms.compress(model, data, params=0.3, train=training))
    return result


if __name__ == "__main__":
    main()
