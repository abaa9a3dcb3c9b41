"""Committed rows of a recipe: a part of the recipe has their methods, or the part is listed as removed."""

import pytest

from benchmarks.page import HERE, RESULTS
from benchmarks.rows import read_csv
from masksearch.experiment import load_recipe

OF_REMOVED_PARTS = {  # file -> last commit that has the part
    "search_filters_macs_relative": "0aa3cbb",
    "search_filters_resnet20_macs_relative": "0aa3cbb",
}
PARTS = {part.run.name.removeprefix("search_filters_cpu_"): part for part in load_recipe("search_filters", "cpu")}
FILES = sorted(path.stem for path in (HERE / "results").glob("search_filters_*.csv"))


def parts_of(file):
    """Parts that may make the file, whose name has the part's words behind those of the network and the optimiser."""
    name = file.removeprefix("search_filters_").split("_")[-1]
    return [PARTS[part] for part in (name, f"{name}_macs") if part in PARTS]


@pytest.mark.parametrize("file", [file for file in FILES if file not in OF_REMOVED_PARTS])
def test_recipe_part_has_the_methods_of_its_committed_rows(file):
    methods = {row["method"] for row in read_csv(HERE / "results" / f"{file}.csv")}
    assert any(methods <= set(part.sweep.methods) for part in parts_of(file))


@pytest.mark.parametrize("file", OF_REMOVED_PARTS)
def test_rows_of_removed_parts_are_committed_and_the_page_names_their_commit(file):
    assert file in FILES
    assert not parts_of(file)
    before = (RESULTS / "filters_other_searches.md").read_text().partition(f"benchmarks.collect --into {file} ")[0]
    assert f"removed after commit {OF_REMOVED_PARTS[file]}" in before
