"""Compress a regression network on tabular data: scikit-learn's diabetes set."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import masksearch as ms


def main(epochs: int = 60, budget: int = 300) -> ms.Compressed:
    table = load_diabetes()
    inputs = torch.tensor(table.data, dtype=torch.float32) * 20  # (442, 10), about unit variance
    targets = torch.tensor(table.target, dtype=torch.float32)[:, None] / 100
    data = ms.Data.from_tensors(
        "diabetes", train=(inputs[:342], targets[:342]), test=(inputs[342:], targets[342:]), task="regression"
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    training = ms.TrainSettings(epochs=epochs, optimizer="adam", lr=3e-3, weight_decay=1e-3)
    ms.train(model, data.train, training, val=data.val, seed=0)

    fine_tuning = ms.TrainSettings(epochs=epochs // 3, optimizer="adam", lr=1e-3, weight_decay=1e-3)
    result = ms.compress(model, data, sparsity=0.9, method="annealing", budget=budget, train=fine_tuning)
    print(result)
    return result


if __name__ == "__main__":
    main()
