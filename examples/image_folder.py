"""Prune a network of timm (pip install timm) on images of mixed sizes, made here; give your own folder instead."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import masksearch as ms


def draw(folder: Path, n: int) -> None:
    """Write ``n`` images of stripes per class and part: PATH/{train,test}/{horizontal,vertical}/*.png."""
    numbers = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("horizontal", "vertical"):
            (folder / part / name).mkdir(parents=True)
            for place in range(n):
                height, width = numbers.integers(40, 80, 2)
                rows = np.arange(height)[:, None] if name == "horizontal" else np.arange(width)[None]
                pixels = 127 + 80 * np.sin(rows / numbers.uniform(1, 3)) + numbers.normal(0, 30, (height, width))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / part / name / f"{place}.png")


def main(n: int = 200, epochs: int = 3) -> ms.Compressed:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), n)
        data = ms.load_data(f"imagefolder:{folder}", image_size=32)
    model = ms.build_model("timm:resnet10t", data, seed=0)
    training = ms.TrainSettings(epochs=epochs, optimizer="adamw", lr=1e-3, batch_size=32)
    ms.train(model, data.train, training, val=data.val)
    print(result := ms.compress(model, data, macs=0.5, train=training))
    return result


if __name__ == "__main__":
    main()
