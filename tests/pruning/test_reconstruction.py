"""Least-squares repair of masked networks: lower errors, pruned zeros, independent solutions, all kinds of layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.pruning.matrix_layers import matrix_layers, observed


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


def convolutional():
    """Return a network with BatchNorm statistics of its inputs, as after a training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(54, 3),
    )  # fmt: skip
    for _ in range(50):
        model(torch.randn(64, 2, 7, 7))
    return model.eval()


def sounds():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 6, 5, stride=2), nn.ReLU(), nn.Conv1d(6, 6, 3, dilation=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 2),
    ).eval()  # fmt: skip


def grouped():
    """Groups, a depthwise convolution, padding by a mode and by 'same'."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding="same"), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2, padding_mode="reflect"), nn.ReLU(),
        nn.Conv2d(12, 12, (3, 2), padding="same", dilation=2, groups=12, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(12, 8, 1, groups=4), nn.ReLU(), nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


def videos():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 6, 2), nn.ReLU(), nn.Conv3d(6, 6, (1, 2, 3), padding=(0, 1, 1), stride=(1, 2, 1)), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 2 * 2 * 4, 3),
    ).eval()  # fmt: skip


class Conv1D(nn.Module):
    """A linear layer with a weight (in, out), as Hugging Face's class of this name."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.first, self.second, self.head = Conv1D(32, 16), Conv1D(16, 32), nn.Linear(16, 3)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return self.head(x + self.second(F.relu(self.first(x)))).mean(1)


def transformer():
    torch.manual_seed(0)
    return Transformer().eval()


CASES = {
    "mlp": (mlp, lambda n: torch.randn(n, 10)),
    "convolutional": (convolutional, lambda n: torch.randn(n, 2, 7, 7)),
    "sounds": (sounds, lambda n: torch.randn(n, 1, 24)),
    "grouped": (grouped, lambda n: torch.randn(n, 2, 6, 6)),
    "videos": (videos, lambda n: torch.randn(n, 1, 3, 4, 5)),
    "transformer": (transformer, lambda n: torch.randn(n, 6, 16)),
}


def examples(name, n=256):
    torch.manual_seed(1)
    return CASES[name][1](n)


