"""Remove 90 % of the weights of a network that predicts several labels per example."""

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn

import masksearch as ms


def main(n: int = 3000, epochs: int = 20) -> ms.Compressed:
    counts, labels = make_multilabel_classification(n, n_features=50, n_classes=8, random_state=0)
    inputs, targets = torch.tensor(counts).float() / 10, torch.tensor(labels).float()  # (n, 50), (n, 8)
    cut = n * 4 // 5
    data = ms.Data.from_tensors(
        "topics", train=(inputs[:cut], targets[:cut]), test=(inputs[cut:], targets[cut:]), task="multilabel"
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8))
    training = ms.TrainSettings(epochs=epochs, optimizer="adam", lr=1e-3)
    ms.train(model, data.train, training, val=data.val)
    result = ms.compress(model, data, sparsity=0.9, train=training)
    print(result)
    return result


if __name__ == "__main__":
    main()
