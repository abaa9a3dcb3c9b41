"""Durations: moments of a training with their unit."""

import pytest

from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "canonical", "steps"),
    [
        ("0", "0", 0),
        ("0ep", "0", 0),
        ("0it", "0", 0),
        ("3ep", "3ep", 21),
        ("500it", "500it", 500),
        ("end", "end", 70),
        ("best", "best", 70),
        ("best:3ep", "best:3ep", 21),
        ("best:03ep", "best:3ep", 21),
    ],
)
def test_moment_is_parsed_and_converted_to_steps(text, canonical, steps):
    moment = TrainingMoment.parse(text)
    assert str(moment) == canonical
    assert TrainingMoment.parse(canonical) == moment
    assert moment.steps(steps_per_epoch=7, epochs=10) == steps
    assert moment.best == text.startswith("best")


@pytest.mark.parametrize(
    "text",
    [
        *("3", "ep", "", "-1ep", "3.5ep", "3 ep", "3epochs", "End", "3ep ", "1e3it", "none"),
        *("best:0", "best:0ep", "best:3", "best:5it", "best:end", "best:", "best3ep", "bests"),
    ],
)
def test_wrong_moment_raises_input_error_with_its_flag(text):
    with pytest.raises(InputError, match="find_at") as caught:
        TrainingMoment.parse(text, "find_at")
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0", "10ep", "70it", "end", "1it", "best", "best:10ep"])
def test_check_within_accepts_moments_of_the_training(text):
    TrainingMoment.parse(text).check_within(steps_per_epoch=7, epochs=10)


@pytest.mark.parametrize("text", ["11ep", "71it", "best:11ep"])
def test_check_within_raises_input_error_for_moments_after_the_training(text):
    with pytest.raises(InputError, match=r"k: .* 10ep = 70it"):
        TrainingMoment.parse(text).check_within(7, 10, "k")
