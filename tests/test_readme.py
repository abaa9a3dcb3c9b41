"""The README is short, and its first two shell blocks are what ``.ci/run`` runs."""

from documents import ROOT, blocks

README = ROOT / "README.md"


def test_readme_starts_with_setup_and_run_and_then_setup_and_tests():
    first, second = [block.text.splitlines() for block in blocks(README) if block.language == "sh"][:2]
    assert first[0] == "python3 -m venv .venv"
    assert first[-1] == ".venv/bin/python run_search.py --recipe repaired_units"
    assert second[0].startswith(".venv/bin/pip install")
    assert second[-1].startswith(".venv/bin/python -m pytest")


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 180
