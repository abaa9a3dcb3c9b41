"""The page of measurements: what stands between its markers is written there by a command that stands beside it."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.__main__ import _flags
from benchmarks.page import HERE
from benchmarks.rows import read_rows
from benchmarks.scripts import commands
from benchmarks.suites import SUITES
from benchmarks.tables import suite_text
from masksearch.experiment import SCALES
from masksearch.utils.registry import choose

PAGE = (HERE / "README.md").read_text()
SCRIPTS = commands("cpu", "$MASKSEARCH_DATA", "runs")
BLOCKS = re.findall(r"^<!-- (\w+) -->$", PAGE, re.MULTILINE)
INDENTED = [line[4:] for line in PAGE.splitlines() if line.startswith("    ")]


def writers(name):
    """What writes a block: a suite, a recipe's sweep, a script, a template, or a command on the page."""
    recipes = {sweep.name for sweep in SUITES["published"].sweeps("cpu")}
    suites = {f"suite_{suite}_cpu" for suite in SUITES}
    typed = [line for line in INDENTED if re.search(rf"--write {name}$|benchmarks\.collect runs/{name}$", line)]
    templates = {f"says_{path.stem}" for path in (HERE / "sentences").glob("*.md")}
    return [*typed, *({name} & (recipes | suites | set(SCRIPTS) | templates))]


def expanded(path):
    """The files of a path that may have braces, as a shell expands them."""
    before, _, parts, after = re.match(r"([^{]*)(\{(.*)\})?(.*)", path).groups()
    return [HERE.parent / f"{before}{part}{after}" for part in (parts or "").split(",")]


def test_every_block_is_there_once_and_closed():
    assert len(BLOCKS) > 20
    assert len(set(BLOCKS)) == len(BLOCKS)
    assert re.findall(r"^<!-- end of (\w+) -->$", PAGE, re.MULTILINE) == BLOCKS


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_command(name):
    assert writers(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_of_the_suite_has_its_place_below_its_command(name):
    script, *flags = SCRIPTS[name]
    forms = (f"python benchmarks/{script}", f"python -m benchmarks.{Path(script).stem}")
    before = PAGE.partition(f"<!-- {name} -->")[0]
    assert any(f"    {' '.join([form, *flags])}\n" in before for form in forms)


def test_commands_of_the_suite_can_be_typed(monkeypatch):
    """Modules are there, and so are their flags, in the usage that argparse prints, or in their text."""
    typed = [shlex.split(line) for line in INDENTED if line.startswith("python ")]
    assert len(typed) > 25
    for words in typed:
        if words[1] == "-m" and words[2] == "benchmarks":
            asked = _flags().parse_args(words[3:])
            choose("suite", asked.suite, [*SUITES, "speed"])
            choose("scale", asked.scale, list(SCALES))
            continue
        path = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
        text = (HERE.parent / path).read_text()
        assert all(f'"{flag}"' in text for flag in words if flag.startswith("--")), words
        assert all(path.exists() for one in words if one.startswith("benchmarks/") for path in expanded(one))


def test_tables_of_many_columns_stand_between_markers_or_are_published_ones():
    """Tables outside are short ones of published figures, of words, or of this page; removed scripts leave theirs."""
    outside = re.sub(r"<!-- ((?:removed: )?\w+) -->\n.*?<!-- end of \1 -->", "", PAGE, flags=re.DOTALL)
    heads = re.findall(r"^(\|.*)\n\|[-:| ]+\|$", outside, re.MULTILINE)
    assert heads
    measured = [head for head in heads if re.search("± | seed |ms |speed x|scorings", head)]
    stopping = "| rule | seeds | scorings | stopped |"  # of a feature that is gone, and its script with it
    assert [head for head in measured if not head.startswith(stopping)] == []


def test_figures_that_are_shown_are_there_and_no_others():
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", PAGE))
    there = {path.name for path in (HERE / "figures").iterdir()}
    assert shown == there


def test_rows_behind_tables_are_there():
    named = re.findall(r"`results/(\w+)\.csv`", PAGE)
    assert named
    assert all((HERE / "results" / f"{name}.csv").exists() for name in named)


@pytest.mark.parametrize("name", SUITES)
def test_a_suites_tables_are_those_of_the_committed_rows(name):
    sweeps = SUITES[name].sweeps("cpu")
    paths = [path for sweep in sweeps if (path := HERE / "results" / f"{sweep.name}.csv").exists()]
    if SUITES[name].published or not paths:
        return
    text = suite_text(SUITES[name], {path.stem: read_rows([path]) for path in paths}, sum(len(s.cells) for s in sweeps))
    assert text in PAGE.partition(f"<!-- suite_{name}_cpu -->")[2].partition("<!-- end of")[0]


@pytest.mark.parametrize("line", [line for line in INDENTED if "benchmarks.goals" in line and "--write" in line])
def test_the_verdicts_are_those_of_the_committed_rows(line, capsys):
    rows = re.search(r"^rows=\$\(echo (.*)\)$", "\n".join(INDENTED), re.MULTILINE)[1]
    words = shlex.split(line.replace("$rows", rows).partition("benchmarks.goals ")[2])
    place, flags = words.index("--write"), words.index("--method")
    files = [str(path) for word in words[:flags] for path in expanded(word)]
    goals.main([*files, *words[flags:place]])
    block = PAGE.partition(f"<!-- {words[place + 1]} -->")[2].partition("<!-- end of")[0]
    assert capsys.readouterr().out.strip() == block.strip()


def test_tables_of_removed_scripts_are_closed_and_the_scripts_are_gone():
    removed = re.findall(r"^<!-- removed: (\w+) -->$", PAGE, re.MULTILINE)
    assert "annealing_subsets" in removed
    assert re.findall(r"^<!-- end of removed: (\w+) -->$", PAGE, re.MULTILINE) == removed
    assert not {*removed} & {*SCRIPTS, *BLOCKS}
