"""Export: files in ONNX and as programs with equal outputs, and masks to and from ``torch.nn.utils.prune``."""

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import masksearch as ms
from masksearch.pruning import export
from masksearch.utils.nested import call_model, output_tensors, tensors_of

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra `export`",
)
WRITERS = {
    "onnx": pytest.param(export.to_onnx, id="onnx", marks=needs_onnx),
    "program": pytest.param(export.to_program, id="program"),
}


def network():
    """Convolution, BatchNorm with statistics of random images, linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        )
        with torch.no_grad():
            model(torch.randn(64, 1, 8, 8) + 1)
    return model


def images(n=3):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def run(path, batch):
    """Return the outputs of the file for a batch, without the package."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return torch.from_numpy(session.run(None, {"input": batch.numpy()})[0])
    return torch.export.load(path).module()(batch)


@pytest.mark.parametrize("write", WRITERS.values())
def test_exported_masked_network_has_equal_outputs_for_any_batch_size(write, tmp_path):
    model = network()
    space = ms.weight_space(model)
    space.apply(model, space.random(density=0.3, generator=torch.Generator().manual_seed(0)))
    before = copy.deepcopy(model.state_dict())
    path = tmp_path / ("network.onnx" if write is export.to_onnx else "network.pt2")
    written = write(model, images(), path)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert written.path == path
    assert written.bytes == path.stat().st_size
    assert written.max_difference <= 1e-4
    model.eval()
    with torch.no_grad():
        for n in (1, 2, 7):  # any batch size
            wanted = model(images(n))
            assert (run(path, images(n)) - wanted).abs().max() <= 1e-4 * wanted.std()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]  # a single file


@pytest.mark.parametrize("write", WRITERS.values())
def test_exported_pruned_network_has_equal_outputs_and_a_smaller_file(write, tmp_path):
    from masksearch.pruning.physical import prune as cut
    from masksearch.spaces.filter_mask_space import filter_space

    model = network()
    space = filter_space(model, images())
    mask = space.random(density=0.5, generator=torch.Generator().manual_seed(0))
    small = cut(model, space, mask)
    path = tmp_path / ("small.onnx" if write is export.to_onnx else "small.pt2")
    whole = write(model, images(), path).bytes
    assert write(small, images(), path).bytes < whole
    with torch.no_grad(), space.applied(model, mask):
        wanted = model.eval()(images(4))
    assert (run(path, images(4)) - wanted).abs().max() <= 1e-4 * wanted.std()


@pytest.mark.parametrize("write", WRITERS.values())
def test_exported_network_of_torch_prune_has_equal_outputs(write, tmp_path):
    model = network()
    prune.random_unstructured(model[0], "weight", 0.5)
    model(images()).sum().backward()
    path = tmp_path / ("network.onnx" if write is export.to_onnx else "network.pt2")
    write(model, images(), path)
    with torch.no_grad():
        wanted = model.eval()(images(4))
    assert (run(path, images(4)) - wanted).abs().max() <= 1e-4 * wanted.std()


class TwoInputs(nn.Module):
    """Two inputs; returns a dict, or a tuple."""

    def __init__(self, form=dict):
        super().__init__()
        self.left, self.right, self.form = nn.Linear(4, 8), nn.Linear(5, 8), form

    def forward(self, x, tokens=None):
        hidden = (self.left(x) + self.right(tokens)).relu()
        return {"logits": hidden, "sum": hidden.sum(1)} if self.form is dict else (hidden, [hidden.sum(1)])


@pytest.mark.parametrize("write", WRITERS.values())
@pytest.mark.parametrize("form", [dict, tuple])
def test_networks_of_several_inputs_and_outputs_are_exported(write, form, tmp_path):
    model, x, tokens = TwoInputs(form).eval(), torch.randn(3, 4), torch.randn(3, 5)
    example = {"tokens": tokens, "x": x} if form is dict else (x, tokens)
    path = tmp_path / ("network.onnx" if write is export.to_onnx else "network.pt2")
    assert write(model, example, path).max_difference <= 1e-4
    wanted = output_tensors(call_model(model, example))
    if write is export.to_onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        inputs, outputs = (["tokens", "x"], ["logits", "sum"])
        if form is tuple:
            inputs, outputs = ["input_0", "input_1"], ["output_0", "output_1"]
        feeds = dict(zip(inputs, (part.numpy() for part in tensors_of(example)), strict=True))
        found = [torch.from_numpy(array) for array in session.run(outputs, feeds)]
    else:
        found = output_tensors(call_model(torch.export.load(path).module(), example))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-4, rtol=1e-4)


class Integers(nn.Module):
    def forward(self, x):
        return x.argmax(1)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, -1) * 1.0 if len(x) == 2 else x * 2.0


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("write", WRITERS.values())
def test_networks_that_cannot_be_exported_raise_input_error_and_keep_the_old_file(write, tmp_path):
    path = tmp_path / "network"
    path.write_bytes(b"an older file")
    bad = [
        (Integers(), torch.randn(2, 3), "Integers returns torch.int64; float tensors are needed"),
        (Branching(), torch.randn(2, 3), "Branching can't be exported"),
        (FixedBatch(), torch.randn(2, 3), "FixedBatch can't be exported for every batch size"),
        (network(), torch.randn(2, 3, 8, 8), "doesn't take a batch of"),
        (nn.Bilinear(3, 3, 3), torch.randn(2, 3), "missing 1 required"),
        (network(), None, "NoneType"),
    ]
    for model, example, message in bad:
        with pytest.raises(ms.InputError, match=message) as raised:
            write(model, example, path)
        assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"an older file"


