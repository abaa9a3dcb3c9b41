"""Results on a GPU equal those on a CPU: masks exactly, values up to rounding. Skipped without a GPU."""

import copy

import pytest
import torch

import masksearch as ms
from masksearch.cost import latency
from masksearch.criteria import CRITERIA, select
from masksearch.schedules.dynamic_sparse_training import Regrowing
from masksearch.scoring.objectives import OBJECTIVES
from masksearch.scoring.paths.in_place import InPlacePath
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS, SupermaskSettings, learn
from masksearch.training import batch_feed as batches_module
from masksearch.training import training_loop
from masksearch.training.optimisation import OPTIMIZERS
from masksearch.utils.seeds import torch_generator

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICE = "cuda"
SHAPE = (1, 8, 8)
DATA = ms.load_data("digits", train_examples=200, val_examples=100, search_examples=80)
NETWORKS = {"weight": "lenet_300_100:0.2", "filter": "resnet20:0.5"}
SETTINGS = ms.TrainSettings(epochs=2, batch_size=50, lr=0.02, weight_decay=1e-3)


@pytest.fixture(autouse=True)
def _whole_float32():
    """Convolutions without TF32, which keeps 10 of 23 bits, and sums in one order."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture(params=NETWORKS)
def world(request):
    """A network that has learned a little, its space and batches."""
    model = ms.build_model(NETWORKS[request.param], SHAPE)
    ms.train(model, DATA.train, SETTINGS)
    space = ms.weight_space(model) if request.param == "weight" else ms.filter_space(model, torch.zeros(1, *SHAPE))
    return model.eval(), space


def there(model):
    return copy.deepcopy(model).to(DEVICE)


def batches():
    return [(DATA.train.images[start : start + 50], DATA.train.labels[start : start + 50]) for start in (0, 50)]


def close(one, other, rtol=1e-3):
    """Equal up to a share of the largest value."""
    one, other = (torch.as_tensor(values, dtype=torch.float64, device="cpu") for values in (one, other))
    return torch.allclose(one, other, rtol=rtol, atol=rtol * float(other.abs().max()))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", CRITERIA)
def test_saliencies_and_masks_on_cuda_equal_those_on_cpu(name, world):
    model, space = world
    row = CRITERIA[name]
    if space.granularity not in row.granularities:
        pytest.skip(f"not for {space.granularity}s")
    initial = ms.build_model(NETWORKS[space.granularity], SHAPE).state_dict()
    more = {"generator": torch_generator(0)} if row.draws else {}
    here = row.saliency(model, space, batches(), initial=initial, **more)
    more = {"generator": torch_generator(0)} if row.draws else {}
    values = row.saliency(there(model), space, batches(), initial=initial, **more)
    if name != "energy":  # the saliency is an order, in which near equals may change places
        assert close(values, here)
    on_it = {key: value.to(DEVICE) for key, value in initial.items()}
    seen = [(images.to(DEVICE), labels.to(DEVICE)) for images, labels in batches()]
    generator = torch_generator(0)
    mask = select(name, there(model), space, seen, 0.3, initial=on_it, generator=generator, on_empty="keep_one")
    assert mask.n_kept == space.count(0.3)
    wanted = select(
        name, model, space, batches(), 0.3, initial=initial, generator=torch_generator(0), on_empty="keep_one"
    )
    assert (mask.bits == wanted.bits).double().mean() > 0.99


def test_masked_equals_pruned_on_cuda():
    model = ms.build_model(NETWORKS["filter"], SHAPE).to(DEVICE).eval()
    space = ms.filter_space(model, torch.zeros(1, *SHAPE, device=DEVICE))
    mask = space.random(0.4, "layerwise", torch_generator(0), on_empty="keep_one")
    images = DATA.test.images[:64].to(DEVICE)
    pruned = ms.prune(model, space, mask)
    assert next(pruned.parameters()).device.type == DEVICE
    with torch.no_grad(), space.applied(model, mask):
        assert close(pruned(images), model(images), 1e-5)


def test_cuda_scorer_chooses_its_path_by_space_and_network(world):
    """Filter masks are scored on the masked network; proposals of a network with convolutions one by one."""
    model, space = world
    paths = {"weight": InPlacePath, "filter": ReferencePath}
    assert type(ms.Scorer(model, space, DATA.search, "loss", device=DEVICE)._path) is paths[space.granularity]
    convolutional = ms.build_model("lenet5", (1, 28, 28))
    split = ms.Split(torch.randn(4, 1, 28, 28), torch.arange(4))
    assert ms.Scorer(convolutional, ms.weight_space(convolutional), split, "loss", device=DEVICE).masks_per_pass == 1


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("objective", [name for name, row in OBJECTIVES.items() if row.of_training is None])
def test_scores_on_cuda_equal_those_on_cpu(objective, fast, world):
    model, space = world
    if OBJECTIVES[objective].of_filters is not None and space.granularity != "filter":
        pytest.skip("of filters")
    here = ms.Scorer(model, space, DATA.search, objective, fast=False)
    scorer = ms.Scorer(model, space, DATA.search, objective, device=DEVICE, fast=fast)
    searcher = SEARCHERS["annealing"]()
    searcher.start(ms.Problem(space, 0.5, ms.Budget(12), seed=0))
    for _ in range(12):  # moves from mask to mask, some of them refused
        proposals = searcher.ask()
        scores = scorer.score(proposals)
        searcher.tell(proposals, scores)
        wanted = [score.value for score in here.score([ms.Proposal.of(one.mask) for one in proposals])]
        tolerance = 1.5 / len(DATA.search) if objective == "accuracy" else 1e-3
        assert [score.value for score in scores] == pytest.approx(wanted, rel=1e-3, abs=tolerance)


@pytest.mark.parametrize("objective", ["accuracy", "loss", "calibrated_loss"])
def test_weight_masks_are_scored_in_parallel_on_cuda(objective):
    model = ms.build_model(NETWORKS["weight"], SHAPE)
    space = ms.weight_space(model)
    masks = [space.random(0.5, generator=torch_generator(seed)) for seed in range(19)]
    here, scorer = (ms.Scorer(model, space, DATA.search, objective, device=device) for device in ("cpu", DEVICE))
    assert (scorer.masks_per_pass, here.masks_per_pass) == (16, 1)
    scores = scorer.score([ms.Proposal.of(mask) for mask in masks])
    tolerance = 1.5 / len(DATA.search) if objective == "accuracy" else 1e-4
    assert [score.value for score in scores] == pytest.approx([here(mask).value for mask in masks], abs=tolerance)


@pytest.mark.parametrize("by", ["val", "train"])
def test_short_trainings_on_cuda_equal_those_on_cpu(by, world):
    model, space = world
    masks = [space.random(0.5, "layerwise", torch_generator(seed), on_empty="keep_one") for seed in range(4)]
    short = {"by": by, "steps": 8, "seed": 1}
    here = ms.ShortTraining(model, space, DATA.train, DATA.search, SETTINGS, **short)
    scorer = ms.ShortTraining(model, space, DATA.train, DATA.search, SETTINGS, device=DEVICE, **short)
    wanted = [here(mask).value for mask in masks]
    assert [scorer(mask).value for mask in masks] == pytest.approx(wanted, rel=1e-2)
    assert [score.value for score in scorer.score([ms.Proposal.of(mask) for mask in masks])] == pytest.approx(
        wanted, rel=1e-2
    )


def test_weight_masks_are_trained_in_parallel_on_cuda():
    model = ms.build_model(NETWORKS["weight"], SHAPE)
    scorer = ms.ShortTraining(model, ms.weight_space(model), DATA.train, DATA.search, SETTINGS, steps=4, device=DEVICE)
    assert scorer.side_by_side == 16


@pytest.mark.parametrize("name", SEARCHERS)
def test_searchers_run_on_cuda(name, world):
    model, space = world
    scorer = ms.Scorer(model, space, DATA.search, "loss", device=DEVICE)
    energy = None
    if SEARCHERS[name]().needs_energy:
        if space.granularity != "filter":
            pytest.skip("of filters")
        energy = ms.repair_energy(model, space, DATA.train.sample(256)[0])
    history = ms.search(space, SEARCHERS[name](), scorer, 0.5, budget=8, on_empty="keep_one", energy=energy)
    assert len(history) == 8
    best = history.best
    assert best.mask.n_kept == space.count(0.5)
    assert scorer(best.mask).value == pytest.approx(best.score.value, rel=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_on_cuda_equals_cpu_and_resumes_exactly(optimizer, world, tmp_path, monkeypatch):
    """Equal to the CPU up to rounding; a resumed training is exactly equal."""
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)
    model, space = world
    lr = {"sgd": 0.02, "adadelta": 0.1}.get(optimizer, 1e-3)
    settings = ms.TrainSettings(epochs=3, batch_size=50, optimizer=optimizer, lr=lr, augment="crop_flip")
    mask = space.random(0.5, "layerwise", torch_generator(0), on_empty="keep_one")

    def ticket():
        drawn = ms.draw_ticket(ms.build_model(NETWORKS[space.granularity], SHAPE), space, mask, model.state_dict())
        return {"model": drawn.network, "masks": drawn.masks}

    kept = {"split": DATA.train, "settings": settings, "val": DATA.search, "seed": 2}
    here = ms.train(**ticket(), **kept)
    whole = ms.train(**ticket(), **kept, device=DEVICE)
    assert close([row.train_loss for row in whole.epochs], [row.train_loss for row in here.epochs], 2e-2)
    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        ms.train(**ticket(), **kept, device=DEVICE, checkpoint=file, on_epoch=interrupt)
    again = ms.train(**ticket(), **kept, device=DEVICE, checkpoint=file)
    assert same(whole.model.state_dict(), again.model.state_dict())


def interrupt(row):
    if row.epoch == 2:
        raise KeyboardInterrupt


def test_streamed_training_on_cuda_equals_resident_training(world, monkeypatch):
    model, _ = world
    resident = ms.train(there(model), DATA.train, SETTINGS, device=DEVICE)
    monkeypatch.setitem(batches_module.RESIDENT_SHARE, "cuda", 0.0)
    streamed = ms.train(there(model), DATA.train, SETTINGS, device=DEVICE)
    assert same(resident.model.state_dict(), streamed.model.state_dict())


def test_bfloat16_training_on_cuda_keeps_float32_weights(world):
    model, _ = world
    settings = ms.TrainSettings(epochs=2, batch_size=50, lr=0.02, precision="bfloat16")
    training = ms.train(there(model), DATA.train, settings, device=DEVICE)
    assert not training.diverged
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["set", "rigl"])
def test_regrowing_on_cuda_keeps_counts_and_zeros(kind):
    model = there(ms.build_model(NETWORKS["weight"], SHAPE))
    space = ms.weight_space(model)
    mask = space.random(0.2, scope="erk", generator=torch_generator(0))
    regrowing = Regrowing(model, space, mask, kind, steps=8, interval=2)
    ms.train(model, DATA.train, SETTINGS, remask=regrowing, device=DEVICE)
    assert regrowing.mask != mask
    assert regrowing.mask.n_kept == mask.n_kept
    kept = space.parameter_masks(regrowing.mask)
    assert all((dict(model.named_parameters())[name].cpu()[~bits] == 0).all() for name, bits in kept.items())


def test_gradual_saliency_on_cuda_keeps_exact_density(world):
    model, space = world
    name = "magnitude" if space.granularity == "weight" else "filter_l2"
    saliency = ms.gradual_saliency(there(model), space, DATA.train, SETTINGS, 0.3, name, on_empty="keep_one")
    assert space.top_k(saliency, 0.3, on_empty="keep_one").n_kept == space.count(0.3)


@pytest.mark.parametrize("name", SUPERMASKS)
def test_supermasks_on_cuda_keep_exact_density(name):
    model = ms.build_model(NETWORKS["weight"], SHAPE)
    space = ms.weight_space(model)
    short = SupermaskSettings(epochs=1, batch_size=50)
    mask = learn(name, there(model), space, DATA.train, 0.5, settings=short, device=DEVICE)
    assert list(mask.kept_per_layer().values()) == space.quotas(0.5)


def test_latency_is_measured_on_cuda(world):
    model, space = world
    mask = space.random(0.3, "layerwise", torch_generator(0), on_empty="keep_one")
    pruned = ms.prune(there(model), space, mask) if space.granularity == "filter" else there(model)
    [measured] = latency(pruned, DATA.test.images[:8], [8], seconds=0.05).values()
    assert measured.median > 0
    assert measured.device.startswith(DEVICE)
