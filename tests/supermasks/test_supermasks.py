"""Learned supermasks: exact densities, frozen networks, accuracy above chance, resuming."""

import copy
import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from supermask_cases import METHODS, SHORT, generator, make_conv, make_mlp, make_split, ones_of, scored
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Split, load_data
from masksearch.models import build_model
from masksearch.spaces import filter_space, weight_space
from masksearch.supermasks import SUPERMASKS, ScoredNetwork, SupermaskSettings, kaiming, learn
from masksearch.training import evaluate, train_function, training_loop
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scope", ["layerwise", "erk", "global", "per layer"])
def test_supermasks_have_the_exact_density_in_every_step_and_scope(name, scope, monkeypatch):
    model, density = make_conv(), 0.217
    space = weight_space(model)
    if scope == "per layer":
        density = {layer.name: [0.5, 0.0, 1.0, 0.03, 0.3][i] for i, layer in enumerate(space.layers)}
    chosen = "layerwise" if scope == "per layer" else scope
    drawn, plain = [], ScoredNetwork.masks

    def masks(self):
        found = plain(self)
        drawn.append(ones_of(found))
        return found

    monkeypatch.setattr(ScoredNetwork, "masks", masks)
    mask = learn(name, model, space, make_split(), density, scope=chosen, settings=SHORT)
    assert len(drawn) > 10
    assert {sum(ones) for ones in drawn} == {space.count(density)}
    assert mask.n_kept == space.count(density)
    if scope != "global":
        quotas = space.quotas(density, chosen)
        assert all(ones == quotas for ones in drawn)
        assert list(mask.kept_per_layer().values()) == quotas


def test_learned_mask_keeps_the_weights_of_highest_scores():
    model = make_mlp(64, 9, 10)
    space, kept = weight_space(model), SupermaskSettings(epochs=0)
    mask = learn("edge_popup", model, space, make_split(), 0.1, settings=kept, seed=4)
    other = learn("edge_popup", model, space, make_split(), 0.1, settings=kept, seed=5)
    learner = scored("edge_popup", model, space, 0.1, seed=4)
    found = learner.saliency()
    assert found.min() >= 0
    assert mask != other
    by_hand = torch.cat([m.flatten() for m in learner.eval().masks()]).bool()
    assert torch.equal(space.top_k(found, 0.1, "layerwise").bits, by_hand)


# Contract of every row


