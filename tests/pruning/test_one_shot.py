"""One-shot pruning: masks and weights against independent derivations, calibration block by block, resuming."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import masksearch as ms
from masksearch.pruning.one_shot import LayerLevels, block_weights
from masksearch.pruning.one_shot.layer_methods import METHODS, Kept, relative_error, sparsegpt, wanda


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.rise, self.fall = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor]:
        return (x + scale * self.fall(torch.relu(self.rise(self.norm(x)))),)


class Stack(nn.Module):
    """Blocks that return tuples; with ``skip``, a later block reads more than the output of the block before."""

    def __init__(self, skip: bool = False, width: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head, self.skip = nn.Linear(width, 50), skip

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = first = self.tokens(tokens)
        for block in self.blocks:
            hidden = block(hidden + first if self.skip else hidden, scale=0.5)[0]
        return self.head(hidden)


def network(skip: bool = False) -> Stack:
    torch.manual_seed(0)
    return Stack(skip).eval()


TOKENS = torch.randint(50, (24, 6), generator=torch.Generator().manual_seed(1))


def problem(k: int, out: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight and the Gram matrix of correlated inputs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(k, k, generator=generator, dtype=torch.float64)
    inputs = torch.randn(5 * k, k, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(out, k, generator=generator, dtype=torch.float64), inputs.T @ inputs


def obs_left_to_right(weight: Tensor, gram: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """SparseGPT by definition: the optimal-brain step of each column, with the inverse over the columns from it on."""
    out, k = weight.shape
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(k, dtype=gram.dtype)
    weight, keep = weight.clone(), torch.zeros(out, k, dtype=torch.bool)
    # Cost of a column: w^2 / (inverse over this column and all to its right)_11.
    corner = torch.stack([torch.linalg.inv(damped[j:, j:])[0, 0] for j in range(k)])
    width = 128 if kept.pattern is None else kept.pattern[1]
    for j in range(k):
        if j % width == 0:
            costs = weight[:, j : j + width] ** 2 / corner[j : j + width]
            if kept.pattern is None:
                stop = min(j + width, k)
                count = round(kept.density * out * stop) - round(kept.density * out * j)
                line = costs.flatten().sort(descending=True).values[count - 1]
                keep[:, j:stop] = costs >= line
            else:
                line = costs.sort(dim=1, descending=True).values[:, kept.pattern[0] - 1, None]
                keep[:, j : j + width] = costs >= line
        inverse = torch.linalg.inv(damped[j:, j:])
        step = torch.where(keep[:, j], 0, weight[:, j]) / inverse[0, 0]
        weight[:, j:] -= step[:, None] * inverse[0]
        weight[:, j] *= keep[:, j]
    return keep, weight


@pytest.mark.parametrize(
    ("k", "kept"),
    [(20, Kept(0.5)), (20, Kept(0.3)), (150, Kept(0.4)), (24, Kept(0.5, (2, 4))), (24, Kept(0.25, (2, 8)))],
)
def test_sparsegpt_equals_optimal_brain_steps_of_columns_from_left_to_right(k: int, kept: Kept) -> None:
    weight, gram = problem(k)
    keep, new = sparsegpt(weight, gram, kept)
    other_keep, other_new = obs_left_to_right(weight, gram, kept)
    assert torch.equal(keep, other_keep)
    torch.testing.assert_close(new, other_new, rtol=1e-8, atol=1e-9)
    assert not new[~keep].any()
    assert int(keep.sum()) == round(kept.density * weight.numel())


@pytest.mark.parametrize("kept", [Kept(0.5), Kept(0.5, (2, 4))])
def test_sparsegpt_has_lower_error_than_wanda_and_wanda_than_magnitude(kept: Kept) -> None:
    errors = dict.fromkeys(METHODS, 0.0)
    for seed in range(5):
        weight, gram = problem(32, seed=seed)
        scales = torch.linspace(0.1, 3, 32, dtype=torch.float64)  # inputs of unequal size
        gram = gram * scales[:, None] * scales
        for name, method in METHODS.items():
            errors[name] += relative_error(weight, method(weight, gram, kept)[1], gram)
    assert errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]


def test_wanda_keeps_the_largest_products_of_every_output() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, -10.0, 1.0, 1.0]], dtype=torch.float64)
    gram = torch.diag(torch.tensor([100.0, 1.0, 1.0, 9.0], dtype=torch.float64))
    # Products: 10 2 3 12 and 100 10 1 3.
    keep, new = wanda(weight, gram, Kept(0.5))
    assert keep.tolist() == [[True, False, False, True], [True, True, False, False]]
    assert torch.equal(new, weight * keep)
    keep, _ = wanda(weight, gram, Kept(0.5, (1, 2)))
    assert keep.tolist() == [[True, False, False, True], [True, False, False, True]]


@pytest.mark.parametrize("skip", [False, True], ids=["chain", "skips"])
@pytest.mark.parametrize("method", list(METHODS))
def test_blocks_are_calibrated_on_outputs_of_the_pruned_blocks_before(skip: bool, method: str) -> None:
    model = network(skip)
    result = ms.one_shot(model, TOKENS, density=0.5, method=method)

    plain = network(skip)  # the whole network runs once per block
    for place, block in enumerate(plain.blocks):
        layers = {"rise": block.rise, "fall": block.fall}
        inputs = inputs_of(plain, layers)
        for name, layer in layers.items():
            rows = inputs[name].detach().double()
            keep, new = METHODS[method](layer.weight.detach().double(), rows.T @ rows, Kept(0.5))
            layer.weight.data = new.float()
            found = result.model.get_submodule(f"blocks.{place}.{name}").weight
            assert torch.equal(result.space.parameter_masks(result.mask)[f"blocks.{place}.{name}.weight"], keep)
            torch.testing.assert_close(found, layer.weight, rtol=1e-4, atol=1e-5)


def test_one_shot_prunes_only_layers_of_blocks_and_does_not_change_the_model() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = ms.one_shot(model, TOKENS, sparsity=0.75, exclude="*.fall")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [layer.name for layer in result.space.layers] == [f"blocks.{n}.rise" for n in range(3)]
    assert result.mask.density == 0.25
    assert {name for name, _ in result.space.left_out} >= {"tokens", "head", "blocks.0.fall"}
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.endswith("rise.weight"))
    assert "sparsegpt: 384 of 1,536 weights kept (0.25)" in str(result)


def test_one_shot_with_a_pattern_keeps_n_of_m_weights_in_every_group() -> None:
    result = ms.one_shot(network(), TOKENS, pattern=(2, 4))
    for layer in result.layers:
        weight = result.model.get_submodule(layer.name).weight
        assert ((weight.unflatten(1, (-1, 4)) != 0).sum(2) == 2).all()


def test_one_shot_keeps_outlier_densities_of_layers() -> None:
    model = network()
    densities = ms.outlier_densities(model, TOKENS, 0.4, spread=0.1, factor=2.0)
    assert set(densities) == {f"blocks.{n}.{layer}" for n in range(3) for layer in ("rise", "fall")}
    assert densities["blocks.1.rise"] == densities["blocks.1.fall"]
    assert max(densities.values()) - min(densities.values()) == pytest.approx(0.2)
    assert sum(densities.values()) / 6 == pytest.approx(0.4)
    result = ms.one_shot(model, TOKENS, densities)
    for layer in result.layers:
        assert layer.density == pytest.approx(densities[layer.name], abs=1 / 512)
    with pytest.raises(ms.InputError, match="smaller spread"):
        ms.outlier_densities(model, TOKENS, 0.05, spread=0.2, factor=2.0)


def test_outlier_densities_favour_the_block_with_outliers() -> None:
    model = network()
    with torch.no_grad():
        model.blocks[1].rise.weight[:, 0] *= 30
    densities = ms.outlier_densities(model, TOKENS, 0.5)
    assert densities["blocks.1.rise"] == max(densities.values()) > densities["blocks.0.rise"]


def inputs_of(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Rows of the layers' inputs in a run of the whole network."""
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0].flatten(0, 1)}))
        for name, layer in layers.items()
    ]
    model(TOKENS)
    for hook in hooks:
        hook.remove()
    return found