@pytest.mark.parametrize("name", CASES)
def test_input_rows_times_matrix_equal_the_outputs_of_every_layer(name):
    model, inputs = CASES[name][0](), examples(name, 5)
    outputs = {}
    for key, module in model.named_modules():
        module.register_forward_hook(lambda _, args, out, key=key: outputs.update({key: out}))
    layers = matrix_layers(model, inputs)
    assert {layer.weight_name for layer in layers} == {key for key, p in model.named_parameters() if p.ndim > 1}
    with observed(model, layers, shortcuts=False) as found, torch.no_grad():
        given = model(inputs)
    with torch.no_grad():
        torch.testing.assert_close(given, model(inputs))
    for layer in layers:
        module = model.get_submodule(layer.name)
        rows = layer.input_rows(module, found[layer.name].inputs[0]).double()
        products = F.pad(rows, (0, 1), value=1.0) @ layer.matrix(module).transpose(1, 2)
        if layer.name == "attention.out_proj":
            expected = outputs["attention"][0].flatten(0, 1)[None]
        elif layer.name == "attention":  # products are not observable, only their sizes
            assert products.shape == (1, 30, 48)
            continue
        else:
            expected = layer.output_rows(module, outputs[layer.name])
        torch.testing.assert_close(products.float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_repair_of_a_full_mask_changes_no_parameter(name, sequential):
    model, inputs = CASES[name][0](), examples(name)
    space = ms.filter_space(model, inputs[:1])
    repaired = ms.reconstruct(model, space, space.full(), inputs, sequential=sequential)
    for parameter, other in zip(model.parameters(), repaired.parameters(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("name", CASES)
def test_repaired_outputs_have_lower_error_and_pruned_entries_stay_zero(name, granularity, sequential):
    model, inputs = CASES[name][0](), examples(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    space = ms.weight_space(model) if granularity == "weight" else ms.filter_space(model, inputs[:1])
    mask = space.random(density=0.5, scope="layerwise", generator=torch.Generator().manual_seed(2))
    repaired = ms.reconstruct(model, space, mask, inputs, sequential=sequential)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    parameters = dict(repaired.named_parameters())
    for key, keep in space.parameter_masks(mask).items():
        assert (parameters[key][~keep] == 0).all()
    with torch.no_grad():
        dense = model(inputs)
        with space.applied(model, mask):
            masked = model(inputs)
        errors = [float((outputs - dense).square().mean()) for outputs in (repaired(inputs), masked)]
    # Repair for dense inputs need not lower the error of the outputs, though it does but for random weight masks.
    assert errors[0] < (1.1 if granularity == "weight" and not sequential else 0.9) * errors[1]
    if granularity == "filter":
        small = ms.prune(repaired, space, mask)
        with torch.no_grad():
            torch.testing.assert_close(small(inputs), repaired(inputs), atol=1e-4, rtol=1e-4)


def test_repaired_layer_equals_the_solution_of_torch_lstsq():
    """The last layer of a network whose hidden units are correlated, against lstsq with the same ridge."""
    model, inputs = mlp(), examples("mlp", 512)
    space = ms.filter_space(model, inputs[:1])
    bits = torch.ones(space.n_units, dtype=torch.bool)
    bits[space.layers[1].slice][::2] = False
    mask = ms.Mask(space, bits)
    repaired = ms.reconstruct(model, space, mask, inputs)
    with torch.no_grad():
        hidden = model[:4](inputs).double()
        fitted = torch.arange(512).view(8, 64)[torch.arange(8) % 4 != 3].flatten()  # every fourth batch is held out
        kept = bits[space.layers[1].slice].nonzero().flatten()
        rows, targets = F.pad(hidden[fitted][:, kept], (0, 1), value=1.0), model[4](hidden[fitted].float()).double()
        weight = model[4].weight[:, kept].double().T
        scale = hidden[fitted].square().sum(0).mean()
        solutions = []
        for ridge in (1e-4, 1e-3, 1e-2, 1e-1):
            root = (ridge * scale).sqrt() * torch.eye(len(kept) + 1, dtype=torch.float64)[:-1]
            system = torch.cat([rows, root])
            right = torch.cat([targets, (ridge * scale).sqrt() * weight])
            solutions.append(torch.linalg.lstsq(system, right).solution)
    found = torch.cat([repaired[4].weight[:, kept].T, repaired[4].bias[None]]).double()
    assert min(float((found - solution).abs().max()) for solution in solutions) < 1e-4


def test_repaired_rows_of_a_weight_mask_equal_repeated_optimal_brain_updates():
    """Weights removed one after the other, each with the closed-form change of the others (Frantar, Alistarh 2022)."""
    model, inputs = mlp(), examples("mlp", 512)
    space = ms.weight_space(model)
    mask = space.random(density=0.6, scope="layerwise", generator=torch.Generator().manual_seed(2))
    repaired = ms.reconstruct(model, space, mask, inputs)
    with torch.no_grad():
        hidden = model[:4](inputs).double()
        fitted = torch.arange(512).view(8, 64)[torch.arange(8) % 4 != 3].flatten()
        rows = F.pad(hidden[fitted], (0, 1), value=1.0)
        gram, scale = rows.T @ rows, hidden[fitted].square().sum(0).mean()
        distances = []
        for ridge in (1e-4, 1e-3, 1e-2, 1e-1):
            penalty = torch.full((25,), ridge, dtype=torch.float64)
            penalty[-1] = 0
            inverse = torch.linalg.inv(gram + torch.diag(penalty * scale))
            found = []
            for row, bias, keep in zip(
                model[4].weight, model[4].bias, space.parameter_masks(mask)["4.weight"], strict=True
            ):
                weights, left = torch.cat([row, bias[None]]).double(), inverse.clone()
                for place in (~keep).nonzero().flatten():
                    weights = weights - weights[place] / left[place, place] * left[:, place]
                    left = left - torch.outer(left[:, place], left[place]) / left[place, place]
                found.append(weights)
            solved = torch.cat([repaired[4].weight, repaired[4].bias[:, None]], 1).double()
            distances.append(float((torch.stack(found) - solved).abs().max()))
    assert min(distances) < 1e-5


class Residual(nn.Module):
    """Residual blocks."""

    def __init__(self, norms=True):
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 8, 3, padding=1, bias=not norms), nn.Linear(8, 3)
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=not norms) for _ in range(3))
        self.second = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=not norms) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) if norms else nn.Identity() for _ in range(6))

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in range(3):
            branch = F.relu(self.norms[2 * block](self.first[block](x)), inplace=True)
            branch = self.norms[2 * block + 1](self.second[block](branch))
            branch += x
            x = F.relu(branch)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("norms", [True, False])
