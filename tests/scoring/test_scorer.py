"""The scorer: scores equal an independent forward pass on a copy of the model; unsuitable arguments raise errors."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.scoring import OBJECTIVES, Scorer, ShortTraining
from masksearch.searching.subspace import Subspace, SubspaceScorer
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
        )
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net.train()


def make_split(n=37, classes=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return Split(torch.randn(n, 1, 6, 6, generator=g), torch.randint(0, classes, (n,), generator=g))


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def by_hand(model, mask, split, objective):
    """An independent forward: functional, in eval mode, weights multiplied by the mask."""
    conv, linear = mask.bits[:36].view(4, 1, 3, 3), mask.bits[36:].view(5, 64)
    x = F.conv2d(split.images, model[0].weight * conv, model[0].bias)
    norm = model[1]
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps)
    x = F.linear(x.relu().flatten(1), model[5].weight * linear, model[5].bias)
    if objective == "accuracy":
        return (x.argmax(1) == split.labels).double().mean().item()
    if objective == "calibrated_loss":
        x = 3 * x / x.std()
    return -F.cross_entropy(x, split.labels).item()


@pytest.mark.parametrize("batch_size", [1000, 37, 10, 1])
@pytest.mark.parametrize("objective", [name for name, row in OBJECTIVES.items() if row.of_logits])
def test_scores_equal_an_independent_forward_pass_for_all_batch_sizes(objective, batch_size):
    model, split = make_net(), make_split()
    space = weight_space(model)
    scorer = Scorer(model, space, split, objective, batch_size=batch_size)
    masks = [space.full(), *(space.random(0.3, generator=torch.Generator().manual_seed(i)) for i in range(4))]
    values = [score.value for score in scorer.score([Proposal.of(mask) for mask in masks])]
    assert values == pytest.approx([by_hand(model, mask, split, objective) for mask in masks], abs=1e-5)
    assert len(set(values)) > 1
    assert scorer(masks[2]).value == values[2]
    score = scorer(masks[2])
    assert (score.exact, score.images) == (True, 37)
    assert score.seconds > 0


def test_score_of_a_proposal_equals_the_score_of_the_mask():
    model, split = make_net(), make_split()
    space = weight_space(model)
    scorer = Scorer(model, space, split)
    base = space.random(0.5, generator=torch.Generator().manual_seed(0))
    move = base.move_to(space.random(0.5, generator=torch.Generator().manual_seed(1)))
    [score] = scorer.score([Proposal.moving(base, move, threshold=2.0)])
    assert score.exact
    assert score.value == scorer(base.moved(move)).value


def test_scorer_copies_the_model_and_does_not_change_it():
    model, split = make_net(), make_split()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, modes, rng = state_of(model), [m.training for m in model.modules()], torch.get_rng_state()
    space = weight_space(model)
    scorer = Scorer(model, space, split, "loss")
    mask = space.random(0.2, generator=torch.Generator().manual_seed(0))
    value = scorer(mask).value
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.equal(torch.get_rng_state(), rng)
    with torch.no_grad():
        model[0].weight.zero_()  # the scorer keeps a copy of the weights
    assert scorer(mask).value == value
    assert scorer(space.full()).value == scorer(space.full()).value


def test_callable_objective_gets_the_masked_model_in_eval_mode():
    model, split = make_net(), make_split()
    space = weight_space(model)
    mask = space.random(0.25, generator=torch.Generator().manual_seed(0))
    seen = []

    def objective(network, images, labels):
        assert not any(module.training for module in network.modules())
        assert torch.equal(images, split.images)
        assert torch.equal(labels, split.labels)
        seen.append(int((network[5].weight != 0).sum() + (network[0].weight != 0).sum()))
        F.cross_entropy(network(images), labels).backward()  # objectives may use gradients
        return torch.tensor(seen[-1] / 2)

    scorer = Scorer(model, space, split, objective)
    assert scorer(mask).value == mask.n_kept / 2
    assert seen == [mask.n_kept]
    assert isinstance(scorer(mask).value, float)


def no_score(network, images, labels, factor=1):
    """Returns nothing."""


def loss_per_image(network, images, labels):
    return F.cross_entropy(network(images), labels, reduction="none")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (no_score, "objective: no_score returned None; a number is needed"),
        (partial(no_score, factor=2), "objective: no_score returned None; a number is needed"),
        (loss_per_image, r"objective: loss_per_image returned a tensor \(\d+,\); a number is needed"),
    ],
)
def test_objective_without_a_number_as_result_raises_input_error(objective, message):
    model = make_net()
    space = weight_space(model)
    with pytest.raises(InputError, match=message):
        Scorer(model, space, make_split(), objective)(space.full())


def test_failing_objective_does_not_change_the_scorer():
    model, split = make_net(), make_split()
    space = weight_space(model)
    state = {"fails": True}

    def objective(network, images, labels):
        if state["fails"]:
            raise ZeroDivisionError
        return network(images).sum().item()

    scorer = Scorer(model, space, split, objective)
    with pytest.raises(ZeroDivisionError):
        scorer(space.random(0.2))
    state["fails"] = False
    assert scorer(space.full()).value == pytest.approx(make_net().eval()(split.images).sum().item(), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1000, 10])
def test_loss_function_of_the_user_is_the_score(batch_size):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, images):
            return self.net(images), images.mean()

    def custom(outputs, labels):
        return F.cross_entropy(outputs[0], labels)

    model, split = Pair(), make_split()
    space = weight_space(model)
    value = Scorer(model, space, split, "loss", loss=custom, batch_size=batch_size)(space.full()).value
    inner = weight_space(model.net)
    assert value == pytest.approx(Scorer(model.net, inner, split, "loss")(inner.full()).value, rel=1e-5)
    with pytest.raises(InputError, match="loss: given with objective 'accuracy'; give it with objective 'loss' only"):
        Scorer(model, space, split, "accuracy", loss=custom)


def test_scorer_returns_a_nan_score():
    model, split = make_net(), make_split()
    space = weight_space(model)
    assert math.isnan(Scorer(model, space, split, lambda *_: math.nan)(space.full()).value)


class Returns(nn.Module):
    """A network with any kind of output."""

    def __init__(self, output):
        super().__init__()
        self.layer, self.output = nn.Linear(36, 5), output

    def forward(self, images):
        return self.output(self.layer(images.flatten(1)))


def with_bad_weight(value):
    model = make_net()
    with torch.no_grad():
        model[5].bias[2] = value
    return model


def with_bad_pixel(value):
    split = make_split()
    split.images[3, 0, 2, 2] = value
    return split


BAD = {
    "images out": (Returns(lambda z: z.view(-1, 5, 1)), make_split(), r"returns a tensor of shape \(2, 5, 1\)"),
    "one logit": (Returns(lambda z: z[:, :1]), make_split(), "classes 0 to 0; task='binary' takes one logit"),
    "inputs of another size": (
        nn.Linear(3, 5),
        make_split(),
        "model: Linear fails on inputs float32 1x6x6",
    ),
    "label above": (make_net(), make_split(classes=9), "labels: 0 to 8; the model has classes 0 to 4"),
    "NaN weight": (with_bad_weight(math.nan), make_split(), "weights: 5.bias has NaN"),
    "infinite weight": (with_bad_weight(math.inf), make_split(), "weights: 5.bias has NaN or infinite"),
    "NaN image": (make_net(), with_bad_pixel(math.nan), "inputs to score on: some are NaN"),
    "infinite image": (make_net(), with_bad_pixel(-math.inf), "inputs to score on: some are NaN or infinite"),
}


@pytest.mark.parametrize(("model", "split", "message"), BAD.values(), ids=BAD)
def test_unsuitable_models_and_splits_raise_input_error_at_construction(model, split, message):
    with pytest.raises(InputError, match=message) as caught:
        Scorer(model, weight_space(model), split)
    assert "\n" not in str(caught.value)


def test_unknown_objective_and_mask_of_another_network_raise_input_error():
    model, split = make_net(), make_split()
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        Scorer(model, weight_space(model), split, "acc")
    other = weight_space(nn.Linear(3, 3))
    scorer = Scorer(model, weight_space(model), split)
    with pytest.raises(InputError, match="doesn't fit this weight space"):
        scorer(Mask(other, torch.ones(9, dtype=torch.bool)))


def test_scorer_accepts_masks_and_proposals():
    model, split = make_net(), make_split()
    space = weight_space(model)
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0))
    scorer = Scorer(model, space, split, "loss")
    other = scorer.score([Proposal.of(mask), mask, space.full()])
    assert other[0].value == other[1].value == scorer(mask).value
    assert other[2].value == scorer(space.full()).value


SAME_SIZE = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))  # four units, as the networks below


@pytest.mark.parametrize(
    "kind", ["incremental", "moved", "plain", "custom loss", "callable", "short training", "alive"]
)
def test_every_scorer_refuses_masks_of_another_space(kind):
    images = torch.randn(8, 1, 2, 1, generator=torch.Generator().manual_seed(0))
    split = Split(images, (images[:, 0, 0, 0] > 0).long())
    layer = nn.Linear(2, 2)
    model = nn.Sequential(nn.Flatten(), nn.Identity(), layer)  # the layer's name differs from SAME_SIZE's
    space = weight_space(model)
    if kind == "moved":
        model = nn.Sequential(nn.Flatten(), nn.Softsign(), layer)  # no chain for IncrementalPath
        space = weight_space(model)
    options = {
        "plain": {"fast": False},
        "custom loss": {"objective": "loss", "loss": nn.functional.cross_entropy},
        "callable": {"objective": lambda model, images, labels: 0.0},
    }
    if kind == "short training":
        scorer = ShortTraining(model, space, split, split, TrainSettings(batch_size=4), steps=1)
    else:
        scorer = Scorer(model, space, split, **options.get(kind, {"objective": "loss"}))
    if kind == "alive":
        space = Subspace(space.full())
        scorer = SubspaceScorer(scorer, space)
    other = weight_space(SAME_SIZE).full()
    for one in (other, Proposal.of(other)):
        with pytest.raises(InputError, match="doesn't fit this weight space"):
            scorer.score([space.full(), one])
    twin = weight_space(model).full()  # of an equal space, which is another object
    assert kind == "alive" or scorer.score([twin])[0].value == scorer.score([space.full()])[0].value


def test_scorer_puts_network_and_examples_on_the_given_device():
    model, split = make_net(), make_split()
    space = weight_space(model)
    devices = set()

    def objective(network, images, labels):
        devices.update({images.device, labels.device, *(p.device for p in network.parameters())})
        return 0.0

    Scorer(model, space, split, objective, device="cpu")(space.full())
    assert devices == {torch.device("cpu")}


def test_share_of_a_proposal_sets_the_number_of_scored_examples():
    net, split = make_net(), make_split(40)
    space = weight_space(net)
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0))
    for objective in ("loss", "accuracy", "bn_recalibrated"):
        scorer = Scorer(net, space, split, objective)
        quarter, whole = scorer.score([replace(Proposal.of(mask), share=0.25), Proposal.of(mask)])
        assert quarter.images == 10
        assert quarter.value == pytest.approx(Scorer(net, space, split[:10], objective)(mask).value)
        assert whole.value == scorer(mask).value
