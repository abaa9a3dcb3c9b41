"""Checks of contracts: without pytest; correct components pass, and components that break a contract fail."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from masksearch.criteria import CRITERIA, Criterion
from masksearch.models import MODELS, ModelRow
from masksearch.schedules import SCHEDULES
from masksearch.searchers import SEARCHERS, RandomSearch
from masksearch.testing import check_criterion, check_model, check_schedule, check_searcher


def test_checks_work_without_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from masksearch.testing import check_criterion\nfrom masksearch.criteria import CRITERIA\n"
        "check_criterion(CRITERIA['snip']); print('kept')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "kept\n", done.stderr


def test_components_of_the_package_pass_the_checks(tmp_path):
    check_searcher(SEARCHERS["annealing"], tmp_path)
    check_criterion(CRITERIA["grasp"])
    check_model(MODELS["lenet5"], (1, 28, 28))
    check_schedule(SCHEDULES["rigl"])


def test_check_searcher_fails_without_a_saved_generator(tmp_path):
    class WithoutGenerator(RandomSearch):
        def state_dict(self):
            return {**super().state_dict(), "generator": torch.Generator().get_state()}

    with pytest.raises(AssertionError):
        check_searcher(WithoutGenerator, tmp_path)


def trains(model, space, batches, *, initial=None, alive=None):
    model.eval()
    return torch.ones(space.n_units)


def draws(model, space, batches, *, initial=None, alive=None):
    return torch.rand(space.n_units)


def leaves_a_gradient(model, space, batches, *, initial=None, alive=None):
    images, labels = batches[0]
    nn.functional.cross_entropy(model(images), labels).backward()
    return torch.ones(space.n_units)


def infinite(model, space, batches, *, initial=None, alive=None):
    return torch.ones(space.n_units) / 0


def too_few(model, space, batches, *, initial=None, alive=None):
    return torch.ones(len(space.layers))


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        (trains, "modes changed"),
        (draws, "second time|random state"),
        (leaves_a_gradient, "changed|gone"),
        (infinite, "not finite"),
        (too_few, "values for"),
        (CRITERIA["mag_sign"].saliency, "needs initial="),
    ],
)
def test_check_criterion_fails_for_broken_saliencies(saliency, message):
    with pytest.raises((AssertionError, ValueError), match=message):
        check_criterion(Criterion(saliency, "a test"))


def test_check_criterion_fails_for_needs_batches_of_a_criterion_without_batches():
    with pytest.raises(AssertionError, match="was not missed"):
        check_criterion(replace(CRITERIA["magnitude"], needs_batches=True))


def test_check_criterion_fails_for_other_errors_than_input_error():
    def fails(model, space, batches, *, initial=None, alive=None):
        images, _ = next(iter(batches), None) or None.no_batches
        return torch.ones(space.n_units) * len(images)

    with pytest.raises(AssertionError, match=r"raised AttributeError.* an InputError is needed"):
        check_criterion(Criterion(fails, "a test", needs_batches=True))


class Idle(nn.Module):
    """Has an unused layer."""

    def __init__(self, classes):
        super().__init__()
        self.used, self.idle = nn.Linear(12, classes), nn.Linear(12, classes)

    def forward(self, images):
        return self.used(images.flatten(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda shape, classes, width: Idle(classes), "no gradient for idle"),
        (lambda shape, classes, width: nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), "outputs"),
        (lambda shape, classes, width: nn.Sequential(nn.Flatten(), nn.Linear(12, classes)), "hardly smaller"),
    ],
)
def test_check_model_fails_for_broken_models(build, message):
    with pytest.raises(AssertionError, match=message):
        check_model(ModelRow(build, "a test"), (3, 2, 2))


def test_check_schedule_fails_for_rounds_of_a_schedule_without_rounds():
    with pytest.raises(AssertionError, match="has no rounds"):
        check_schedule(replace(SCHEDULES["rigl"], rounds=3))
