"""Masks in training loops of users: pruned weights are exactly zero after every step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import make_model, make_split

import masksearch as ms
from masksearch.training import lightning_and_transformers as callbacks
from masksearch.training.own_loop_mask import KeptMask


def case(granularity="weight", density=0.4):
    model = make_model()
    space = ms.weight_space(model) if granularity == "weight" else ms.filter_space(model, torch.randn(2, 1, 8, 8))
    return model, space, space.random(density, generator=torch.Generator().manual_seed(0))


def pruned_entries(model, space, mask):
    return [model.get_parameter(name)[~keep] for name, keep in space.parameter_masks(mask).items()]


def are_zero(model, space, mask):
    """Positive zeros, bit for bit."""
    entries = torch.cat(pruned_entries(model, space, mask))
    return len(entries) > 0 and torch.equal(entries.view(torch.int32), torch.zeros(len(entries), dtype=torch.int32))


def step(model, optimizer, split):
    optimizer.zero_grad()
    F.cross_entropy(model(split.inputs[:40]), split.targets[:40]).backward()
    optimizer.step()


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize(
    "options", [{"fused": True}, {"foreach": True}, {"foreach": False, "weight_decay": 0.1}], ids=str
)
def test_pruned_weights_are_zero_after_every_step(split, granularity, options):
    model, space, mask = case(granularity)
    keep = ms.keep_mask(model, space, mask)
    assert are_zero(model, space, mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
    for _ in range(3):
        step(model, optimizer, split)
        if granularity == "filter":  # a filter without outputs has no gradients
            with torch.no_grad():
                model[0].weight.add_(0.1)
        assert not are_zero(model, space, mask)
        keep()
        assert are_zero(model, space, mask)


def test_keep_mask_replaces_nan_and_negative_zero_by_zero():
    model, space, mask = case()
    keep = ms.keep_mask(model, space, mask)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
        model[5].weight.mul_(-1)
    keep()
    assert are_zero(model, space, mask)


@pytest.mark.parametrize("assign", [False, True])
def test_keep_mask_masks_loaded_weights_and_moved_networks(assign):
    model, space, mask = case()
    keep = ms.keep_mask(model, space, mask)
    model.load_state_dict(make_model(seed=3).state_dict(), assign=assign)
    assert not are_zero(model, space, mask)
    keep()
    assert are_zero(model, space, mask)
    model.to(torch.float64)
    keep()
    assert sum(int(entries.count_nonzero()) for entries in pruned_entries(model, space, mask)) == 0
    model.to("meta")
    keep()


def test_attached_mask_applies_after_every_step_until_removed(split):
    model, space, mask = case()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = ms.keep_mask(model, space, mask).attach(optimizer)
    step(model, optimizer, split)
    assert are_zero(model, space, mask)
    keep.remove()
    step(model, optimizer, split)
    assert not are_zero(model, space, mask)
    keep()
    assert not are_zero(model, space, mask)


def test_user_loop_with_keep_mask_equals_the_trainer(split):
    model, space, mask = case()
    twin = make_model()
    model[3].p = twin[3].p = 0.0
    chosen = ms.TrainSettings(epochs=3, batch_size=150, lr=0.05, weight_decay=0.0)
    ms.train(twin, split, chosen, masks=space.parameter_masks(mask))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    keep = ms.keep_mask(model, space, mask)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(split.inputs), split.targets).backward()
        optimizer.step()
        keep()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_keep_mask_of_another_network_raises_input_error():
    model, space, mask = case()
    other = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ms.InputError, match=r"\(6, 1, 3, 3\); Sequential needs torch.bool \(4, 4\)"):
        ms.keep_mask(other, space, mask)
    with pytest.raises(ms.InputError, match="it doesn't fit this"):
        ms.keep_mask(model, space, ms.weight_space(other).full())
    with pytest.raises(ms.InputError, match=r"'0.weight' is torch.float32 \(6, 1, 3, 3\)"):
        KeptMask(model, {"0.weight": torch.ones(6, 1, 3, 3)})


def examples():
    split = make_split(64)
    return [{"inputs": x, "labels": y} for x, y in zip(split.inputs, split.targets, strict=True)]


def test_lightning_callback_keeps_a_mask(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    model, space, mask = case()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return F.cross_entropy(self.model(batch["inputs"]), batch["labels"])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    keep = ms.keep_mask(model, space, mask)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callbacks.lightning_callback(keep)],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = model[0].weight.detach().clone()
    trainer.fit(Module(), torch.utils.data.DataLoader(examples(), batch_size=16))
    assert are_zero(model, space, mask)
    assert not torch.equal(model[0].weight, before)


def test_transformers_callback_keeps_a_mask(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    model, space, mask = case()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, inputs, labels):
            logits = self.model(inputs)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    keep = ms.keep_mask(model, space, mask)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    before = model[0].weight.detach().clone()
    trainer = transformers.Trainer(
        Wrapped(),
        arguments,
        train_dataset=examples(),
        callbacks=[callbacks.transformers_callback(keep)],
    )
    trainer.train()
    assert are_zero(model, space, mask)
    assert not torch.equal(model[0].weight, before)


def test_callback_without_its_library_raises_input_error(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(callbacks, "import_module", missing)
    for make, name in (
        (callbacks.lightning_callback, "lightning"),
        (callbacks.transformers_callback, "transformers"),
    ):
        with pytest.raises(ms.InputError, match=f"{name} is not installed; install it with: pip install {name}"):
            make(None)
