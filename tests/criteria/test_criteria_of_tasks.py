"""Criteria of every task: gradients of the task's loss, splits, streams and batches, and unusable saliencies."""

import pytest
import torch
import torch.nn.functional as F
from task_cases import CASES, N, Streamed, case, floats, integers
from torch import nn

import masksearch as ms
from masksearch.criteria import CRITERIA, Connectivity, Criterion, grasp, snip, synflow, taylor
from masksearch.data import Split
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError
from masksearch.utils.nested import call_model

TASKS = pytest.mark.parametrize("name", CASES)
GRADIENTS = [name for name, row in CRITERIA.items() if row.takes_loss]


def gradients_of(model, split):
    """The gradient of the task's mean loss of all examples in the weights, BatchNorm in train mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    task = split.task
    value = task.loss_of(call_model(model, split.inputs), split.targets)
    weights = dict(model.named_parameters())
    names = weight_space(model).layer_weights()
    found = torch.autograd.grad(value, [weights[name] for name in names])
    return torch.cat([(g * weights[name].detach()).flatten() for name, g in zip(names, found, strict=True)])


@TASKS
def test_snip_of_a_split_is_the_gradient_of_the_tasks_loss(name):
    model, split = case(name)
    space = weight_space(model)
    found = snip(model, space, split)
    expected = gradients_of(model, split).abs()
    assert torch.allclose(found / found.sum(), expected / expected.sum(), rtol=1e-4, atol=1e-8)


@TASKS
@pytest.mark.parametrize("criterion", [snip, grasp])
def test_saliencies_of_splits_streams_and_batches_are_equal(name, criterion):
    model, split = case(name)
    space = weight_space(model)
    whole = criterion(model, space, split)
    assert torch.equal(criterion(model, space, Streamed(split)), whole)
    loader = criterion(model, space, Streamed(split, loader_batch=N))
    assert torch.equal(loader, whole)
    if split.task.weight is None:  # else a batch's loss is weighted by its tokens
        pair = [(split.inputs, split.targets)]
        if not (criterion is grasp and split.task.classifies):
            assert torch.equal(criterion(model, space, pair, loss=split.task.loss_of), whole)
        if split.task.classifies:
            assert torch.equal(criterion(model, space, pair), whole)


@TASKS
@pytest.mark.parametrize("criterion", GRADIENTS)
def test_gradient_criteria_give_masks_of_the_density_for_every_task(name, criterion):
    model, split = case(name)
    row = CRITERIA[criterion]
    if "weight" in row.granularities:
        space = weight_space(model)
    elif isinstance(split.inputs, torch.Tensor) and name in ("classification", "binary", "multilabel", "own"):
        if name == "own":
            pytest.skip("a single layer has no filters to remove")
        space = filter_space(model, split.inputs[:1])
    else:
        pytest.skip("this test needs no filter space of this network")
    if (name, criterion) == ("own", "grasp"):  # absolute errors have no curvature
        with pytest.raises(InputError, match="'grasp': all 18 saliencies are 0, which ranks no unit"):
            ms.criteria.mask(criterion, model, space, split, sparsity=0.5)
        return
    mask = ms.criteria.mask(criterion, model, space, split, sparsity=0.5, on_empty="keep_one")
    assert mask.n_kept == space.count(0.5)


def test_batches_of_a_stream_are_weighted_by_the_number_of_examples():
    """A loader's small last batch counts by its examples, not as a whole batch."""
    model, split = case("regression")
    space = weight_space(model)
    whole, parts = (snip(model, space, s) for s in (split, Streamed(split, loader_batch=10)))
    assert torch.allclose(parts, whole, rtol=1e-4)


def test_criteria_mask_is_criteria_select():
    assert ms.criteria.mask is ms.criteria.select


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_targets_other_than_classes_without_a_loss_raise_input_error(criterion):
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    granularity = CRITERIA[criterion].granularities[0]
    space = weight_space(model) if granularity == "weight" else filter_space(model, torch.zeros(1, 10))
    batches = [(floats(50, 10), floats(50, 1))]
    with pytest.raises(InputError, match=f"criterion '{criterion}': targets are float32 1, not integer.*give loss="):
        ms.criteria.mask(criterion, model, space, batches, density=0.5)
    with pytest.raises(InputError, match="targets are none, not integer classes"):
        CRITERIA[criterion].saliency(model, space, [(floats(50, 10), None)])
    with pytest.raises(InputError, match="classes 0 to 1, and the model has 1; give loss="):
        CRITERIA[criterion].saliency(model, space, [(floats(50, 10), integers(2, 50))])
    assert ms.criteria.mask(criterion, model, space, batches, density=0.5, loss=F.mse_loss).n_kept


def test_taylor_of_a_binary_task_works_with_a_single_logit():
    model, split = case("binary")
    space = weight_space(model)
    found = taylor(model, space, split)
    assert found.isfinite().all()
    assert len(found.unique()) > space.n_units / 2


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_saliencies_of_zero_raise_input_error(criterion):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[0].weight.zero_()
    space, batches = weight_space(model), [(floats(8, 6), integers(3, 8))]
    with pytest.raises(InputError, match=f"criterion '{criterion}': all 36 saliencies are 0, which ranks no unit"):
        ms.criteria.mask(criterion, model, space, batches, density=0.5)


