"""Batches for the network: streamed equals resident, and augmentation equals augmentation image by image."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from masksearch.training import TrainSettings, crop_flip, draw_crop_flip, train
from masksearch.training import batch_feed as batch_module
from masksearch.training.batch_feed import Feed


def make_split(n=70, channels=3):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, channels, 8, 6, generator=g)
    return SimpleNamespace(inputs=images, targets=torch.randint(0, 10, (n,), generator=g))


def test_crop_flip_of_a_batch_equals_crop_flip_of_each_image():
    split = make_split()
    draws = draw_crop_flip(70, torch.Generator().manual_seed(1))
    for image, (top, left, flipped), out in zip(
        split.inputs, draws.tolist(), crop_flip(split.inputs, draws), strict=True
    ):
        padded = torch.zeros(3, 16, 14)
        padded[:, 4:12, 4:10] = image
        window = padded[:, top : top + 8, left : left + 6]
        assert torch.equal(out, window.flip(2) if flipped else window)


def test_crop_flip_draws_are_uniform():
    draws = draw_crop_flip(20_000, torch.Generator().manual_seed(0))
    for column in (0, 1):
        counts = draws[:, column].bincount(minlength=9)
        assert len(counts) == 9
        assert counts.min() > 20_000 / 9 * 0.9
    assert draws[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_batches_keep_the_order_for_every_chunk_size():
    split = make_split()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(2))
    draws = draw_crop_flip(70, torch.Generator().manual_seed(3))
    sizes = [16, 16, 16, 16, 6]
    for chunk_bytes in (1, 1 << 14, 1 << 26):
        batches = list(Feed(split, torch.device("cpu"), chunk_bytes=chunk_bytes).shuffled(order, sizes, draws))
        assert [len(images) for images, _ in batches] == sizes
        assert torch.equal(torch.cat([images for images, _ in batches]), crop_flip(split.inputs[order], draws))
        assert torch.equal(torch.cat([labels for _, labels in batches]), split.targets[order])


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_streamed_images_train_equally_to_resident_images(monkeypatch, augment):
    split = make_split()
    start = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(96, 10)).state_dict()
    results = []
    for share in (1.0, 0.0):
        monkeypatch.setitem(batch_module.RESIDENT_SHARE, "cpu", share)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(96, 10))
        model.load_state_dict(start)
        training = train(model, split, TrainSettings(epochs=2, batch_size=16, augment=augment), val=split)
        results.append((model.state_dict(), training.epochs[-1].val_loss))
    (resident, loss), (streamed, streamed_loss) = results
    assert all(torch.equal(resident[name], streamed[name]) for name in resident)
    assert loss == streamed_loss
    assert not torch.equal(resident["0.weight"], start["0.weight"])


def test_augment_auto_follows_the_data_set():
    split = make_split()
    results = {}
    for said, asked in ((False, "auto"), (True, "auto"), (False, "none"), (True, "none"), (False, "crop_flip")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
        nn.init.ones_(model[1].weight)
        nn.init.zeros_(model[1].bias)
        train(model, split, TrainSettings(epochs=1, augment=asked), augment=said)
        results[said, asked] = model[1].weight.detach()
    plain, cropped = results[False, "auto"], results[True, "auto"]
    assert torch.equal(plain, results[False, "none"])
    assert torch.equal(plain, results[True, "none"])
    assert torch.equal(cropped, results[False, "crop_flip"])
    assert not torch.equal(plain, cropped)


def test_channels_last_changes_only_the_memory_layout():
    split = make_split()
    laid_out = next(Feed(split, torch.device("cpu"), channels_last=True).in_order(8))[0]
    assert torch.equal(laid_out, split.inputs[:8])
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
