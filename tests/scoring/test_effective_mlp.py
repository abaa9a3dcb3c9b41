"""Effective parts of masked chains: smaller networks with equal outputs before and after training."""

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Split
from masksearch.scoring import ShortTraining
from masksearch.scoring.short_training import short_training
from masksearch.scoring.short_training.effective_mlp import effective_network
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings, train


def make_chain(*after):
    torch.manual_seed(0)
    layers = [nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6, bias=False), *(after or (nn.Tanh(),)), nn.Linear(6, 3)]
    return nn.Sequential(nn.Flatten(), *layers).double()


def make_split(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 3, 4, generator=generator, dtype=torch.float64)
    return Split(images, (images[:, 0, 0, 0] > 0).long() + (images[:, 0, 2, 1] > 0).long())


def masked(model, space, mask):
    space.apply(model, mask)
    return space.parameter_masks(mask)


def sizes(network):
    return [tuple(module.weight.shape) for module in network if isinstance(module, nn.Linear)]


def test_effective_network_has_no_units_without_a_path_to_an_output():
    """Three inputs lead to hidden units; a hidden unit without outputs, and its input, are removed."""
    model = make_chain()
    space = weight_space(model)
    bits = torch.zeros(space.n_units, dtype=torch.bool)
    first, second, third = (layer.slice.start for layer in space.layers)
    for unit, pixel in ((0, 2), (0, 5), (3, 5), (7, 9)):  # weights of the first layer
        bits[first + 12 * unit + pixel] = True
    for unit, hidden in ((1, 0), (4, 3), (4, 0), (5, 2)):  # 7 has no outputs; 2 has no inputs, but 5 needs it
        bits[second + 8 * unit + hidden] = True
    bits[third + 1], bits[third + 5] = True, True  # the first output has inputs 1 and 5; 4 has no outputs
    masks = masked(model, space, Mask(space, bits))
    part = effective_network(model, masks)
    assert part.inputs.tolist() == [2, 5]
    assert sizes(part.network) == [(2, 2), (2, 2), (3, 2)]  # hidden 0 and 2, then 1 and 5; outputs stay
    assert {name: int(keep.sum()) for name, keep in part.masks.items()} == {"1.weight": 2, "3.weight": 2, "5.weight": 2}
    images = make_split(9)
    assert torch.equal(part.network(part.seen(images).images), model(images.images))


@settings(deadline=None, max_examples=40)
@given(density=st.floats(0.03, 0.4), seed=st.integers(0, 2**16))
def test_outputs_of_effective_network_equal_full_network_before_and_after_training(density, seed):
    model, split = make_chain(), make_split(40, seed)
    space = weight_space(model)
    mask = space.random(density, generator=torch.Generator().manual_seed(seed), on_empty="allow")
    masks = masked(model, space, mask)
    part = effective_network(model, masks)
    assume(part is not None)
    seen = part.seen(split)
    torch.testing.assert_close(part.network(seen.images), model(split.images), rtol=0, atol=1e-12)
    training = TrainSettings(epochs=2, batch_size=8, lr=0.05, weight_decay=1e-3)
    train(model, split, training, masks=masks, seed=1)
    train(part.network, seen, training, masks=part.masks, seed=1)
    torch.testing.assert_close(part.network(seen.images), model(split.images), rtol=0, atol=1e-10)


def test_effective_network_is_none_for_unsuitable_networks_full_and_empty_masks():
    split = make_split(4)
    for model in (
        make_chain(nn.Dropout(0.5)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(4, 3)).double(),
    ):
        space = weight_space(model)
        mask = space.random(0.1, generator=torch.Generator().manual_seed(0), on_empty="allow")
        assert effective_network(model, masked(model, space, mask)) is None
    chain = make_chain()
    space = weight_space(chain)
    assert effective_network(chain, masked(copy.deepcopy(chain), space, space.full())) is None
    nothing = Mask(space, torch.zeros(space.n_units, dtype=torch.bool))
    assert effective_network(chain, masked(chain, space, nothing)) is None
    assert chain(split.images).isfinite().all()


def test_effective_network_keeps_excluded_layers_whole():
    model = make_chain()
    space = weight_space(model, exclude=["5"])
    mask = space.random(0.1, generator=torch.Generator().manual_seed(1))
    part = effective_network(model, masked(model, space, mask))
    assert sizes(part.network)[-1] == (3, 6)
    assert "5.weight" not in part.masks
    images = make_split(9)
    torch.testing.assert_close(part.network(part.seen(images).images), model(images.images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("augment", [False, True])
def test_short_training_scores_are_equal_with_and_without_effective_network(augment, monkeypatch):
    model, learned, scored = make_chain(), make_split(80), make_split(40, seed=1)
    space = weight_space(model)
    mask = space.random(0.1, generator=torch.Generator().manual_seed(2))
    training = TrainSettings(epochs=4, batch_size=10, lr=0.1)
    scorer = ShortTraining(model, space, learned, scored, training, steps=16, augment=augment)
    made = []
    monkeypatch.setattr(
        short_training, "effective_network", lambda *given: made.append(effective_network(*given)) or made[-1]
    )
    score = scorer(mask)
    assert [part is not None for part in made] == (
        [] if augment else [True]
    )  # crops move pixels, so that other pixels are inputs
    monkeypatch.setattr(short_training, "effective_network", lambda *given: None)
    plain = scorer(mask)
    assert score.value == pytest.approx(plain.value, abs=1e-12)
    assert (score.exact, score.images) == (plain.exact, plain.images)


def test_frozen_parameters_stay_frozen_in_the_effective_network():
    model = make_chain()
    model[1].bias.requires_grad_(False)
    model[5].weight.requires_grad_(False)
    space = weight_space(model)
    mask = space.random(0.15, generator=torch.Generator().manual_seed(2))
    network = effective_network(model, masked(model, space, mask)).network
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"1.bias", "5.weight"}
