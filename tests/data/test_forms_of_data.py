"""Data of any form: tensors, tuples and dicts, data sets in memory or streamed, and loaders."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import masksearch as ms
from masksearch.utils.nested import describe, n_examples, tensors_of

N = 60


def inputs_of(form, n=N):
    tensor = torch.arange(n * 6, dtype=torch.float32).view(n, 6)
    tokens = torch.arange(n * 4).view(n, 4) % 11
    return {"tensor": tensor, "tuple": (tensor, tokens), "dict": {"x": tensor, "ids": tokens}}[form]


TARGETS = {
    "classification": lambda n: torch.arange(n) % 3,
    "binary": lambda n: (torch.arange(n) % 2).float(),
    "multilabel": lambda n: torch.stack([torch.arange(n) % 2, torch.arange(n) % 3 == 0], 1).float(),
    "regression": lambda n: torch.arange(n * 2).view(n, 2).float(),
    "segmentation": lambda n: torch.arange(n * 4).view(n, 2, 2) % 3,
    "language_model": lambda n: torch.arange(n * 4).view(n, 4) % 11,
}


@given(form=st.sampled_from(["tensor", "tuple", "dict"]), task=st.sampled_from(sorted(TARGETS)))
@settings(deadline=None, max_examples=25)
def test_splits_of_any_form_are_disjoint_and_complete(form, task):
    inputs, targets = inputs_of(form), TARGETS[task](N)
    data = ms.Data.from_tensors("d", (inputs, targets), (inputs, targets), task=task)
    first = {
        part: {float(row[0]) for row in tensors_of(split.inputs)[0]}
        for part, split in {"train": data.train, "search": data.search, "rest": data.rest}.items()
    }
    assert sum(map(len, first.values())) == N
    assert set.union(*first.values()) == {float(6 * place) for place in range(N)}
    for split in (data.train, data.val, data.test, data.search, data.rest):
        assert split.task.name == task
        assert n_examples(split.targets) == len(split)
        assert describe(split.inputs) == describe(inputs)
    # inputs and targets moved together
    place = (tensors_of(data.train.inputs)[0][:, 0] / 6).long()
    assert torch.equal(data.train.targets, data.train.targets.new_tensor(targets.tolist())[place])


def test_tuple_of_arrays_gives_tuple_of_tensors_and_list_of_arrays_gives_tensor():
    inputs, targets = inputs_of("tuple"), (torch.arange(N) % 3).numpy()
    arrays = tuple(tensor.numpy() for tensor in inputs)
    data = ms.Data.from_tensors("d", (arrays, targets), (arrays, targets))
    assert all(map(torch.equal, data.test.inputs, inputs))
    rows = (list(arrays[0]), targets)
    assert torch.equal(ms.Data.from_tensors("d", rows, rows).test.inputs, inputs[0])


class Items(Dataset):
    """(input, target) pairs; counts reads of items."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets, self.reads = inputs, targets, 0

    def __len__(self):
        return n_examples(self.inputs)

    def __getitem__(self, place):
        self.reads += 1
        item = self.inputs
        if isinstance(item, dict):
            item = {name: value[place] for name, value in item.items()}
        else:
            item = tuple(value[place] for value in item) if isinstance(item, tuple) else item[place]
        return item, self.targets[place]


def pixels(n=N):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "pixels"])
@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_splits_equal_resident_splits_exactly(form, workers):
    inputs = pixels() if form == "pixels" else inputs_of(form)
    sets = [Items(inputs, torch.arange(N) % 3), Items(inputs, torch.arange(N) % 3)]
    resident = ms.Data.from_datasets("d", *sets, stream=False)
    streamed = ms.Data.from_datasets("d", *sets, stream=True, identity="v1", workers=workers)
    assert (resident.streamed, streamed.streamed) == (False, True)
    assert (resident.classes, len(resident.search)) == (streamed.classes, len(streamed.search))
    for part in ("train", "val", "test", "search", "rest"):
        one, other = getattr(resident, part), getattr(streamed, part)
        assert len(one) == len(other)
        order, sizes = torch.randperm(len(one), generator=torch.Generator().manual_seed(1)), [3, 1, 2]
        for places in (None, order):
            for (x, y), (x2, y2) in zip(one.batches(places, sizes), other.batches(places, sizes), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(tensors_of(x), tensors_of(x2), strict=True))
                assert torch.equal(y, y2)