def test_sequential_repair_of_residual_branches_beats_parallel_repair(norms):
    torch.manual_seed(0)
    model, inputs = Residual(norms), torch.randn(512, 2, 6, 6)
    for part in inputs.split(64):
        model(part)
    model.eval()
    layers = {layer.name: layer for layer in matrix_layers(model, inputs)}
    assert [name for name, layer in layers.items() if layer.added] == ["second.0", "second.1", "second.2"]
    assert [layers[name].norm for name in ("stem", "first.1")] == [None, "norms.2" if norms else None]
    space = ms.filter_space(model, inputs[:1])
    mask = space.random(density=0.6, scope="layerwise", generator=torch.Generator().manual_seed(2))
    errors = []
    for sequential in (False, True):
        repaired = ms.reconstruct(model, space, mask, inputs, sequential=sequential)
        with torch.no_grad():
            errors.append(float((repaired(inputs) - model(inputs)).square().mean()))
    print(errors)
    assert errors[1] < errors[0]


def test_repair_recomputes_batch_norm_statistics_of_the_pruned_network():
    model, inputs = convolutional(), examples("convolutional")
    space = ms.filter_space(model, inputs[:1])
    mask = space.random(density=0.5, scope="layerwise", generator=torch.Generator().manual_seed(2))
    repaired = ms.reconstruct(model, space, mask, inputs)
    with torch.no_grad():
        means = torch.stack([repaired[0](part).mean((0, 2, 3)) for part in inputs.split(64)])
    torch.testing.assert_close(repaired[1].running_mean, means.mean(0), atol=1e-5, rtol=1e-4)


def test_reconstruct_accepts_inputs_of_any_form_and_refuses_too_few_examples():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x, y):
            return self.head(F.relu(self.left(x) + self.right(y)))

    torch.manual_seed(0)
    model, inputs = Two().eval(), {"x": torch.randn(64, 4), "y": torch.randn(64, 5)}
    space = ms.filter_space(model, inputs)
    mask = space.random(density=0.5)
    repaired = ms.reconstruct(model, space, mask, inputs)
    split = {name: value.split(16) for name, value in inputs.items()}
    parts = [{name: chunks[place] for name, chunks in split.items()} for place in range(4)]
    again = ms.reconstruct(model, space, mask, parts)
    assert torch.equal(repaired.head.weight, again.head.weight)
    with pytest.raises(ms.InputError, match="examples: 3 of them; at least 8"):
        ms.reconstruct(model, space, mask, {name: value[:3] for name, value in inputs.items()})
    with pytest.raises(ms.InputError, match="mask of a"):
        ms.reconstruct(mlp(), ms.weight_space(mlp()), mask, torch.randn(64, 10))


def test_repair_does_not_change_a_weight_shared_by_two_modules():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.hidden, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.words.weight

        def forward(self, tokens):
            return self.head(F.relu(self.hidden(self.words(tokens))))

    torch.manual_seed(0)
    model, tokens = Tied().eval(), torch.randint(0, 20, (64, 5))
    space = ms.weight_space(model)
    repaired = ms.reconstruct(model, space, space.random(density=0.7), tokens)
    kept = repaired.words.weight != 0
    assert torch.equal(repaired.words.weight[kept], model.words.weight[kept])
    assert repaired.head.weight is repaired.words.weight
