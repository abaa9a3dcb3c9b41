"""Tables of means and of paired differences, from rows."""

from benchmarks.means import main
from benchmarks.rows import write_csv

BASE = {"find_at": "0", "control": "none", "sparsity": "0.9"}


def rows(tmp_path):
    values = {("snip", "none"): (0.91, 0.93), ("snip", "shuffle"): (0.90, 0.91), ("random", "none"): (0.5,)}
    found = [
        BASE | {"method": method, "control": control, "seed": str(seed), "trained.test_accuracy": str(value)}
        for (method, control), seeds in values.items()
        for seed, value in enumerate(seeds)
    ]
    write_csv(found, tmp_path / "rows.csv")
    return str(tmp_path / "rows.csv")


def test_means_show_the_number_of_seeds_when_seeds_are_missing(tmp_path, capsys):
    assert main([rows(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| snip | 92.00 (±1.00) |" in out
    assert "| random | 50.00 (1) |" in out


def test_differences_are_paired_and_several_methods_are_compared_with_their_controls(tmp_path, capsys):
    assert main([rows(tmp_path), "--of", "snip"]) == 0
    out = capsys.readouterr().out
    assert "| snip minus snip shuffled | +1.50 (±0.50) |" in out
    assert "| snip minus random | +41.00 (1) |" in out
    assert main([rows(tmp_path), "--of", "snip", "random"]) == 0
    assert "minus random" not in capsys.readouterr().out


def test_table_is_written_to_the_page_with_its_markers(tmp_path, capsys):
    (tmp_path / "page.md").write_text("before\n<!-- t -->\nold\n<!-- end of t -->\nafter\n")
    assert main([rows(tmp_path), "--write", "t"], tmp_path) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n<!-- t -->\n| method |")
    assert text.endswith("<!-- end of t -->\nafter\n")
    assert main([rows(tmp_path), "--write", "u"], tmp_path) == 2
    assert "one page needs the lines <!-- u -->" in capsys.readouterr().err
    assert main([rows(tmp_path), "--of", "snap"], tmp_path) == 2
    assert "snap" in capsys.readouterr().err
