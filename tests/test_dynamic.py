"""Masks that change while the network trains: exact densities, nested masks, the right weights, exact resumption."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from masksearch.criteria import select
from masksearch.dynamic import Gradual, Regrowing, default_end, default_interval
from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import filter_space, weight_space
from masksearch.training import TrainSettings, train, trainer

OPTIMIZERS = {"sgd": 0.05, "adam": 0.003, "adamw": 0.003, "adadelta": 1.0}
STEPS = 25  # 5 epochs of 5


def make_split(n=150, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 10, (n,), generator=g)
    return SimpleNamespace(images=centres[labels] + torch.randn(n, 1, 8, 8, generator=g), labels=labels)


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(96, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )


def how(optimizer="sgd", **changes):
    return TrainSettings(
        **({"epochs": 5, "batch_size": 32, "optimizer": optimizer, "lr": OPTIMIZERS[optimizer]} | changes),
        weight_decay=1e-2,
    )


SPLIT = make_split()
SPACES = {
    "weight": weight_space(make_model()),
    "filter": filter_space(make_model(), SPLIT.images[:1]),
}


def chooser(model, space, name="magnitude", **more):
    batches = [(SPLIT.images[:32], SPLIT.labels[:32])]

    def choose(density, alive):
        return select(name, model, space, batches, density, alive=alive, on_empty="keep_one", **more)

    return choose


def gradual(granularity="weight", density=0.1, name=None, **more):
    name = name or {"weight": "magnitude", "filter": "filter_l1"}[granularity]

    def build(model):
        space = SPACES[granularity]
        return Gradual(model, space, chooser(model, space, name), density, STEPS, **more)

    return build


def regrowing(kind, scope="erk", density=0.2, **more):
    def build(model):
        space = SPACES["weight"]
        mask = space.random(density, scope, torch.Generator().manual_seed(1))
        return Regrowing(model, space, mask, kind, steps=STEPS, **more)

    return build


KINDS = {
    "gradual": gradual(interval=2),
    "gradual snip": gradual(name="snip", interval=2),
    "gradual filters": gradual("filter", 0.4, interval=2),
    "gradual filters taylor": gradual("filter", 0.4, name="taylor", interval=2),
    "set": regrowing("set", interval=2),
    "rigl": regrowing("rigl", interval=2),
}


class Watched:
    """Passes everything on, and looks at the network before and after every step's change."""

    def __init__(self, inner):
        self.inner, self.changes = inner, {0: inner.mask}

    @property
    def masks(self):
        return self.inner.masks

    def __call__(self, step):
        self.check_zeros()
        changed = self.inner(step)
        assert changed == (self.inner.mask != list(self.changes.values())[-1])
        if changed:
            self.changes[step] = self.inner.mask
        return changed

    def check_zeros(self):
        for name, keep in self.masks.items():
            assert torch.count_nonzero(self.inner.model.get_parameter(name)[~keep]) == 0

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
        self.changes = {0: self.inner.mask}