class HaltError(RuntimeError):
    pass


def test_interrupted_one_shot_continues_after_the_finished_blocks(tmp_path) -> None:
    whole = ms.one_shot(network(), TOKENS, sparsity=0.5)
    model = network()

    def interrupt(module: nn.Module, args: tuple) -> None:
        if interrupt.armed and len(list(tmp_path.iterdir())) == 2:
            raise HaltError

    interrupt.armed = True
    model.blocks[2].register_forward_pre_hook(interrupt)
    with pytest.raises(HaltError):
        ms.one_shot(model, TOKENS, sparsity=0.5, folder=tmp_path)
    interrupt.armed = False
    rest = ms.one_shot(model, TOKENS, sparsity=0.5, folder=tmp_path)
    assert torch.equal(rest.mask.bits, whole.mask.bits)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, rest.model.state_dict()[name])
    assert rest.layers == whole.layers
    with pytest.raises(ms.InputError, match="another folder"):
        ms.one_shot(model, TOKENS, sparsity=0.6, folder=tmp_path)
    with torch.no_grad():
        model.blocks[1].rise.weight[0, 0] += 1
    with pytest.raises(ms.InputError, match="another network"):
        ms.one_shot(model, TOKENS, sparsity=0.5, folder=tmp_path)


def test_one_shot_prunes_a_network_without_blocks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).eval()
    result = ms.one_shot(model, torch.randn(16, 2, 6, 6), sparsity=0.5)
    assert [layer.name for layer in result.layers] == ["0", "3"]
    assert result.mask.density == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"density": 0.5, "sparsity": 0.5}, "exactly one"),
        ({"density": 0.5, "pattern": (2, 4)}, "fixes the density"),
        ({"density": 0.0}, "density: 0.0; allowed is"),
        ({"sparsity": 1.5}, "sparsity: 1.5; allowed is"),
        ({"sparsity": "0.5"}, "sparsity: '0.5' is a str"),
        ({"pattern": "2:4"}, "pattern: '2:4'; allowed is a pair"),
        ({"sparsity": 0.5, "device": "gpu"}, "device: 'gpu'; allowed are"),
        ({"density": {"blocks.0.rise": 0.5}}, "every layer needs one"),
        ({"density": 0.5, "method": "sparse_gpt"}, "did you mean 'sparsegpt'"),
        ({"density": 0.5, "blocks": ["blocks.9"]}, "no module"),
        ({"density": 0.5, "blocks": ["blocks.0", "blocks.0.rise"]}, "inside another block"),
        ({"density": 0.5, "blocks": []}, "at least one"),
        ({"density": 0.5, "exclude": "block.*"}, "fits no layer"),
    ],
)
def test_wrong_arguments_of_one_shot_raise_input_error(arguments: dict, message: str) -> None:
    with pytest.raises(ms.InputError, match=message):
        ms.one_shot(network(), TOKENS, **arguments)


