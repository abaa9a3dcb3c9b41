"""Batched masks: several masks in a pass have the logits and scores of single masks."""

import pytest
import torch
from path_cases import generator, make_conv_net, make_mlp, make_split
from torch import nn

from masksearch.core.problem_and_trials import Proposal
from masksearch.models import MODELS, build_model
from masksearch.scoring import Scorer
from masksearch.scoring.objectives import OBJECTIVES
from masksearch.scoring.paths.batched import BatchedMasks, batched_objective, is_small, supports_batching
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.spaces import weight_space
from masksearch.utils.errors import InputError

CLASSIFIERS = [name for name, row in MODELS.items() if row.task == "classification"]
OF_LOGITS = {name: row.of_logits for name, row in OBJECTIVES.items() if row.of_logits is not None}


class Tied(nn.Module):
    """Two layers of the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 5)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())


class ValueDependent(nn.Sequential):
    """Its outputs depend on a condition on values."""

    def forward(self, images):
        out = super().forward(images)
        return out if out.sum() > 0 else -out


def with_space(name):
    model = build_model(f"{name}:0.1", (3, 32, 32), seed=0).eval()
    return model, weight_space(model)


def random_masks(space, n=3):
    return [space.random(0.4, generator=generator(seed), on_empty="allow") for seed in range(n)]


NETWORKS = {
    "chain": (lambda: make_mlp(), ()),
    "in place": (lambda: make_mlp("relu in place"), ()),
    "some layers": (lambda: make_mlp(), ("3",)),
    "residual": (lambda: make_conv_net(torch.float64), ()),
    "tied": (lambda: Tied().double(), ("second",)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_batched_masks_equal_logits_of_single_masks(name):
    make, exclude = NETWORKS[name]
    model = make().eval()
    images = make_split(30, shape=(1, 6, 6) if name == "residual" else (1, 4, 5)).images
    space = weight_space(model, exclude=exclude)
    masks, reference = random_masks(space), ReferencePath(model, space, images, 30)
    wanted = torch.stack([reference.logits(Proposal.of(mask)) for mask in masks])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for batch_size in (1, 30, 1000):
        assert torch.allclose(BatchedMasks(model, space, images, batch_size).logits(masks), wanted, rtol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("measure", OF_LOGITS.values(), ids=OF_LOGITS)
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if is_small(*with_space(name))])
def test_small_networks_and_all_objectives_support_batching(name, measure):
    model, space = with_space(name)
    images = torch.randn(2, 3, 32, 32, generator=generator())
    assert supports_batching(model, space, measure, images, torch.tensor([0, 1]))


@pytest.mark.parametrize("measure", OF_LOGITS.values(), ids=OF_LOGITS)
def test_batched_objectives_equal_objectives_of_single_masks(measure):
    logits, labels = torch.randn(3, 40, 5, generator=generator()).double(), make_split().labels
    logits[1, 7, 2] = torch.nan
    wanted = torch.stack([measure(one, labels) for one in logits])
    assert torch.allclose(batched_objective(measure, logits, labels), wanted, equal_nan=True)


class OfTheBatch(nn.Sequential):
    """The output of an image depends on the other images."""

    def forward(self, images):
        out = super().forward(images)
        return out - out.mean(0)


class DifferentIfBatched(nn.Sequential):
    """Returns other outputs if batched over its weights."""

    def forward(self, images):
        out = super().forward(images)
        return out + 1 if torch._C._functorch.is_batchedtensor(out) else out


def synchronising(logits, labels):
    """An objective that waits for the device."""
    return torch.tensor(float(logits.sum()))


def test_networks_and_objectives_with_other_results_in_batches_are_not_batched():
    split, mlp = make_split(4), make_mlp().eval()
    accuracy = OF_LOGITS["accuracy"]
    assert supports_batching(mlp, weight_space(mlp), accuracy, split.images, split.labels)
    assert not supports_batching(mlp, weight_space(mlp), synchronising, split.images, split.labels)
    infinite = make_mlp()
    with torch.no_grad():
        for parameter in infinite.parameters():
            parameter.fill_(1e200)
    for other in (ValueDependent(*make_mlp()), OfTheBatch(*make_mlp()), DifferentIfBatched(*make_mlp()), infinite):
        assert not supports_batching(other.eval(), weight_space(other), accuracy, split.images, split.labels)


def test_networks_of_linear_layers_up_to_a_million_weights_are_small():
    sizes = {"lenet_300_100": True, "thesis_mlp": True, "lenet5": False, "resnet20": False}
    models = {name: build_model(name, (1, 28, 28)) for name in sizes}
    assert {name: is_small(model, weight_space(model)) for name, model in models.items()} == sizes
    large = nn.Sequential(nn.Flatten(), nn.Linear(1024, 1025))
    assert not is_small(large, weight_space(large))


def test_images_per_pass_are_divided_by_the_number_of_masks():
    model, images = make_mlp().eval(), make_split(40).images
    space, seen = weight_space(model), []
    together = BatchedMasks(model, space, images, 45)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    together.logits(random_masks(space, 3))
    assert seen == [15, 15, 10]


def test_batched_masks_copy_the_weights():
    model, images = make_mlp().eval(), make_split().images
    space = weight_space(model)
    together, masks = BatchedMasks(model, space, images, 100), random_masks(space)
    before = together.logits(masks)
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(together.logits(masks), before)


@pytest.mark.parametrize("objective", OF_LOGITS)
def test_scorer_with_several_masks_per_pass_equals_scorer_of_single_masks(objective):
    model, split = make_mlp(), make_split()
    space = weight_space(model)
    scorer = Scorer(model, space, split, objective, masks_per_pass=16)
    alone = Scorer(model, space, split, objective, fast=False)
    assert (scorer.masks_per_pass, alone.masks_per_pass) == (16, 1)
    masks = random_masks(space, 19)  # a group of sixteen, and one of three
    scores = scorer.score([Proposal.of(mask) for mask in masks])
    assert [score.value for score in scores] == pytest.approx([alone(mask).value for mask in masks], abs=1e-12)
    assert {(score.exact, score.images) for score in scores} == {(True, len(split))}
    with pytest.raises(InputError, match="doesn't fit this weight space"):
        scorer.score([Proposal.of(mask) for mask in (masks[0], weight_space(nn.Linear(3, 3)).full())])