def trained(build, chosen=None, **more):
    model = make_model()
    watched = Watched(build(model))
    training = train(model, SPLIT, chosen or how(), remask=watched, **more)
    watched.check_zeros()
    return training, watched


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_pruned_weights_are_zero_at_every_step_and_masks_change(kind, optimizer):
    training, watched = trained(KINDS[kind], how(optimizer))
    assert len(watched.changes) > 5
    assert watched.inner.mask != watched.changes[0]
    assert not training.diverged


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "gradual" in kind])
def test_gradual_masks_nest_and_have_the_ramp_s_densities(kind):
    _, watched = trained(KINDS[kind])
    remask = watched.inner
    n = remask.space.n_units
    assert remask.ramp.end == 18
    assert remask.mask.n_kept == round(remask.ramp.density * n)
    for before, after in pairwise(watched.changes.values()):
        assert not (after.bits & ~before.bits).any()
    now = remask.space.full()
    for step in range(1, STEPS + 1):
        now = watched.changes.get(step, now)
        assert now.n_kept == round(remask.ramp.at(min(step // 2 * 2, 18)) * n)


@pytest.mark.parametrize("scope", ["layerwise", "erk"])
def test_a_choice_of_layers_densities_ends_at_its_own(scope):
    space = SPACES["weight"]
    model = make_model()
    remask = Gradual(model, space, chooser(model, space, scope=scope), 0.1, STEPS)
    train(model, SPLIT, how(), remask=remask)
    assert list(remask.mask.kept_per_layer().values()) == space.quotas(0.1, scope)


def test_gradual_ranks_the_weights_of_the_moment():
    model = make_model()
    space = SPACES["weight"]
    seen = []

    def choose(density, alive):
        weights = space.unit_sums(dict(model.named_parameters())).clone()
        mask = chooser(model, space)(density, alive)
        seen.append((weights, mask))
        return mask

    train(model, SPLIT, how(), remask=Gradual(model, space, choose, 0.1, STEPS, interval=5))
    assert len(seen) == 4
    for (weights, mask), (later, _) in pairwise(seen):
        assert weights[mask.bits].abs().min() >= weights[~mask.bits].abs().max()
        assert not torch.equal(weights, later)


def test_gradual_held_in_parameters_fits():
    model, space = make_model(), SPACES["filter"]
    remask = Gradual(model, space, chooser(model, space, "filter_l1", hold="params"), 0.4, STEPS)
    train(model, SPLIT, how(), remask=remask)
    allowed = 0.4 * space.kept_params(space.full())
    assert 0.6 * allowed < space.kept_params(remask.mask) <= allowed


def test_gradual_begins_where_it_is_told_to():
    space = SPACES["weight"]
    alive = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    _, watched = trained(gradual(alive=alive, begin=6, end=20, interval=4))
    assert watched.changes[0] == alive
    assert list(watched.changes) == [0, 10, 14, 18, 20]
    assert watched.changes[10].n_kept == round((0.1 + 0.4 * (10 / 14) ** 3) * space.n_units)
    assert not (watched.inner.mask.bits & ~alive.bits).any()


def test_a_training_that_begins_late_has_the_whole_course(monkeypatch):
    """75 % of what is trained, not of a schedule whose first 80 steps are over."""
    model = make_model()
    space = SPACES["weight"]
    late = Gradual(model, space, chooser(model, space), 0.1, 100, begin=80)
    assert (late.ramp.begin, late.ramp.end, late.ramp.interval) == (80, 95, default_interval(20))
    mask = space.random(0.2, scope="erk")
    own, whole = (Regrowing(model, space, mask, steps=20 + n, begin=n, interval=5) for n in (80, 0))
    assert (own.end, whole.end) == (95, 15)
    assert [own._due(step) for step in range(80, 100)] == [whole._due(step) for step in range(20)]
    shares = []
    monkeypatch.setattr("masksearch.dynamic.rigl_update", lambda *given: shares.append(given[4]) or mask)
    for step in (0, 5, 10):
        own(80 + step)
        whole(step)
    assert shares[::2] == shares[1::2] == [0.3, pytest.approx(0.225), pytest.approx(0.075)]


def test_gradual_catches_up_where_a_training_begins_after_its_ramp():
    _, watched = trained(gradual(end=8), begin=2)
    assert list(watched.changes) == [0, 11]
    assert watched.inner.mask.n_kept == round(0.1 * SPACES["weight"].n_units)


@pytest.mark.parametrize("kind", ["set", "rigl"])
def test_regrowing_keeps_every_layer_s_count(kind):
    _, watched = trained(KINDS[kind])
    counts = watched.changes[0].kept_per_layer()
    assert all(mask.kept_per_layer() == counts for mask in watched.changes.values())
    assert all(step < 18 and step % 2 == 0 for step in watched.changes)


def test_rigl_is_the_algorithm_on_gradients_of_one_s_own():
    """Gradients from autograd at the weights before the step, the mask by sorting, layer by layer."""
    split = SimpleNamespace(images=SPLIT.images.double(), labels=SPLIT.labels)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) / 4)
    space = weight_space(model)
    remask = Regrowing(model, space, space.random(0.3, "layerwise"), "rigl", steps=20, interval=2)
    space.apply(model, remask.mask)
    last = {name: p.detach().clone() for name, p in model.named_parameters()}
    regrown = []

    class Checked(Watched):
        def __call__(self, step):
            nonlocal last
            before = {name: keep.clone() for name, keep in self.masks.items()}
            start = {name: weight.requires_grad_() for name, weight in last.items()}
            loss = F.cross_entropy(torch.func.functional_call(model, start, split.images).float(), split.labels)
            gradients = dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))
            now = {name: p.detach().clone() for name, p in model.named_parameters()}
            changed = super().__call__(step)
            for name, was in before.items():
                keep = self.masks[name]
                if step % 2 or step >= 15:
                    assert torch.equal(keep, was)
                    continue
                active = was.flatten().nonzero().flatten()
                count = int(0.15 * (1 + math.cos(math.pi * step / 15)) * len(active))
                order = now[name].flatten()[active].abs().argsort()
                stay = torch.zeros(was.numel(), dtype=torch.bool)
                stay[active[order[count:]]] = True
                others = (~stay).nonzero().flatten()
                order = gradients[name].flatten()[others].abs().argsort(descending=True)
                expected = stay.clone()
                expected[others[order[:count]]] = True
                assert torch.equal(keep.flatten(), expected)
                regrown.append(int((keep & ~was).sum()))
                now[name] *= keep
            last = now
            return changed

    train(model, split, TrainSettings(epochs=20, batch_size=150, lr=0.1), remask=Checked(remask))
    assert len(regrown) == 14
    assert sum(regrown) > 100


