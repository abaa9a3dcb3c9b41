"""Benchmarks of transformers after training: texts from package descriptions, and searches for orders of channels."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import masksearch as ms
from benchmarks import permutations
from benchmarks.encoder import recall_at_10, with_layers
from benchmarks.package_texts import SECTIONS, drawn, packages, write_folder


def record(name, section, first, source=None, words=20):
    source_line = f"Source: {source} (1.0)\n" if source else ""
    rest = "\n".join(f" word{i} of the description of {first}" for i in range(words // 4))
    return f"Package: {name}\n{source_line}Description-en: {first}\n{rest}\n .\n last line\nSection: {section}\n"


def test_packages_gives_a_text_per_source_and_fixed_parts(tmp_path, monkeypatch):
    records = [record(f"p{i}", SECTIONS[i % 3], f"tool number {i}") for i in range(90)]
    records += [
        record("second", "net", "another line", source="p1"),  # its source has a package
        record("copy", SECTIONS[2], "Tool number 2"),  # an equal first line
        record("short", "net", "few words", words=4),
        record("language", "python", "a section by form"),
        record("area", f"contrib/{SECTIONS[0]}", "of another area"),
    ]
    path = tmp_path / "packages.txt"
    path.write_text("\n".join(records))
    found = packages(path)
    assert len(found) == 91
    assert {one.section for one in found} == {0, 1, 2}
    assert all(one.rest.startswith("word0") and one.rest.endswith("last line") for one in found)
    path.write_text("\n".join(reversed(records)))
    assert packages(path) == found
    assert {one.part for one in found} == {"train", "search", "test"}
    chosen = [one for one in found if one.section == 0]
    assert len(chosen) == 31
    with pytest.raises(ms.InputError, match="of section"):
        drawn(found, "test", 10, 0)
    monkeypatch.setattr("benchmarks.package_texts.SECTIONS", SECTIONS[:3])
    write_folder(tmp_path / "folder", found, 2)
    texts = [path.read_text() for path in sorted((tmp_path / "folder" / "train").rglob("*.txt"))]
    assert len(texts) == 2 * 3
    assert all(text in {f"{one.first}. {one.rest}" for one in found if one.part == "train"} for text in texts)
    monkeypatch.undo()
    path.write_text("Package: p\nDescription: only a first line\nSection: net\n")
    with pytest.raises(ms.InputError, match="apt-get update"):
        packages(path)


def test_recall_at_10_counts_documents_among_the_ten_nearest():
    vectors = torch.eye(30)
    assert recall_at_10(vectors, vectors) == 1
    far = vectors.clone()
    far[0] = -vectors[1:].sum(0)
    assert recall_at_10(vectors - 0.5 * vectors[0], far) < 1


def test_with_layers_selects_layers_in_a_copy():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))
    encoder = nn.Module()
    encoder.network = nn.Module()
    encoder.network.encoder = nn.Module()
    encoder.network.encoder.layer = layers
    small = with_layers(encoder, (1, 4))
    kept = small.network.encoder.layer
    assert len(kept) == 2
    assert len(encoder.network.encoder.layer) == 6
    assert torch.equal(kept[1].weight, layers[4].weight)


def test_permutation_benchmark_has_a_row_for_each_method_and_reuses_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(permutations, "ROWS", tmp_path / "rows.csv")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    case = SimpleNamespace(model=model, calibration=torch.randn(64, 8), measured=lambda network: {"distance": 0.5})
    rows = []
    permutations.run(case, "small", 0, 0.05, rows)
    assert [row["method"] for row in rows] == ["identity", "greedy", "annealing"]
    assert float(rows[2]["lost"]) < float(rows[0]["lost"])
    permutations.run(case, "small", 0, 0.05, rows)
    assert len(rows) == 3
    assert permutations.table(rows).count("\n") == 4