def test_export_with_other_outputs_writes_no_file(tmp_path):
    model, path = network().eval(), tmp_path / "network"
    with pytest.raises(ms.InputError, match="gives other outputs"):
        export.onnx_and_programs._checked(model, images(5), lambda x: [model(x) + 1e-3], path, b"")
    with pytest.raises(ms.InputError, match=r"returns shape \(1,\) for a batch of 1"):
        export.onnx_and_programs._checked(model, images(5), lambda x: [model(x)[:, 0]], path, b"")
    assert not path.exists()


def test_onnx_export_without_onnxscript_raises_input_error_with_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(export.onnx_and_programs, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ms.InputError, match=r"needs the package onnxscript: pip install 'masksearch\[export\]'"):
        export.to_onnx(network(), images(), tmp_path / "network.onnx")


def masked():
    model = network()
    space = ms.weight_space(model)
    return model, space, space.random(density=0.4, generator=torch.Generator().manual_seed(0))


def test_mask_round_trips_through_torch_prune():
    model, space, mask = masked()
    with space.applied(model, mask), torch.no_grad():
        wanted = model.eval()(images())
    dense = copy.deepcopy(model.state_dict())
    export.to_torch_prune(model, space, mask)
    assert torch.equal(model(images()), wanted)
    assert prune.is_pruned(model)
    assert torch.equal(model[0].weight_orig, dense["0.weight"])
    assert export.from_torch_prune(model, space).hamming(mask) == 0
    # The mask holds through training, as torch's own.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images()).square().sum().backward()
    optimizer.step()
    assert not model[0].weight[~space.parameter_masks(mask)["0.weight"]].any()
    for layer in (model[0], model[5]):
        prune.remove(layer, "weight")
    assert not prune.is_pruned(model)
    assert export.mask_of_state(model.state_dict(), space).hamming(mask) == 0


def test_mask_is_read_from_a_network_pruned_by_torch():
    model, space, _ = masked()
    magnitude = torch.cat([model[0].weight.detach().abs().flatten(), model[5].weight.detach().abs().flatten()])
    prune.global_unstructured([(model[0], "weight"), (model[5], "weight")], prune.L1Unstructured, amount=100)
    mask = export.from_torch_prune(model, space)
    assert mask.n_kept == space.n_units - 100
    assert torch.equal(mask.bits, space.top_k(magnitude, mask.density).bits)

    model, space, _ = masked()
    prune.l1_unstructured(model[5], "weight", amount=0.5)
    assert export.from_torch_prune(model, space).densities() == {"0": 1.0, "5": 0.5}


def test_torch_prune_conversions_of_unsuitable_models_raise_input_error():
    model, space, mask = masked()
    with pytest.raises(ms.InputError, match="no layer of Sequential has a mask"):
        export.from_torch_prune(model, space)
    prune.l1_unstructured(model[5], "bias", amount=2)
    with pytest.raises(ms.InputError, match=r"5\.bias has a mask and is not in this weight space"):
        export.from_torch_prune(model, space)
    prune.remove(model[5], "bias")
    prune.l1_unstructured(model[5], "weight", amount=2)
    with pytest.raises(ms.InputError, match="layer '5' has a mask already"):
        export.to_torch_prune(model, space, mask)
    assert not hasattr(model[0], "weight_mask")  # unchanged, though it is the first layer
    other = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ms.InputError, match=r"Sequential has no 0\.weight of shape"):
        export.to_torch_prune(other, space, mask)
    foreign = ms.weight_space(other)
    with pytest.raises(ms.InputError, match="doesn't fit"):
        export.to_torch_prune(model, foreign, mask)
    with pytest.raises(ms.InputError, match=r"state: it has shape \(3, 4\) for 0\.weight"):
        export.mask_of_state(other.state_dict(), space)
    with pytest.raises(ms.InputError, match="need a weight space"):
        export.mask_of_state(other.state_dict(), ms.MaskSpace([("0", (3, 4), 12)]))


@pytest.mark.parametrize("form", ["zeros", "torch_prune"])
@pytest.mark.parametrize("source", ["plain", "torch_prune"])
def test_masked_state_has_the_mask_in_both_forms(form, source):
    model, space, mask = masked()
    old = space.random(density=0.7, generator=torch.Generator().manual_seed(5))
    wanted = {name: model.state_dict()[name] * keep for name, keep in space.parameter_masks(mask).items()}
    if source == "torch_prune":
        export.to_torch_prune(model, space, old)
    state = model.state_dict()
    before = copy.deepcopy(state)
    masked_state = export.masked_state(state, space, mask, form)
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert export.mask_of_state(masked_state, space).hamming(mask) == 0

    receiver = network()
    if form == "torch_prune":
        export.to_torch_prune(receiver, space, old)
    receiver.load_state_dict(masked_state)  # strict: every name is there, and no other
    receiver.eval()(images())
    for name, weight in wanted.items():
        assert torch.equal(receiver.get_submodule(name.removesuffix(".weight")).weight, weight)


def test_masked_state_of_other_spaces_or_unknown_forms_raises_input_error():
    model, space, mask = masked()
    with pytest.raises(ms.InputError, match=r"state: it has nothing for 5\.weight"):
        export.masked_state({"0.weight": model[0].weight}, space, mask)
    with pytest.raises(ms.InputError, match="did you mean 'zeros'"):
        export.masked_state(model.state_dict(), space, mask, "zero")
    with pytest.raises(ms.InputError, match="doesn't fit"):
        export.masked_state(model.state_dict(), space, ms.Mask(ms.MaskSpace([("a", (3,), 3)]), torch.ones(3) > 0))
