"""Semi-structured inference: refused on a CPU; on a GPU, equal outputs and reasons for dense layers."""

import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.pruning import semi_structured_layers as module
from masksearch.utils.errors import InputError


def network(width=256):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    space = ms.nm_space(model, exclude="4")
    space.apply(model, space.top_k(torch.cat([model[i].weight.detach().abs().flatten() for i in (0, 2)])))
    return model.eval()


def test_semi_structured_inference_on_a_cpu_raises_input_error():
    with pytest.raises(InputError, match=r"is on cpu, where 2:4 weights save no time; move it to a CUDA device"):
        ms.deploy.semi_structured(network())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(8, 8).half(), "no 2:4 zeros"),
        (nn.Linear(6, 8).half(), "no 2:4 zeros"),
        (network()[0], "float32; 2:4 products need float16 or bfloat16"),
        (network()[0].half(), ""),
        (network()[0].bfloat16(), ""),
    ],
)
def test_dense_layers_have_a_reason(layer, reason):
    found = module._reason_for_dense(layer, measured=True)
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_example", [True, False])
def test_semi_structured_network_on_a_gpu_has_equal_outputs(dtype, with_example):
    model = network(2048).to("cuda", dtype)
    x = torch.randn(512, 64, device="cuda", dtype=dtype)
    expected = model(x)
    deployed = ms.deploy.semi_structured(model, x if with_example else None, seconds=0.05)
    assert {choice.layer for choice in deployed.choices} | set(deployed.left_dense) == {"0", "2", "4"}
    assert "no 2:4 zeros" in deployed.left_dense["4"]
    assert (deployed.model(x) - expected).abs().max() <= 3e-2 * expected.std()
    assert torch.equal(model(x), expected)
