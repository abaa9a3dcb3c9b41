"""Halve the multiply-adds of torchvision's ResNet-18 on scikit-learn's digits, and fine-tune the smaller network."""

import torch
import torchvision

import masksearch as ms


def main(n: int | None = None, epochs: int = 3) -> ms.Compressed:
    digits = ms.load_data("digits")
    parts = [(split.inputs[:n], split.targets[:n]) for split in (digits.train, digits.test)]
    parts = [  # ResNet-18 takes colour images: three equal channels of 16 x 16 pixels
        (torch.nn.functional.interpolate(inputs, size=16).expand(-1, 3, -1, -1), targets) for inputs, targets in parts
    ]
    data = ms.Data.from_tensors("digits of 16 x 16", train=parts[0], test=parts[1])

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    training = ms.TrainSettings(epochs=epochs, optimizer="adamw", lr=1e-3, lr_schedule="cosine")
    ms.train(model, data.train, training, val=data.val)

    result = ms.compress(model, data, macs=0.5, train=training)
    print(result)
    return result


if __name__ == "__main__":
    main()
