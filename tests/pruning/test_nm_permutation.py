"""Permutations of channels for N:M pruning: energies against enumeration, equal outputs, and lower loss of energy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import masksearch as ms
from masksearch.pruning.nm_permutation.column_order import ColumnOrder, anneal, greedy_swaps


def lost_by_definition(values: np.ndarray, order: np.ndarray, n: int, m: int) -> float:
    """Share of the energy outside of the n largest of m columns of every row and group."""
    groups = values[order].reshape(len(values) // m, m, -1)
    return 1 - np.sort(groups, axis=1)[:, m - n :].sum() / values.sum()


@st.composite
def matrices(draw):
    m = draw(st.integers(2, 6))
    n = draw(st.integers(1, m - 1))
    groups, rows = draw(st.integers(2, 5)), draw(st.integers(1, 5))
    cells = st.integers(0, 5)  # with many equal values
    flat = draw(st.lists(cells, min_size=groups * m * rows, max_size=groups * m * rows))
    return np.array(flat, dtype=float).reshape(groups * m, rows) + 0.01, n, m


@given(matrices(), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_gains_of_swaps_equal_differences_of_the_lost_energy(case, seed: int) -> None:
    values, n, m = case
    columns = ColumnOrder(values, n, m)
    generator = np.random.default_rng(seed)
    for _ in range(5):
        assert columns.lost == pytest.approx(lost_by_definition(values, columns.order, n, m), abs=1e-12)
        left, right = generator.choice(len(values) // m, 2, replace=False)[:, None] * m + generator.integers(m)
        before, gain = columns.lost, columns.gains(left, right)[0]
        columns.swap(left, right)
        assert before - columns.lost == pytest.approx(gain / values.sum(), abs=1e-12)


def best_of_all_orders(values: np.ndarray, n: int, m: int) -> float:
    orders = itertools.permutations(range(len(values)))
    return min(lost_by_definition(values, np.array(order), n, m) for order in orders)


def test_annealing_and_greedy_swaps_find_the_best_order_of_six_columns() -> None:
    values = np.random.default_rng(0).lognormal(size=(6, 4))
    best = best_of_all_orders(values, 1, 2)
    for search in (lambda c, g: anneal(c, 3000, g), lambda c, g: greedy_swaps(c, 20, g)):
        columns = ColumnOrder(values, 1, 2)
        search(columns, np.random.default_rng(1))
        assert columns.lost == pytest.approx(best)


def test_annealing_of_orders_is_repeatable_and_loses_less_energy_than_greedy_swaps() -> None:
    values = np.random.default_rng(0).lognormal(size=(64, 32))
    lost = []
    for _ in range(2):
        columns = ColumnOrder(values, 2, 4)
        effort = anneal(columns, 60_000, np.random.default_rng(1))
        assert effort.swaps >= 60_000
        lost.append((columns.lost, columns.order.tolist()))
    assert lost[0] == lost[1]
    greedy = ColumnOrder(values, 2, 4)
    greedy_swaps(greedy, 0, np.random.default_rng(1))
    original = ColumnOrder(values, 2, 4).lost
    assert lost[0][0] < greedy.lost < original


class Attention(nn.Module):
    """A transformer layer with LayerNorms on its residual stream."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Linear(5, width)
        self.norm, self.rise, self.fall = nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(24, width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        hidden = hidden + self.fall(torch.relu(self.rise(self.norm(hidden))))
        return self.head(self.last(hidden))


@pytest.mark.parametrize("method", ["annealing", "greedy"])
def test_permuted_network_has_equal_outputs_and_loses_less_energy_at_2_of_4(method: str) -> None:
    torch.manual_seed(0)
    model, inputs = Attention().eval(), torch.randn(64, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = ms.permute_channels(model, inputs, swaps=3000, method=method)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(result.model(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    assert {layer.name: layer.consumers for layer in result.layers} == {
        "stem": ("rise", "head"),
        "rise": ("fall",),
    }
    for layer in result.layers:
        assert layer.lost < layer.lost_before
    # The stated energy is that of the 2:4 mask by |w| x norm of the input.
    inputs_of: dict[str, Tensor] = {}
    hook = result.model.fall.register_forward_pre_hook(lambda _, args: inputs_of.update(fall=args[0]))
    result.model(inputs)
    hook.remove()
    energy = result.model.fall.weight.square() * inputs_of["fall"].square().mean(0)
    space = ms.nm_space(result.model, include="fall")
    mask = space.top_k(energy.detach().flatten())
    lost = 1 - float(energy.flatten()[mask.bits].sum() / energy.sum())
    assert lost == pytest.approx(next(layer.lost for layer in result.layers if layer.name == "rise"), rel=1e-5)


def test_layers_that_cannot_be_permuted_are_left_out_with_the_reason() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    result = ms.permute_channels(model, torch.randn(16, 6), swaps=100)
    assert [layer.name for layer in result.layers] == ["2"]
    assert dict(result.left_out)["0"] == "10 channels, not a multiple of 4"
    assert "left out: 0" in str(result)
    with pytest.raises(ms.InputError, match="no channels"):
        ms.permute_channels(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(16, 4))


@pytest.mark.parametrize("arguments", [{"n": 4}, {"n": 0}, {"swaps": 0}, {"method": "anealing"}])
def test_wrong_arguments_of_permute_channels_raise_input_error(arguments: dict) -> None:
    with pytest.raises(ms.InputError, match=next(iter(arguments))):
        ms.permute_channels(Attention().eval(), torch.randn(16, 5), **arguments)
