"""Documents name flags and rows that exist."""

import dataclasses
import re
from pathlib import Path

import pytest

from masksearch.cli import main
from masksearch.experiment import Settings, methods
from masksearch.schedules import SCHEDULES

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "coming_from_other_tools.md").read_text()
FIELDS = {item.name for group in dataclasses.fields(Settings()) for item in dataclasses.fields(group.default_factory)}


def ours():
    """The right-hand cells of all tables."""
    rows = [line.replace(r"\|", "¦").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    return [row[2] for row in rows if row[2].strip() != "here"]


def test_every_flag_on_our_side_exists():
    flags = {flag for cell in ours() for flag in re.findall(r"--([a-z0-9-]+)", cell)} - {"help", "list"}
    assert len(flags) >= 30
    assert {flag.replace("-", "_") for flag in flags} <= FIELDS


def test_every_schedule_and_method_on_our_side_exists():
    text = " ".join(ours())
    assert set(re.findall(r"--schedule ([a-z_]+)", text)) <= set(SCHEDULES)
    named = {name for names in re.findall(r"--methods ([a-z_ ]+)", text) for name in names.split()}
    assert {"bn_scale", "synflow"} <= named <= set(methods())


@pytest.mark.parametrize(
    "flags",
    ["--schedule multi_shot --rounds 3", "--control reinit --layer-sparsity fc3=0", "--save-at 1ep --rewind-to lr"],
)
def test_combinations_on_our_side_run(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--model lenet_300_100:0.1 --methods magnitude --sparsity 0.5 --seeds 1 --epochs 1 --threads 1 --device cpu"
    assert main(["run", *small.split(), *flags.split()]) == 0