def test_set_draws_differ_from_step_to_step_and_seed_to_seed():
    masks = [trained(regrowing("set", interval=2, seed=seed))[1].inner.mask for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]


def test_set_draws_anew_at_every_step():
    masks = []
    for step in (2, 2, 4):
        remask = regrowing("set", interval=2)(make_model())
        assert remask(step)
        masks.append(remask.mask)
    assert masks[0] == masks[1] != masks[2]


def test_a_ramp_that_is_over_stays_over_when_resumed():
    model, space = make_model(), SPACES["weight"]
    calls = []

    def choose(density, alive):
        calls.append(density)
        return chooser(model, space)(density, alive)

    first, second = (Gradual(model, space, choose, 0.1, STEPS) for _ in range(2))
    assert first(18)
    second.load_state_dict(first.state_dict())
    assert not second(19)
    assert calls == [0.1]
    assert second.mask == first.mask


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, monkeypatch, kind, optimizer):
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)

    class InterruptionError(Exception):
        pass

    def stop(row):
        if row.epoch == 2:
            raise InterruptionError

    whole, watched = trained(KINDS[kind], how(optimizer))
    with pytest.raises(InterruptionError):
        trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c", on_epoch=stop)
    torch.manual_seed(1234)
    again, resumed = trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c")
    assert resumed.inner.mask == watched.inner.mask
    assert min(list(resumed.changes)[1:]) > 10
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    over, finished = trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c")
    assert finished.inner.mask == watched.inner.mask
    assert all(torch.equal(ours[name], weight) for name, weight in over.model.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (gradual(), gradual(density=0.2), "with density 0.1, these have 0.2"),
        (gradual(), gradual(end=20), "with end 18, these have 20"),
        (regrowing("rigl"), regrowing("rigl", share=0.5), "with share 0.3, these have 0.5"),
        (regrowing("rigl"), regrowing("set"), "with kind rigl, these have set"),
        (regrowing("rigl"), gradual(), "of a training with masks"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(tmp_path, first, second, message):
    for build in (first, second):
        model = make_model()
        if build is second:
            with pytest.raises(InputError, match=message):
                train(model, SPLIT, how(), remask=build(model), checkpoint=tmp_path / "c")
        else:
            train(model, SPLIT, how(), remask=build(model), checkpoint=tmp_path / "c")


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_diverges_ends_as_any_other(kind):
    model = make_model()
    assert train(model, SPLIT, how(lr=1e30), remask=KINDS[kind](model)).diverged


def test_defaults_are_the_papers_for_long_trainings():
    assert [default_interval(steps) for steps in (0, 39, 40, 400, 4000, 100_000)] == [1, 1, 1, 10, 100, 100]
    assert [default_end(steps) for steps in (0, 40, 1000)] == [0, 30, 750]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (gradual(density=0), r"density: 0; allowed is \(0, 1\]"),
        (gradual(density=0.6, alive=SPACES["weight"].random(0.5)), "density: 0.6; allowed is"),
        (gradual(end=26), "end: 26; allowed is 1 to 25, the steps of the training"),
        (gradual(begin=25), "end: 26"),
        (gradual(begin=9, end=9), "begin: 9; allowed is 0 to 8"),
        (gradual(interval=0), "interval: 0"),
        (gradual(alive=SPACES["filter"].full()), "mask of a filter space"),
        (regrowing("rigle"), "unknown kind of regrowing 'rigle': did you mean 'rigl'"),
        (regrowing("rigl", share=1.0), "share: 1.0; allowed is"),
        (regrowing("set", share=0), "share: 0"),
        (regrowing("set", interval=0), "interval: 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build(make_model())
    assert "\n" not in str(caught.value)


def test_filters_and_empty_layers_are_not_regrown():
    space = SPACES["filter"]
    with pytest.raises(InputError, match="rigl: is for weight masks, not filter"):
        Regrowing(make_model(), space, space.full(), steps=STEPS)
    space = SPACES["weight"]
    bits = space.full().bits.clone()
    bits[space.layers[1].slice] = False
    with pytest.raises(InputError, match="mask: keeps nothing of layer '3'"):
        Regrowing(make_model(), space, Mask(space, bits), steps=STEPS)


def test_a_choice_that_regrows_is_refused():
    model, space = make_model(), SPACES["weight"]

    def choose(density, alive):
        return space.random(density, generator=torch.Generator().manual_seed(int(density * 1e6)))

    with pytest.raises(InputError, match="choose: regrew"):
        train(model, SPLIT, how(), remask=Gradual(model, space, choose, 0.1, STEPS))
