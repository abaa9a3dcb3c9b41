"""Training and validation images."""

import pytest
from training_cases import make_split


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def val():
    return make_split(60, seed=1)
