"""Networks built by functions of users and by timm."""

import sys

import pytest
import torch

import masksearch as ms

CODE = """
from torch import nn

def plain():
    return nn.Linear(3, 2)

def sized(data):
    return nn.Linear(*data)

def wrong():
    return 3

value = 1
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "their_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "their_networks.py"
    sys.modules.pop("their_networks", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def test_user_network_is_named_by_module_or_file_and_may_take_the_data(file):
    by_module = ms.build_model("their_networks:plain", (1, 2, 2), seed=3)
    by_file = ms.build_model(f"{file}:plain", (1, 2, 2), seed=3)
    other = ms.build_model("their_networks:plain", (1, 2, 2), seed=4)
    assert torch.equal(by_module.weight, by_file.weight)
    assert not torch.equal(by_module.weight, other.weight)
    assert ms.build_model("their_networks:sized", (5, 7)).weight.shape == (7, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_networks:wrong", "their_networks:wrong returned a int; an nn.Module is needed"),
        ("their_networks:missing", "their_networks has no function 'missing'"),
        ("their_networks:value", "their_networks has no function 'value'"),
        ("no_such_module:build", "no_such_module can't be imported"),
        ("missing.py:build", "missing.py: no such file"),
    ],
)
def test_mistakes_in_user_networks_raise_input_error(file, name, message):
    with pytest.raises(ms.InputError, match=message):
        ms.build_model(name, (1, 2, 2))


def test_timm_models_are_built_by_name():
    pytest.importorskip("timm", reason="timm is not installed (extra test-all)")
    model = ms.build_model("timm:resnet10t", (1, 32, 32), 5)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert ms.build_model("timm:vit_tiny_patch16_224", (3, 32, 32), 5)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(ms.InputError, match="did you mean resnet18"):
        ms.build_model("timm:resnet18x", (3, 32, 32), 5)
