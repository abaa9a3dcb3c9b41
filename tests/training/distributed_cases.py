"""Trainings and scorings that one process runs alone, and two processes of torchrun together; results go to a file."""

import sys
from contextlib import suppress
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_cases import InterruptionError

import masksearch as ms
from masksearch.tasks import IGNORED
from masksearch.training import training_loop
from masksearch.training.training_moment import TrainingMoment

N = 131  # an odd number, so that the last batches are uneven


def examples():
    inputs = torch.randn(N, 20, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def data(task="classification"):
    inputs, targets = examples()
    if task == "regression":
        targets = inputs[:, :2].sin()
    if task == "language_model":
        inputs = (inputs[:, :9] * 3).long().abs() % 7
        targets = inputs.roll(1, dims=1)
        targets[::2, 3:] = IGNORED  # ranks have other numbers of tokens
        targets[5:40] = IGNORED  # whole batches of padding
    split = (inputs, targets)
    return ms.Data.from_tensors("mine", train=split, test=split, val=split, task=task)


def streamed():
    """Data of loaders, which decide the order of their batches."""
    inputs, labels = examples()
    train = DataLoader(TensorDataset(inputs, labels), 17, shuffle=True)
    rest = {part: DataLoader(TensorDataset(inputs, labels), 17) for part in ("val", "test", "search")}
    return ms.Data.from_loaders("loader", train=train, **rest, task="classification", identity="1")


class WithUnused(nn.Module):
    """A network with a head that the loss does not use."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.unused = nn.Linear(20, 16), nn.Linear(16, 3), nn.Linear(16, 5)

    def forward(self, inputs):
        hidden = self.body(inputs).relu()
        return {"logits": self.head(hidden), "other": self.unused(hidden)}


class Growing:
    """Masks that change after every third step: each row gets the pruned weight of the largest gradient."""

    def __init__(self, model):
        self.parameter = model[0].weight
        self.keep = torch.rand(30, 20, generator=torch.Generator().manual_seed(3)) > 0.6

    @property
    def masks(self):
        return {"0.weight": self.keep}

    def __call__(self, step):
        if step % 3:
            return False
        scores = self.parameter.grad.abs().masked_fill(self.keep, -1)
        self.keep = self.keep.scatter(1, scores.argmax(1, keepdim=True), True)
        return True

    def state_dict(self):
        return {"keep": self.keep}

    def load_state_dict(self, state):
        self.keep = state["keep"]


def network(outputs=3, norm=False, seed=1):
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(30)] if norm else []
    return nn.Sequential(nn.Linear(20, 30), *norms, nn.ReLU(), nn.Linear(30, outputs))


def tokens_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(7, 12), nn.Linear(12, 7))


def masks():
    return {"0.weight": torch.rand(30, 20, generator=torch.Generator().manual_seed(3)) > 0.6}


def trainings(folder, first):
    """Return {name: (rows, state dict, snapshots)}."""
    tokens, practices = {"batch_size": 8, "weight_decay": 0.0}, {"accumulate": 3, "clip_norm": 0.5, "ema": 0.9}
    practices |= {"warmup": 1.0, "label_smoothing": 0.1, "lr_schedule": "plateau"}
    cases = {
        "plain": (network(), data(), {}, {"masks": masks()}),
        "practices": (network(), data(), practices, {"masks": masks()}),
        "adam": (network(), data(), {"optimizer": "adam", "lr": 0.01, "batch_size": 33}, {}),
        "tiny last batch": (network(), data(), {"batch_size": 128}, {}),
        "regression": (network(2), data("regression"), {}, {}),
        "tokens": (tokens_network(), data("language_model"), tokens, {}),
        "distillation": (network(), data(), {"distill": 0.5}, {"teacher": network(seed=4)}),
        "unused": (WithUnused(), data(), {}, {}),
        "loader": (network(), streamed(), {}, {}),
        "own loss": (network(), data(), {}, {"loss": nn.functional.multi_margin_loss}),
        "batchnorm": (network(norm=True), data(), {}, {"masks": masks(), "snapshots": [TrainingMoment.parse("4it")]}),
    }
    growing = network()
    cases["regrown"] = (growing, data(), {}, {"remask": Growing(growing)})
    results = {}
    for name, (model, examples, changes, rest) in cases.items():
        settings = ms.TrainSettings(**({"epochs": 2, "batch_size": 16, "lr": 0.1} | changes))
        done = ms.train(model, examples.train, settings, val=examples.val, seed=5, **rest)
        results[name] = done.epochs, model.state_dict(), {str(at): copy for at, copy in done.snapshots.items()}
    settings = ms.TrainSettings(epochs=3, batch_size=16, optimizer="adam", lr=0.01)
    for name, stop in (("uninterrupted", None), ("interrupted", 1), ("continued", None)):
        rows, model = [], network(norm=True, seed=1 if first else 2)  # rank 0's weights count

        def on_epoch(row, rows=rows, stop=stop):
            rows.append(row)
            if row.epoch == stop:
                raise InterruptionError

        file = None if name == "uninterrupted" else folder / "training.safetensors"
        with suppress(InterruptionError):
            ms.train(model, data().train, settings, seed=5, checkpoint=file, on_epoch=on_epoch)
        results[name] = rows, model.state_dict(), {}
    return results


def order():
    """Return the inputs of every batch of two epochs, as the network gets them."""
    seen, model = [], network()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()) if module.training else None)
    ms.train(model, data().train, ms.TrainSettings(epochs=2, batch_size=15), seed=5)
    return seen


def scorings():
    """Return {objective: (scores, hash of the best mask)}."""
    results = {}
    classes, numbers, tokens = data(), data("regression"), data("language_model")
    for name, model, split in (
        *((name, network(), classes.val) for name in ("accuracy", "loss", "calibrated_loss", "distance")),
        *((name, network(2), numbers.val) for name in ("metric", "loss", "distance")),
        *((name, tokens_network(), tokens.val) for name in ("metric", "loss")),
    ):
        space = ms.weight_space(model)
        scorer = ms.Scorer(model, space, split, name)
        history = ms.search(space, ms.searchers.Annealing(), scorer, density=0.4, budget=15, seed=0)
        results[f"{split.task.name}: {name}"] = [trial.score.value for trial in history.trials], history.best_mask.hash
    space = ms.weight_space(network())
    settings = ms.TrainSettings(lr=0.1, batch_size=16)
    scorer = ms.ShortTraining(network(), space, classes.train, classes.val, settings, steps=4)
    history = ms.search(space, "random_search", scorer, density=0.4, budget=3, seed=0)
    results["short_training"] = [trial.score.value for trial in history.trials], history.best_mask.hash
    return results


def run(folder):
    """Run everything; write the results of this process to ``folder``."""
    with mock.patch.object(training_loop, "CHECKPOINT_SECONDS", 0.0), ms.distributed("cpu") as ranks:
        results = {"trainings": trainings(folder, ranks.first), "scorings": scorings(), "order": order()}
        torch.save(results, folder / f"results_{ranks.rank}_of_{ranks.size}.pt")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