def test_loss_without_gradient_raises_input_error():
    model, split = case("classification")
    batches = [(split.inputs, split.targets)]
    with pytest.raises(InputError, match=r"ranks no unit.*give the loss of the task"):
        ms.criteria.mask("snip", model, weight_space(model), batches, loss=lambda outputs, targets: 0 * outputs.sum())


def test_equal_saliencies_of_valid_networks_are_ranked_at_random():
    """Equal weights, a single unit, and networks without a path to the output: ties are ranked at random."""
    model, split = case("classification")
    space, batches = weight_space(model), [(split.inputs, split.targets)]
    with torch.no_grad():
        model[1].weight.fill_(0.5)
        model[3].weight.fill_(0.5)
    assert ms.criteria.mask("magnitude", model, space, density=0.5).n_kept == space.count(0.5)
    cut = space.random(1.0)
    bits = cut.bits.clone()
    bits[space.layers[1].slice] = False
    cut = ms.Mask(space, bits)
    left = ms.criteria.mask("snip", model, space, batches, 0.2, alive=cut, on_empty="allow")
    assert left.n_kept == space.count(0.2)
    single = nn.Linear(1, 1)
    one = weight_space(single)
    found = ms.criteria.saliency("snip", single, one, [(floats(8, 1), floats(8, 1))], loss=F.mse_loss)
    assert found.shape == (1,)


@pytest.mark.parametrize(
    ("returned", "words"),
    [(torch.ones(89), r"returned a tensor \(89,\)"), ([1.0] * 90, "returned a list")],
)
def test_criterion_without_a_value_per_unit_raises_input_error(returned, words, monkeypatch):
    model, _ = case("classification")
    row = Criterion(lambda model, space, batches=(), *, initial=None, alive=None: returned, "a test")
    monkeypatch.setitem(CRITERIA._rows, "broken", row)
    with pytest.raises(InputError, match=rf"criterion 'broken': {words}; a tensor \(90,\) is needed"):
        ms.criteria.saliency("broken", model, weight_space(model))


def test_nan_saliencies_of_kept_units_raise_input_error(monkeypatch):
    model, split = case("classification")
    space = weight_space(model)
    values = torch.arange(space.n_units, dtype=torch.float32)
    values[3] = torch.nan
    row = Criterion(lambda model, space, batches=(), *, initial=None, alive=None: values, "a test")
    with monkeypatch.context() as patch:
        patch.setitem(CRITERIA._rows, "broken", row)
        with pytest.raises(InputError, match="criterion 'broken': 1 of 90 saliencies are NaN or infinite"):
            ms.criteria.mask("broken", model, space, density=0.5)
        bits = torch.ones(space.n_units, dtype=torch.bool)
        bits[3] = False
        assert ms.criteria.mask("broken", model, space, density=0.5, alive=ms.Mask(space, bits)).n_kept == 45
    with pytest.raises(InputError, match=r"criterion 'snip': .* NaN or infinite"):
        ms.criteria.mask("snip", model, space, split, loss=lambda outputs, targets: outputs.sum() * torch.inf)


@TASKS
def test_synflow_and_connectivity_accept_inputs_of_any_form(name):
    model, split = case(name)
    space = weight_space(model)
    found = synflow(model, space, split)
    assert found.shape == (space.n_units,)
    assert torch.equal(synflow(model, space, [(split.inputs, None)]), found)
    assert torch.equal(synflow(model, space, Streamed(split)), found)
    connectivity = Connectivity(model, space, split.inputs)
    assert not connectivity.dead(space.full()).all()


def test_synflow_of_token_inputs_depends_on_the_tokens():
    model, split = case("language_model")
    tokens = {"ids": split.inputs["ids"], "mask": torch.ones_like(split.inputs["mask"])}
    space = weight_space(model)
    others = {"ids": (tokens["ids"] + 1) % 9, "mask": tokens["mask"]}
    one, two = (synflow(model, space, [(inputs, None)]) for inputs in (tokens, others))
    assert not torch.equal(one, two)


def test_snip_of_named_outputs_equals_snip_of_plain_logits():
    class Plain(nn.Module):
        def __init__(self, named):
            super().__init__()
            self.conv, self.head = named.conv, named.head

        def forward(self, series):
            return self.head(F.relu(self.conv(series)).mean(2))

    named, split = case("named logits")
    plain = Plain(named)
    batches = [(split.inputs, split.targets)]
    assert torch.equal(snip(named, weight_space(named), batches), snip(plain, weight_space(plain), batches))


def test_snip_and_grasp_of_class_batches_use_cross_entropy_by_default():
    model, split = case("classification")
    space = weight_space(model)
    batches = [(split.inputs, split.targets)]
    assert torch.equal(snip(model, space, batches), snip(model, space, batches, loss=F.cross_entropy))
    softened = grasp(model, space, batches, loss=lambda outputs, targets: F.cross_entropy(outputs / 200, targets))
    assert torch.equal(grasp(model, space, batches), softened)
    empty = Split(split.inputs[:1], split.targets[:1])
    assert snip(model, space, empty).isfinite().all()
