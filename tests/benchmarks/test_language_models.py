"""The benchmark of language models, at its smallest size."""

from benchmarks.language_models import run


def test_language_model_benchmark_has_a_row_for_each_method_and_reuses_rows(tmp_path):
    path = tmp_path / "rows.csv"
    rows = run("smoke", 1, tmp_path, path)
    assert len(rows) == 1 + 3 * 5 + 4
    assert {row["sparsity"] for row in rows} == {"0.0", "0.5", "0.6", "0.7", "2:4"}
    assert all(float(row["one_shot"]) < 256 * 1.2 for row in rows)  # 256: all bytes equally probable
    before = path.read_text()
    assert run("smoke", 1, tmp_path, path) == rows
    assert path.read_text() == before
