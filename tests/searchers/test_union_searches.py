"""Searches over blocks, heads and neurons of a small GPT together, by KL to the dense outputs under MACs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.core.density_allocation import Amount

WIDTH, LENGTH, TOKENS = 16, 12, 32


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.norm = 4, nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        layers, x = (self.query, self.key, self.value), self.norm(x)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.blocks = nn.Embedding(TOKENS, WIDTH), nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, x):
        return self.head(self.blocks(self.tokens(x)))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = Gpt().eval()
    with torch.no_grad():  # parts of unequal use
        for scale, block in zip((2.0, 0.1, 1.0), model.blocks, strict=True):
            block.attention.out.weight *= scale
            block.mlp[3].weight *= scale
    tokens = torch.randint(TOKENS, (32, LENGTH))
    blocks, filters = ms.block_space(model, tokens[:1]), ms.filter_space(model, tokens[:1])
    assert [layer.size for layer in filters.layers] == [4, 32] * 3
    space = ms.union_space(blocks, filters)
    assert blocks.n_units == 6
    split = ms.Split(tokens, tokens, task=ms.tasks.as_task("language_model"))
    return model, space, split


SEARCHERS = {
    "annealing": ms.searchers.Annealing(),
    "random_search": ms.searchers.RandomSearch(),
    "optuna_tpe": ms.searchers.OptunaSearch("tpe"),
    "evopress": ms.searchers.LevelSwitches(children=(6, 2, 1)),
}


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("with_saliency", [False, True])
def test_searches_of_blocks_heads_and_neurons_keep_the_budget_and_reproduce(case, name, with_saliency):
    model, space, split = case
    amount = Amount(0.6, hold="macs", on_empty="keep_one")
    saliencies = {"taylor": ms.criteria.saliency("taylor", model, space, split)} if with_saliency else {}
    scorer = ms.Scorer(model, space, split, "distance")
    options = {"saliencies": saliencies, "keep": 40}
    histories = [ms.search(space, SEARCHERS[name], scorer, amount, 40, 1, **options) for _ in range(2)]
    masks = [trial.mask for trial in histories[0].trials if trial.mask is not None]
    assert len(masks) >= 3
    assert all(space.share(mask, "macs") <= 0.6 for mask in masks)
    assert np.mean([space.share(mask, "macs") for mask in masks]) > 0.5
    kept_blocks = {tuple(mask.bits[:6].tolist()) for mask in masks}
    if name != "evopress":  # only its parents keep masks
        assert len(kept_blocks) > 1  # the search also removes blocks
    assert [trial.score.value for trial in histories[0].trials] == [trial.score.value for trial in histories[1].trials]
    best = histories[0].best_mask
    small = ms.prune(model, space, best)
    masked = Gpt().eval()
    masked.load_state_dict(model.state_dict())
    space.apply(masked, best)
    assert torch.allclose(small(split.inputs), masked(split.inputs), atol=1e-5)


def test_evopress_removes_a_block_and_beats_random_search(case):
    model, space, split = case
    saliencies = {"taylor": ms.criteria.saliency("taylor", model, space, split)}
    amount, scorer = Amount(0.7, hold="macs"), ms.Scorer(model, space, split, "distance")
    history = ms.search(space, SEARCHERS["evopress"], scorer, amount, 150, 0, saliencies=saliencies)
    assert not history.best_mask.bits[:6].all()  # some block is removed
    random = ms.search(space, SEARCHERS["random_search"], scorer, amount, 150, 0)
    assert history.best_score > random.best_score


def test_spdy_and_fastnas_refuse_spaces_with_blocks(case):
    model, space, split = case
    for name in ("spdy", "fastnas"):
        with pytest.raises(ms.InputError, match="for blocks evopress"):
            ms.search(space, ms.searchers.SEARCHERS[name](), ms.Scorer(model, space, split, "distance"), 0.5, 5, 0)