def test_nan_inputs_of_one_shot_raise_input_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(ms.InputError, match="NaN or infinite"):
        ms.one_shot(model, torch.full((16, 4), torch.nan), sparsity=0.5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


def test_one_shot_prunes_projections_of_multihead_attention(tmp_path: Path) -> None:
    model, inputs = Attention().eval(), torch.randn(8, 5, 8)
    result = ms.one_shot(model, inputs, sparsity=0.5, folder=tmp_path)
    found = [(layer.name, layer.density) for layer in result.layers]
    assert found == [("attention.in_proj_weight", 0.5), ("attention.out_proj", 0.5)]
    assert int(result.model.attention.out_proj.weight.count_nonzero()) == 32
    rows = inputs.flatten(0, 1).double()
    keep, weights = sparsegpt(model.attention.in_proj_weight.detach().double(), rows.T @ rows, Kept(0.5))
    assert torch.equal(result.mask.bits[: keep.numel()].view_as(keep), keep)
    assert torch.allclose(result.model.attention.in_proj_weight, weights.float(), atol=1e-6)
    again = ms.one_shot(model, inputs, sparsity=0.5, folder=tmp_path)
    assert again.mask == result.mask
    levels = LayerLevels(model, result.space, inputs)(result.mask)
    assert torch.allclose(levels.attention.in_proj_weight, weights.float(), atol=1e-6)


class CrossAttention(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x + 1, x)[0]


def test_input_projections_of_different_tensors_stay_dense() -> None:
    result = ms.one_shot(CrossAttention().eval(), torch.randn(8, 5, 8), sparsity=0.5)
    assert [layer.name for layer in result.layers] == ["attention.out_proj"]
    assert bool(result.model.attention.in_proj_weight.count_nonzero() == 24 * 8)


def test_criterion_owl_keeps_outlier_densities_in_a_global_ranking() -> None:
    model = network()
    with torch.no_grad():
        model.blocks[1].rise.weight[:, 0] *= 30
    space, batches = block_weights(model, TOKENS), [(TOKENS[n : n + 4], None) for n in range(0, 24, 4)]
    mask = ms.criteria.select("owl", model, space, batches, 0.4)
    wanted = ms.outlier_densities(model, TOKENS, 0.4)
    assert mask.density == pytest.approx(0.4, abs=1 / space.n_units)
    assert mask.densities() == pytest.approx(wanted, abs=1 / 16)
    assert max(wanted.values()) - min(wanted.values()) > 1 / 8
    assert all(layer.name.startswith("blocks.") for layer in space.layers)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_one_shot_prunes_networks_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra test-all")
    size = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "llama":
        config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, num_key_value_heads=1, **size)
        model = transformers.LlamaForCausalLM(config)
    else:
        model = transformers.BertModel(transformers.BertConfig(hidden_size=16, intermediate_size=32, **size))
    result = ms.one_shot(model.eval(), {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}, sparsity=0.5)
    assert result.mask.density == 0.5
    assert len(result.layers) == {"gpt2": 8, "llama": 14, "bert": 12}[kind]
    assert model.config.use_cache == result.model.config.use_cache
    assert all(0 < layer.error < 0.5 for layer in result.layers)