def state_of(model):
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "ids": {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors.items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_learn_does_not_change_model_and_global_random_state(name, training):
    model = make_conv().train(training)
    model[2].train(not training)
    F.cross_entropy(model(make_split().inputs), make_split().targets).backward()
    before, torch_state = state_of(model), torch.get_rng_state()
    learn(name, model, weight_space(model), make_split(), 0.3, settings=SHORT)
    after = state_of(model)
    for kind in ("ids", "requires_grad", "modes"):
        assert after[kind] == before[kind]
    assert all(torch.equal(after["values"][n], t) for n, t in before["values"].items())
    assert all(t is None or torch.equal(after["grads"][n], t) for n, t in before["grads"].items())
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("name", METHODS)
def test_learn_trains_only_scores(name, monkeypatch):
    """In the trained copy, parameters do not change, and BatchNorm statistics do."""
    seen, plain = [], train_function.train

    def spy(learner, *args, **kwargs):
        before = copy.deepcopy(learner)
        training = plain(learner, *args, **kwargs)
        seen.append((before, learner))
        return training

    monkeypatch.setattr("masksearch.supermasks.train", spy)
    model = make_conv()
    learn(name, model, weight_space(model), make_split(), 0.3, settings=SHORT)
    before, after = seen[0]
    for (label, old), new in zip(before.network.named_parameters(), after.network.parameters(), strict=True):
        assert torch.equal(old, new), label
    assert not torch.equal(before.network[1].running_mean, after.network[1].running_mean)
    assert all(not torch.equal(old, new) for old, new in zip(before.scores, after.scores, strict=True))
    assert [label for label, p in after.named_parameters() if p.requires_grad] == [f"scores.{i}" for i in range(5)]


@pytest.mark.parametrize("name", METHODS)
def test_equal_seeds_give_equal_supermasks_and_other_seeds_other_supermasks(name):
    model = make_conv()
    space = weight_space(model)
    first, again, other = (
        learn(name, model, space, make_split(), 0.2, settings=SHORT, seed=seed, augment=True) for seed in (1, 1, 2)
    )
    assert isinstance(first, Mask)
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", METHODS)
def test_learned_supermask_beats_random_masks_and_chance(name):
    """On held-out images."""
    model = make_mlp(64, 60, 30, 10)
    space, held_out = weight_space(model), make_split(400, seed=1)
    mask = learn(name, model, space, make_split(600), 0.2, settings=SupermaskSettings(epochs=20))
    with space.applied(model, mask):
        found = evaluate(model, held_out).accuracy
    with space.applied(model, space.random(0.2, "layerwise", generator())):
        chance = evaluate(model, held_out).accuracy
    assert found > 0.8
    assert found > chance + 0.5


@pytest.mark.parametrize("name", METHODS)
def test_resumed_learning_of_a_supermask_equals_uninterrupted_learning(name, tmp_path):
    model, path = make_conv(), tmp_path / "scores.safetensors"
    space, longer = weight_space(model), SupermaskSettings(epochs=4, batch_size=32)

    def run(checkpoint=None, on_epoch=None, density=0.2, rescale=True):
        with_it = SupermaskSettings(epochs=longer.epochs, batch_size=longer.batch_size, rescale=rescale)
        return learn(
            name, model, space, make_split(), density, settings=with_it, checkpoint=checkpoint, on_epoch=on_epoch
        )

    def killed(row):
        if row.epoch == 3:
            raise KeyboardInterrupt

    wanted = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(path, killed)
    rows = []
    assert run(path, rows.append) == wanted
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    assert run(path) == wanted
    with pytest.raises(InputError, match="starting weights"):
        run(path, density=0.3)
    with pytest.raises(InputError, match="starting weights"):
        run(path, rescale=False)


@pytest.mark.parametrize("name", METHODS)
def test_supermask_of_a_single_linear_layer_is_learned(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    split = make_split()
    split.inputs = split.inputs.double()
    mask = learn(name, model, weight_space(model), split, 0.1, settings=SHORT)
    assert mask.n_kept == 64


# Rescaling


@pytest.mark.parametrize(("name", "power"), [("edge_popup", 0.5), ("zhou", 1.0)])
def test_weights_are_rescaled_by_the_power_of_the_inverse_density(name, power):
    model = make_conv()
    space = weight_space(model)
    learner = scored(name, model, space, 0.2, power=power).eval()
    mask = Mask(space, torch.cat([m.flatten() for m in learner.masks()]).bool())
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        for layer, weight in zip(space.layers, space.layer_weights(), strict=True):
            copied.get_parameter(weight).mul_((layer.size / mask.kept_per_layer()[layer.name]) ** power)
    with space.applied(copied, mask):
        assert torch.allclose(copied(make_split().inputs), learner(make_split().inputs), rtol=1e-4, atol=1e-5)


# Scores at the start, refusals


def test_initial_scores_of_edge_popup_have_the_kaiming_distribution():
    scores = kaiming(torch.empty(300, 49), generator())
    assert scores.abs().max() <= 1 / 7
    assert scores.std() == pytest.approx(1 / 7 / 3**0.5, rel=0.02)


def test_default_settings_are_the_published_settings():
    edge, zhou = SUPERMASKS["edge_popup"], SUPERMASKS["zhou"]
    assert (edge.lr, edge.momentum, edge.weight_decay, edge.lr_schedule) == (0.1, 0.9, 5e-4, "cosine")
    assert (edge.power, zhou.power) == (0.5, 1.0)
    assert (zhou.lr, zhou.momentum, zhou.weight_decay, zhou.lr_schedule) == (100.0, 0.9, 0.0, "constant")


def test_on_epoch_ends_the_learning_with_an_exact_mask():
    model, rows = make_mlp(64, 9, 10), []
    space = weight_space(model)
    mask = learn("zhou", model, space, make_split(), 0.25, settings=SHORT, on_epoch=lambda row: not rows.append(row))
    assert len(rows) == 1
    assert mask.n_kept == round(0.25 * space.n_units)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": -1}, "epochs: -1; allowed is 0 or more"),
        ({"batch_size": 0}, "batch_size: 0; allowed is 1 or more"),
        ({"lr": 0.0}, "lr: 0.0; allowed is a finite number above 0"),
        ({"lr": float("nan")}, "lr: nan"),
        ({"lr": float("inf")}, "lr: inf"),
    ],
)
def test_wrong_settings_of_supermasks_raise_input_error(fields, message):
    with pytest.raises(InputError, match=message):
        SupermaskSettings(**fields)


