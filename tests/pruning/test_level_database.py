"""Level database: stitched networks equal networks repaired for the whole mask."""

import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.pruning.level_database import DENSITIES, LevelDatabase
from masksearch.pruning.reconstruction import Reconstruction


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(160, 20),
        nn.ReLU(), nn.Linear(20, 3),
    ).eval()  # fmt: skip
    inputs = torch.randn(256, 2, 6, 6)
    space = ms.filter_space(model, inputs[:1])
    saliency = torch.rand(space.n_units, generator=torch.Generator().manual_seed(1))
    return model, inputs, space, LevelDatabase(Reconstruction(model, space, inputs), saliency), saliency


def test_mask_of_levels_keeps_the_best_units_of_every_layer(case):
    *_, space, database, saliency = case
    mask = database.mask([0, 5, 9])
    assert list(mask.kept_per_layer().values()) == [10, 5, 2]
    for layer in space.layers:
        kept, values = mask.bits[layer.slice], saliency[layer.slice]
        assert kept.all() or values[kept].min() > values[~kept].max()


def test_stitched_networks_equal_repaired_networks(case):
    model, inputs, space, database, _ = case
    errors = database.errors()
    assert errors.shape == (3, len(DENSITIES))
    assert (errors[:, 0] == 0).all()
    assert (errors[:, 1:].diff(dim=1) > -1e-3).all()  # error rises as units are removed
    for levels in ([2, 5, 7], [5, 2, 0], [0, 0, 0], [9, 9, 9]):
        stitched = database.network(levels)
        repaired = ms.reconstruct(model, space, database.mask(levels), inputs)
        with torch.no_grad():
            torch.testing.assert_close(stitched(inputs), repaired(inputs), atol=1e-4, rtol=1e-4)
            small = database.network(levels, small=True)
            torch.testing.assert_close(small(inputs), stitched(inputs), atol=1e-4, rtol=1e-4)


def test_wrong_levels_densities_and_saliencies_raise_input_error(case):
    *_, database, saliency = case
    with pytest.raises(ms.InputError, match=r"levels: \[1, 2\]; 3 numbers from 0 to 9"):
        database.mask([1, 2])
    with pytest.raises(ms.InputError, match=r"densities: \(0.5, 0.9\); falling"):
        LevelDatabase(database.reconstruction, saliency, (0.5, 0.9))
    with pytest.raises(ms.InputError, match="saliency: shape"):
        LevelDatabase(database.reconstruction, saliency[1:])
