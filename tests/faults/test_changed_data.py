"""Changed data: the content decides the run folder, and resuming on other data raises an input error."""

import pytest
import torch
from fault_cases import SPACE, HashScorer, settings_in

import masksearch as ms
from masksearch.data import load_data
from masksearch.experiment import run_sweep
from masksearch.utils.errors import InputError


def image_folder(folder, shade):
    from PIL import Image

    for part, number in (("train", 30), ("test", 6)):
        for label in "ab":
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            for place in range(number):
                colour = (shade + place + 60 * (label == "b")) % 256
                Image.new("L", (8, 8), colour).save(folder / part / label / f"{place}.png")


def test_changed_images_change_the_run_folder(tmp_path):
    image_folder(tmp_path / "mine", 0)
    flat = {"dataset": f"imagefolder:{tmp_path / 'mine'}", "train_examples": 20, "val_examples": 8}
    settings = settings_in(tmp_path / "runs", **flat)
    before = run_sweep(settings)
    assert run_sweep(settings).folders == before.folders
    image_folder(tmp_path / "mine", 90)
    after = run_sweep(settings)
    assert after.folders != before.folders
    assert len(list((tmp_path / "runs" / "dense").iterdir())) == 2


def test_only_changed_published_data_has_a_digest(monkeypatch):
    assert load_data("digits").content == ""
    from sklearn import datasets

    bunch = datasets.load_digits()
    bunch.images[0, 3, 3] += 1
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    assert len(load_data("digits").content) == 16


def test_resumed_training_with_other_data_raises_input_error(tmp_path):
    images, labels = torch.rand(20, 1, 2, 2), torch.arange(20) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def train(split):
        model.load_state_dict(state)
        return ms.train(model, split, ms.TrainSettings(epochs=2), checkpoint=tmp_path / "file")

    train(ms.Split(images, labels))
    train(ms.Split(images.clone(), labels))
    with pytest.raises(InputError, match="other data; restore the data"):
        train(ms.Split(images + 1, labels))


def test_resumed_training_with_other_validation_data_raises_input_error(tmp_path):
    images, labels = torch.rand(20, 1, 2, 2), torch.arange(20) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    split = ms.Split(images, labels)

    def train(val):
        torch.nn.init.ones_(model[1].weight)
        torch.nn.init.zeros_(model[1].bias)
        return ms.train(model, split, ms.TrainSettings(epochs=2), val=val, checkpoint=tmp_path / "file")

    train(ms.Split(images[:8], labels[:8]))
    train(ms.Split(images[:8].clone(), labels[:8]))
    for other in (ms.Split(images[:8], 1 - labels[:8]), None):
        with pytest.raises(InputError, match="other validation data; restore the data, or name another file"):
            train(other)


class Pairs(torch.utils.data.Dataset):
    """Streamed examples whose change shows only in ``identity``."""

    def __len__(self):
        return 40

    def __getitem__(self, place):
        return torch.full((1, 2, 2), float(place % 7)), place % 2


def scorers(kind, changed):
    """Return a space and a scorer of its masks on the original or on changed examples."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    space = ms.weight_space(model)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(20, 1, 2, 2, generator=generator), torch.arange(20) % 2
    split = ms.Split(images + (0.5 if changed and kind != "targets" else 0), labels.flip(0) if changed else labels)
    if kind == "streamed":
        split = ms.Data.from_datasets("mine", Pairs(), Pairs(), Pairs(), stream=True, identity=str(changed)).val
    if kind == "short training":
        train = ms.Split(images, labels)
        return space, ms.ShortTraining(model, space, train, split, ms.TrainSettings(epochs=1), steps=2)
    scorer = ms.Scorer(model, space, split, objective="loss")
    assert ms.ParallelScorer(scorer, 1).data_digest() == scorer.data_digest()
    return space, scorer


@pytest.mark.parametrize("kind", ["inputs", "targets", "streamed", "short training"])
def test_resumed_search_with_other_examples_raises_input_error(tmp_path, kind):
    def search(budget, changed=False, folder=tmp_path):
        space, scorer = scorers(kind, changed)
        return ms.search(space, "random_search", scorer, 0.5, budget, folder=folder)

    search(2)
    search(3)
    for budget in (2, 3, 4):  # of kept files, of the last files, and of a search that would continue
        with pytest.raises(InputError, match=r"holds a search on other examples; restore the data, .* remove the fold"):
            search(budget, changed=True)
    assert len(search(4)) == 4


def test_user_scorer_with_a_data_digest_is_checked(tmp_path):
    class ScorerWithDigest(HashScorer):
        """Has a digest."""

        digest = "a"

        def data_digest(self):
            return self.digest

    scorer = ScorerWithDigest()
    ms.search(SPACE, "annealing", HashScorer(), 0.5, 3, folder=tmp_path)  # without a digest, as older versions
    ms.search(SPACE, "annealing", scorer, 0.5, 4, folder=tmp_path)
    scorer.digest = "b"
    with pytest.raises(InputError, match="other examples"):
        ms.search(SPACE, "annealing", scorer, 0.5, 5, folder=tmp_path)