def test_layer_levels_prune_each_layer_on_dense_inputs():
    model = network()
    space = ms.weight_space(model, include="blocks.*")
    inputs: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(layer.name).register_forward_pre_hook(
            lambda module, args, name=layer.name: inputs.__setitem__(name, args[0].flatten(0, -2).double())
        )
        for layer in space.layers
    ]
    model(TOKENS)
    for hook in hooks:
        hook.remove()
    mask = space.random({layer.name: 0.3 + 0.1 * place for place, layer in enumerate(space.layers)})
    found = LayerLevels(model, space, TOKENS)(mask)
    for layer, n_kept in zip(space.layers, mask.kept_per_layer().values(), strict=True):
        weight = model.get_submodule(layer.name).weight.double()
        _, expected = obs_left_to_right(weight, inputs[layer.name].T @ inputs[layer.name], Kept(n_kept / layer.size))
        new = found.get_submodule(layer.name).weight
        torch.testing.assert_close(new.double(), expected, rtol=1e-3, atol=1e-5)
        assert int(new.count_nonzero()) == n_kept
    torch.testing.assert_close(found.head.weight, model.head.weight)


def test_scorer_of_layer_levels_is_zero_for_the_full_mask_and_above_the_distance():
    model = network()
    space = ms.weight_space(model, include="blocks.*")
    levels = LayerLevels(model, space, TOKENS)
    split = ms.Split(TOKENS, TOKENS, task="language_model")
    scorer = ms.Scorer(model, space, split, "reconstructed", calibration=levels)
    plain = ms.Scorer(model, space, split, "distance")
    dense, half = space.full(), space.random(0.5)
    assert scorer(dense).value == pytest.approx(0, abs=1e-6)
    assert plain(half).value < scorer(half).value < 0


def test_layer_levels_with_an_unused_layer_or_unknown_method_raise_input_error():
    model = network()
    model.unused = nn.Linear(4, 4)
    with pytest.raises(ms.InputError, match="doesn't call layer 'unused'"):
        LayerLevels(model, ms.weight_space(model), TOKENS)
    with pytest.raises(ms.InputError, match="method"):
        LayerLevels(model, ms.weight_space(model, include="blocks.*"), TOKENS, method="best")
