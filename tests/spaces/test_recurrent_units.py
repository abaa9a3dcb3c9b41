"""Hidden units of RNNs, GRUs and LSTMs: masked and pruned networks are equal, also after training and loading."""

import pytest
import torch
import torch.nn.functional as F
from space_cases import Net, assert_masked_equals_pruned, random_mask, random_network
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from masksearch.core.problem_and_trials import Proposal
from masksearch.criteria.filter_criteria import filter_l1, filter_l2, fpgm
from masksearch.criteria.gradient_criteria import taylor
from masksearch.pruning import load_pruned, prune, restore_state, save_pruned, slice_state
from masksearch.scoring.paths.compact import CompactPath
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.utils.errors import InputError


def packed(net, x, states=False):
    lengths = torch.tensor([7, 3, 5, 1] * 2)[: len(x)]
    outputs, state = net.r(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    outputs, _ = pad_packed_sequence(outputs, batch_first=True)
    return net.h(torch.cat([state[-2], state[-1]], 1) if states else outputs.sum(1))


def crnn(net, x):
    features = F.max_pool2d(net.c(x).relu(), 2).permute(0, 3, 1, 2).flatten(2)
    return net.h(net.r(features)[0])


SEQUENCE = torch.randn(4, 7, 6)
TWO_WAYS = {"num_layers": 2, "bidirectional": True, "batch_first": True}
# name -> (forward, layers, input, units of each layer of the space)
NETWORKS = {
    "one-layer LSTM": (
        lambda s, x: s.h(s.r(x)[0][:, -1]),
        {"r": nn.LSTM(6, 12, batch_first=True), "h": nn.Linear(12, 3)},
        SEQUENCE,
        {"r": 12},
    ),
    "LSTM of two layers and directions": (
        lambda s, x: s.h(s.r(x)[0].mean(1)),
        {"r": nn.LSTM(6, 8, **TWO_WAYS), "h": nn.Linear(16, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8, "r#3": 8, "r#4": 8},
    ),
    "GRU of two layers and directions": (
        lambda s, x: s.h(s.r(x.transpose(0, 1))[0].mean(0)),
        {"r": nn.GRU(6, 8, num_layers=2, bidirectional=True), "h": nn.Linear(16, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8, "r#3": 8, "r#4": 8},
    ),
    "last states by index": (
        lambda s, x: s.h(torch.cat([(h := s.r(x)[1][0])[-2, :, :], h[-1]], 1)),
        {"r": nn.LSTM(6, 8, **TWO_WAYS), "h": nn.Linear(16, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8, "r#3": 8, "r#4": 8},
    ),
    "last states as one tensor": (
        lambda s, x: s.h(s.r(x)[1].transpose(0, 1).flatten(1)),
        {"r": nn.GRU(6, 8, **TWO_WAYS), "h": nn.Linear(32, 3)},
        SEQUENCE,
        {"r": 8},
    ),
    "cell state": (
        lambda s, x: s.h(s.r(x)[1][1].squeeze(0)),
        {"r": nn.LSTM(6, 8, batch_first=True), "h": nn.Linear(8, 3)},
        SEQUENCE,
        {"r": 8},
    ),
    "RNN with tanh, no biases": (
        lambda s, x: s.h(s.r(x)[0][:, -1]),
        {"r": nn.RNN(6, 8, 2, batch_first=True, bias=False), "h": nn.Linear(8, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8},
    ),
    "RNN with ReLU": (
        lambda s, x: s.h(s.r(x)[0][:, -1]),
        {"r": nn.RNN(6, 8, nonlinearity="relu", batch_first=True), "h": nn.Linear(8, 3)},
        SEQUENCE,
        {"r": 8},
    ),
    "packed sequences": (
        packed,
        {"r": nn.GRU(6, 8, **TWO_WAYS), "h": nn.Linear(16, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8, "r#3": 8, "r#4": 8},
    ),
    "last states of packed sequences": (
        lambda s, x: packed(s, x, states=True),
        {"r": nn.GRU(6, 8, **TWO_WAYS), "h": nn.Linear(16, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 8, "r#3": 8, "r#4": 8},
    ),
    "linear layer before and behind": (
        lambda s, x: s.h(s.b(s.r(s.a(x).relu())[0]).relu()),
        {
            "a": nn.Linear(6, 10),
            "r": nn.LSTM(10, 8, batch_first=True),
            "b": nn.Linear(8, 9),
            "h": nn.Linear(9, 3),
        },
        SEQUENCE,
        {"a": 10, "r": 8, "b": 9},
    ),
    "convolution before a GRU": (
        crnn,
        {
            "c": nn.Conv2d(1, 5, 3, padding=1),
            "r": nn.GRU(20, 8, bidirectional=True, batch_first=True),
            "h": nn.Linear(16, 3),
        },
        torch.randn(2, 1, 8, 12),
        {"c": 5, "r": 8, "r#2": 8},
    ),
    "embedding before an LSTM, tied to the head": (
        lambda s, x: F.linear(s.b(s.r(s.e(x))[0][:, -1]), s.e.weight),
        {"e": nn.Embedding(11, 6), "r": nn.LSTM(6, 8, batch_first=True), "b": nn.Linear(8, 6)},
        torch.arange(28).reshape(4, 7) % 11,
        {"e": 6, "r": 8},
    ),
    "encoder's states start the decoder": (
        lambda s, x: s.h(s.d(s.r(x)[0], s.e(x)[1])[0]),
        {
            "e": nn.GRU(6, 8, batch_first=True),
            "r": nn.GRU(6, 5, batch_first=True),
            "d": nn.GRU(5, 8, batch_first=True),
            "h": nn.Linear(8, 3),
        },
        SEQUENCE,
        {"r": 5},
    ),
    "projected LSTM behind a linear layer": (
        lambda s, x: s.h(s.r(s.a(x).relu())[0][:, -1]),
        {"a": nn.Linear(6, 10), "r": nn.LSTM(10, 9, proj_size=7, batch_first=True), "h": nn.Linear(7, 3)},
        SEQUENCE,
        {"a": 10, "r": 9, "r#2": 7},
    ),
    "projected LSTM of two layers and directions": (
        packed,
        {"r": nn.LSTM(6, 8, proj_size=5, **TWO_WAYS), "h": nn.Linear(10, 3)},
        SEQUENCE,
        {f"r#{number}" if number > 1 else "r": 8 if number % 2 else 5 for number in range(1, 9)},
    ),
    "cell states of a projected LSTM": (
        lambda s, x: s.h(torch.cat([(state := s.r(x)[1])[0][-1], state[1][-1]], 1)),
        {"r": nn.LSTM(6, 8, proj_size=5, batch_first=True), "h": nn.Linear(13, 3)},
        SEQUENCE,
        {"r": 8, "r#2": 5},
    ),
}


def build(name, seed=0):
    forward, layers, x, units = NETWORKS[name]
    return random_network(Net(forward, **layers), 0.7, seed), x, units


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_recurrent_networks_have_the_expected_units(name):
    net, x, units = build(name)
    space = filter_space(net, x)
    assert {layer.name: layer.size for layer in space.layers} == units


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_recurrent_network_equals_pruned_network(name, density):
    net, x, _ = build(name)
    space = filter_space(net, x)
    assert_masked_equals_pruned(net, space, random_mask(space, density), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_recurrent_networks_are_trained_saved_and_loaded(name, tmp_path):
    net, x, _ = build(name)
    space = filter_space(net, x)
    mask = random_mask(space, 0.5)
    small = prune(net, space, mask)
    small.load_state_dict(slice_state(space, mask, net.state_dict()))
    optimizer = torch.optim.SGD(small.train().parameters(), 0.1)
    small(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    optimizer.step()
    save_pruned(tmp_path, small.eval(), space, mask)
    fresh, _, _ = build(name, seed=1)
    loaded = load_pruned(tmp_path, fresh)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), small(x))
        net.load_state_dict(restore_state(space, mask, small.state_dict()))
        torch.testing.assert_close(net(x), small(x))


def test_layers_with_start_states_are_left_out_with_the_reason():
    net, x, _ = build("encoder's states start the decoder")
    reasons = dict(filter_space(net, x).left_out)
    assert "start state" in reasons["d"]
    assert "start state" in reasons["e"]


def test_recurrent_layer_as_output_layer_has_no_units():
    with pytest.raises(InputError, match="no channels that can be removed"):
        filter_space(nn.GRU(6, 8, batch_first=True), SEQUENCE)


def test_pruned_lstm_equals_the_published_formula():
    """Hochreiter and Schmidhuber 1997 with forget gates, in the notation of torch's documentation."""
    net, x, _ = build("one-layer LSTM")
    net, x = net.double(), x.double()
    space = filter_space(net, x)
    mask = random_mask(space, 0.5)
    kept = mask.bits.nonzero().flatten()
    rows = torch.cat([gate * 12 + kept for gate in range(4)])
    wi, wh = net.r.weight_ih_l0[rows], net.r.weight_hh_l0[rows][:, kept]
    bias = net.r.bias_ih_l0[rows] + net.r.bias_hh_l0[rows]
    h = c = torch.zeros(len(x), len(kept), dtype=x.dtype)
    for step in x.unbind(1):
        i, f, g, o = (step @ wi.T + h @ wh.T + bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    expected = h @ net.h.weight[:, kept].T + net.h.bias
    torch.testing.assert_close(prune(net, space, mask)(x), expected, rtol=0, atol=1e-12)


def test_pruned_lstm_of_unequal_sizes_equals_single_layers():
    net, x, _ = build("LSTM of two layers and directions")
    space = filter_space(net, x)
    small = prune(net, space, random_mask(space, 0.5)).r
    assert isinstance(small, nn.LSTM)
    singles = []
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        weights = {
            name: getattr(small, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        rows, features = weights["weight_ih"].shape
        single = nn.LSTM(features, rows // 4, batch_first=True)
        single.load_state_dict({f"{name}_l0": weight for name, weight in weights.items()})
        singles.append(single)
    assert len({single.hidden_size for single in singles}) > 1

    def layer(data, forwards, backwards):
        ahead, (h, c) = forwards(data)
        back, (h_back, c_back) = backwards(data.flip(1))
        return torch.cat([ahead, back.flip(1)], 2), [h, h_back], [c, c_back]

    hidden, h0, c0 = layer(x, *singles[:2])
    expected, h1, c1 = layer(hidden, *singles[2:])
    outputs, (h, c) = small(x)
    torch.testing.assert_close(outputs, expected)
    for states, wanted in ((h, h0 + h1), (c, c0 + c1)):
        assert len(states) == 4
        for state, single in zip(states, wanted, strict=True):
            torch.testing.assert_close(state, single[0])
    torch.testing.assert_close(small(x[0])[0], expected[0])  # a sequence without a batch
    torch.testing.assert_close(small(x, (h, c))[0], small(x, hx=(h, c))[0])
    assert not torch.equal(small(x, (h, c))[0], outputs)


def test_pruned_rnn_continues_packed_and_plain_sequences_from_start_states():
    net, x, _ = build("RNN with tanh, no biases")
    space = filter_space(net, x)
    small = prune(net, space, random_mask(space, 0.4)).r
    whole, last = small(x)
    first, state = small(x[:, :3])
    second, end = small(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end[1], last[1])
    ends = [small(x[[row], :3])[1] for row in range(len(x))]
    order = pack_padded_sequence(x[:, 3:], torch.tensor([2, 4, 1, 3]), batch_first=True, enforce_sorted=False)
    continued, _ = small(order, state)
    assert isinstance(continued, PackedSequence)
    padded, lengths = pad_packed_sequence(continued, batch_first=True)
    for row, length in enumerate(lengths.tolist()):
        wanted, _ = small(x[[row], 3 : 3 + length], ends[row])
        torch.testing.assert_close(padded[row, :length], wanted[0])


def test_pruned_gru_drops_out_between_layers_only_in_training():
    net, x, _ = build("GRU of two layers and directions")
    net.r.dropout = 0.5
    space = filter_space(net, x)
    small = prune(net, space, random_mask(space, 0.5))
    torch.testing.assert_close(small(x), small(x))
    assert not torch.equal(small.train()(x), small(x))


def test_pruned_lstm_is_pruned_again():
    net, x, _ = build("LSTM of two layers and directions")
    space = filter_space(net, x)
    small = prune(net, space, random_mask(space, 0.5))
    again = filter_space(small, x)
    assert again.n_units == round(0.5 * space.n_units)
    mask = random_mask(again, 0.5, seed=1)
    smaller = prune(small, again, mask)
    with torch.no_grad(), again.applied(small, mask):
        torch.testing.assert_close(smaller(x), small(x))


def test_pruned_gru_is_exported():
    net, x, _ = build("GRU of two layers and directions")
    space = filter_space(net, x)
    small = prune(net, space, random_mask(space, 0.5))
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), small(x))


@pytest.mark.parametrize("name", ["convolution before a GRU", "LSTM of two layers and directions"])
def test_compact_path_of_recurrent_networks_equals_pruned_network(name):
    net, x, _ = build(name)
    space = filter_space(net, x)
    mask = random_mask(space, 0.5)
    with torch.no_grad():
        logits = CompactPath(net, space, x, len(x)).logits(Proposal.of(mask))
        torch.testing.assert_close(logits, prune(net, space, mask)(x))


@pytest.mark.parametrize("criterion", [filter_l1, filter_l2, fpgm, taylor])
def test_criteria_rank_hidden_units(criterion):
    net, x, _ = build("GRU of two layers and directions")
    space = filter_space(net, x)
    saliency = criterion(net, space, [(x, torch.tensor([0, 1, 2, 0]))])
    assert saliency.shape == (space.n_units,)
    assert (saliency > 0).all()