def test_wrong_arguments_of_learn_raise_input_error():
    model = make_mlp(64, 9, 10)
    space, split = weight_space(model), make_split()
    with pytest.raises(InputError, match="unknown supermask 'edge_pop': did you mean 'edge_popup'"):
        learn("edge_pop", model, space, split, 0.1)
    with pytest.raises(InputError, match="supermask 'zhou': is for weight masks, not filter"):
        learn("zhou", model, filter_space(make_mlp(64, 9, 10), split.inputs[:2]), split, 0.1)
    with pytest.raises(InputError, match="model: Sequential has shape"):
        learn("zhou", make_mlp(64, 8, 10), space, split, 0.1)
    with pytest.raises(InputError, match=r"density: 1\.5"):
        learn("zhou", model, space, split, 1.5)
    with pytest.raises(InputError, match="unknown scope 'erkk'"):
        learn("zhou", model, space, split, 0.1, scope="erkk")
    none = {"1": 0.1, "3": 0.0}
    with pytest.raises(InputError, match="keeps nothing of layer '3'"):
        learn("zhou", model, space, split, none, on_empty="raise", settings=SupermaskSettings(epochs=0))


def test_nan_loss_of_learn_raises_input_error_with_the_learning_rate():
    model = make_mlp(64, 9, 10)
    with torch.no_grad():
        model[1].weight.mul_(1e38)
    with pytest.raises(InputError, match=r"lr: 0\.1; with it the loss is \w+ in epoch 1"):
        learn("edge_popup", model, weight_space(model), make_split(), 0.5, settings=SHORT)


@pytest.mark.images
def test_edge_popup_supermask_of_an_untrained_mlp_reaches_85_percent_on_mnist():
    root = os.environ.get("MASKSEARCH_DATA")
    if not root:
        pytest.skip("MASKSEARCH_DATA is not set: it names the folder with MNIST/raw")
    data = load_data("mnist", root=root)
    model = build_model("thesis_mlp", data, seed=0)
    space = weight_space(model)
    few = SimpleNamespace(inputs=data.train.images[:10000], targets=data.train.labels[:10000])
    mask = learn("edge_popup", model, space, few, 0.1)
    assert mask.n_kept == 26620
    with space.applied(model, mask):
        assert evaluate(model, data.val).accuracy > 0.85


@pytest.mark.parametrize("name", METHODS)
def test_supermasks_are_learned_for_a_regression_on_named_inputs(name):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(5, 20), nn.Linear(20, 1)

        def forward(self, x, scale):
            return self.right(torch.relu(self.left(x))) * scale

    inputs = {"x": torch.randn(60, 5, generator=generator()), "scale": torch.ones(60, 1)}
    split = Split(inputs, inputs["x"].sum(1, keepdim=True), "regression")
    model = Sum()
    space = weight_space(model)
    losses = []
    mask = learn(name, model, space, split, 0.5, settings=SHORT, on_epoch=lambda row: losses.append(row.train_loss))
    assert mask.n_kept == 60
    assert len(losses) == 2