def test_small_data_is_resident_and_streamed_data_without_identity_warns(monkeypatch):
    sets = [Items(inputs_of("tensor"), torch.arange(N) % 3)] * 2
    assert not ms.Data.from_datasets("d", *sets).streamed
    with pytest.warns(UserWarning, match="'d' is streamed without identity="):
        assert "streamed" in repr(ms.Data.from_datasets("d", *sets, stream=True))


def test_items_of_unknown_form_need_a_collate_function():
    strings = [("a text", 0), ("another", 1)] * 20
    with pytest.raises(ms.InputError, match="give collate="):
        ms.Data.from_datasets("d", [1, 2, 3] * 10, [1, 2, 3] * 10)
    vocabulary = {"a": 1, "another": 2, "text": 3}

    def collate(items):
        ids = [[vocabulary[word] for word in text.split()] for text, _ in items]
        padded = torch.tensor([row + [0] * (2 - len(row)) for row in ids])
        return {"input_ids": padded, "attention_mask": padded > 0}, torch.tensor([label for _, label in items])

    data = ms.Data.from_datasets("d", strings, strings, collate=collate)
    assert describe(data.train.inputs) == "{input_ids: int64 2, attention_mask: bool 2}"


def test_language_model_targets_are_its_tokens_without_padding():
    tokens, mask = torch.arange(80).view(20, 4) % 7, torch.ones(20, 4)
    mask[:, 3] = 0
    data = ms.Data.from_tensors("d", (tokens, None), (tokens, None), task="language_model")
    assert torch.equal(data.train.inputs, data.train.targets)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    padded = ms.Data.from_tensors("d", (inputs, None), (inputs, None), task="language_model")
    assert (padded.train.targets[:, 3] == -100).all()
    assert torch.equal(padded.train.targets[:, :3], padded.train.inputs["input_ids"][:, :3])


@pytest.mark.parametrize(
    ("targets", "task", "message"),
    [
        (torch.rand(N), "classification", "name the task of other targets"),
        (torch.arange(N)[:, None] % 3, "classification", r"give targets\[:, 0\]"),
        (torch.arange(N) % 3 + 1, "classification", "labels run from 1 to 3 and none is 0"),
        (torch.arange(N) % 3, "regression", "regression needs floating-point targets"),
        (torch.arange(N) % 3, "binary", "needs targets of 0 and 1"),
        (torch.rand(N, 2), "multilabel", "needs targets of 0 and 1"),
        (torch.arange(N) % 3, "segmentation", "segmentation needs integer classes"),
        (torch.full((N, 1), float("nan")), "regression", "targets hold NaN or infinity"),
        (torch.arange(N) % 3, "clasification", "did you mean 'classification'"),
    ],
)
def test_targets_incompatible_with_the_task_raise_input_error(targets, task, message):
    with pytest.raises(ms.InputError, match=message) as raised:
        ms.Data.from_tensors("d", (inputs_of("tensor"), targets), (inputs_of("tensor"), targets), task=task)
    assert "\n" not in str(raised.value)


def test_class_with_a_single_example_warns():
    labels = torch.zeros(N, dtype=torch.long)
    labels[5] = 1
    with pytest.warns(UserWarning, match="one example of class 1"):
        ms.Data.from_tensors("d", (inputs_of("tensor"), labels), (inputs_of("tensor"), labels))


def loaders(shuffle=(), share=False):
    table = TensorDataset(inputs_of("tensor"), torch.arange(N) % 3)
    parts = {"train": range(40), "val": range(40, 50), "search": range(45 if share else 50, 60)}
    made = {part: DataLoader(Subset(table, list(places)), 8, shuffle=part in shuffle) for part, places in parts.items()}
    return made | {
        "test": DataLoader(TensorDataset(inputs_of("tensor"), torch.arange(N) % 3), 8, shuffle="test" in shuffle)
    }


def test_loader_splits_give_the_batches_of_their_loaders():
    data = ms.Data.from_loaders("d", **loaders(shuffle=("train",)), identity="v1")
    assert (len(data.train), len(data.val), len(data.search), len(data.rest), data.classes) == (40, 10, 10, 10, 3)
    assert (data.search.own_order, data.search.n_batches) == (True, 2)
    batches = list(data.search.batches(None, ()))
    assert [len(targets) for _, targets in batches] == [8, 2]
    assert torch.equal(torch.cat([targets for _, targets in batches]), torch.arange(50, 60) % 3)
    assert torch.equal(data.search.sample(9)[1], torch.arange(50, 59) % 3)


