"""Networks for text: the GPT on bytes, and folders of Transformers."""

from types import SimpleNamespace

import pytest
import torch

import masksearch as ms
from masksearch.models.hugging_face import folder_digest
from masksearch.utils.errors import InputError

TEXT = (12,)


def test_byte_gpt_predicts_from_earlier_bytes_and_its_seed_decides_its_weights():
    model, again, other = (ms.build_model("byte_gpt:0.125", TEXT, seed=seed).eval() for seed in (1, 1, 2))
    tokens = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    assert logits.shape == (3, 12, 256)
    changed = tokens.clone()
    changed[:, 6:] = 0
    assert torch.equal(logits[:, :6], model(changed)[:, :6])
    assert torch.equal(again(tokens), logits)
    assert not torch.equal(other(tokens), logits)
    assert model.bytes.embedding_dim == 32
    assert ms.build_model("byte_gpt", (256,)).training
    assert sum(p.numel() for p in ms.build_model("byte_gpt", (256,)).parameters()) == 4_935_936


def test_language_model_for_images_and_image_model_for_text_raise_input_error():
    with pytest.raises(InputError, match=r"model 'byte_gpt' reads text; give data such as standard_library or text:F"):
        ms.build_model("byte_gpt", (3, 32, 32))
    with pytest.raises(InputError, match=r"'wide' is no width"):
        ms.build_model("byte_gpt:wide", TEXT)
    text = SimpleNamespace(shape=TEXT, classes=None, task=ms.tasks.as_task("language_model"))
    with pytest.raises(InputError, match=r"the data has no classes"):
        ms.build_model("lenet_300_100", text)


def test_transformers_folder_gives_its_weights_for_text_and_for_classes(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=16, pad_token_id=0)
    saved = transformers.GPT2LMHeadModel(config)
    saved.save_pretrained(tmp_path)
    text = SimpleNamespace(task=ms.tasks.as_task("language_model"), classes=None)
    model = ms.build_model(f"transformers:{tmp_path}", text)
    assert torch.equal(model.transformer.wte.weight, saved.transformer.wte.weight)
    assert model(torch.zeros(2, 5, dtype=torch.long)).logits.shape == (2, 5, 40)
    classes = SimpleNamespace(task=ms.tasks.as_task("classification"), classes=3)
    heads = [ms.build_model(f"transformers:{tmp_path}", classes, seed=seed).score.weight for seed in (0, 0, 1)]
    assert heads[0].shape == (3, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    digest = folder_digest(str(tmp_path))
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert folder_digest(str(tmp_path)) != digest
    with pytest.raises(InputError, match=r"the data is for regression; give module:function"):
        ms.build_model(f"transformers:{tmp_path}", SimpleNamespace(task=ms.tasks.as_task("regression")))


def test_transformers_folder_without_a_network_raises_input_error(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"config.json: a local folder is needed that save_pretrained has written"):
        ms.build_model(f"transformers:{tmp_path}", TEXT)