def test_shuffled_overlapping_or_wrong_loaders_raise_input_error():
    with pytest.raises(ms.InputError, match="search: its loader shuffles"):
        ms.Data.from_loaders("d", **loaders(shuffle=("search",)), identity="v1")
    with pytest.raises(ms.InputError, match="val and search: the loaders share 5 items"):
        ms.Data.from_loaders("d", **loaders(share=True), identity="v1")
    given = loaders()
    with pytest.raises(ms.InputError, match="search and test: the loaders share 10 items"):
        ms.Data.from_loaders("d", **(given | {"test": given["search"]}), identity="v1")
    with pytest.raises(ms.InputError, match="allowed is a DataLoader"):
        ms.Data.from_loaders("d", **(loaders() | {"val": [1, 2]}), identity="v1")


def test_labels_of_loaders_are_checked():
    def data(labels):
        parts = {"train": slice(40), "val": slice(40, 50), "search": slice(50, 55), "test": slice(55, 60)}
        inputs = inputs_of("tensor")
        made = {part: DataLoader(TensorDataset(inputs[at], labels[at]), 8) for part, at in parts.items()}
        return ms.Data.from_loaders("d", **made, identity="v1")

    with pytest.raises(ms.InputError, match=r"train: labels run from 1 to 3 and none is 0; number the classes"):
        data(torch.arange(N) % 3 + 1)
    with pytest.raises(ms.InputError, match=r"train: targets are torch.float32 .*name the task"):
        data(torch.rand(N))
    with pytest.warns(UserWarning, match="one example of class 2"):
        assert data((torch.arange(N) % 2).index_fill(0, torch.tensor([3]), 2)).classes == 3


def test_digest_depends_on_every_value_and_on_the_identity_of_streams():
    inputs, labels = inputs_of("dict"), torch.arange(N) % 3
    digest = ms.Data.from_tensors("d", (inputs, labels), (inputs, labels)).digest()
    assert digest == ms.Data.from_tensors("other name", (inputs, labels), (inputs, labels)).digest()
    changed = {**inputs, "x": inputs["x"].clone()}
    changed["x"][7, 2] += 1
    assert digest != ms.Data.from_tensors("d", (changed, labels), (inputs, labels)).digest()
    sets = [Items(inputs, labels)] * 2
    streams = [ms.Data.from_datasets("d", *sets, stream=True, identity=name).digest() for name in ("v1", "v1", "v2")]
    assert streams[0] == streams[1] != streams[2]


def test_load_data_calls_a_user_function(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import torch, masksearch as ms\n"
        "def make(search_examples=None):\n"
        "    pair = (torch.randn(40, 3), torch.arange(40) % 2)\n"
        "    return ms.Data.from_tensors('x', pair, pair, search_examples=search_examples)\n"
        "def wrong():\n    return 3\n"
    )
    name = f"{tmp_path / 'my_data.py'}:make"
    data = ms.load_data(name, search_examples=3)
    assert (data.name, len(data.search)) == (name, 3)
    with pytest.raises(ms.InputError, match=r"val_examples: 3; .* has no such parameter"):
        ms.load_data(name, val_examples=3)
    with pytest.raises(ms.InputError, match=r"returned a int; ms\.Data is needed"):
        ms.load_data(f"{tmp_path / 'my_data.py'}:wrong")


def test_image_folder_with_mixed_sizes_needs_an_image_size(tmp_path):
    from PIL import Image

    for part, size in (("train", (20, 30)), ("val", (31, 24)), ("test", (16, 16))):
        for place, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (size[0] + number, size[1]), (number * 9, 100, 200 * place)).save(
                    tmp_path / part / name / f"{number}.png"
                )
    with pytest.raises(ms.InputError, match="give one size for all with --image-size"):
        ms.load_data(f"imagefolder:{tmp_path}")
    data = ms.load_data(f"imagefolder:{tmp_path}", image_size=12)
    assert (data.shape, len(data.train), len(data.val), len(data.test)) == ((3, 12, 12), 12, 12, 12)
    assert ms.load_data(f"imagefolder:{tmp_path}", image_size=8).shape == (3, 8, 8)
    with pytest.raises(ms.InputError, match="image_size: 9; images of digits have their own size"):
        ms.load_data("digits", image_size=9)
