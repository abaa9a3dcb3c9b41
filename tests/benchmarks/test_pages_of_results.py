"""The pages of results: each table between markers has a command; all figures and rows are committed."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import (
    allocators,
    channel_bench,
    encoder,
    filter_spaces,
    goals,
    language_models,
    many_scorers,
    means,
    permutations,
    repair_ranking,
)
from benchmarks.__main__ import _flags
from benchmarks.page import HERE, RESULTS
from benchmarks.rows import read_csv, read_rows
from benchmarks.scripts import commands
from benchmarks.suites import SUITES
from benchmarks.tables import suite_text
from masksearch.experiment import SCALES
from masksearch.utils.registry import choose

PAGES = {path.stem: path.read_text() for path in sorted(RESULTS.glob("*.md"))}
ALL = "\n".join(PAGES.values())
SCRIPTS = commands("cpu", "$MASKSEARCH_DATA", "runs")
BLOCKS = [(page, name) for page, text in PAGES.items() for name in re.findall(r"^<!-- (\w+) -->$", text, re.MULTILINE)]
SHELL = {
    page: "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    for page, text in PAGES.items()
}
COMMANDS = [line for lines in SHELL.values() for line in lines]


def writers(page, name):
    """What writes a block: a suite, a recipe's sweep, a script, or a command on the page."""
    recipes = {sweep.name for sweep in SUITES["published"].sweeps("cpu")}
    suites = {f"suite_{suite}_cpu" for suite in SUITES}
    typed = [line for line in SHELL[page] if re.search(rf"--write {name}$|benchmarks\.collect runs/{name}$", line)]
    return [*typed, *({name} & (recipes | suites | set(SCRIPTS)))]


def block(name):
    """The text of a block."""
    (found,) = re.findall(rf"^<!-- {name} -->\n(.*?)^<!-- end of {name} -->$", ALL, re.DOTALL | re.MULTILINE)
    return found


def expanded(path):
    """The files of a path that may have braces, as a shell expands them."""
    before, _, parts, after = re.match(r"([^{]*)(\{(.*)\})?(.*)", path).groups()
    return [HERE.parent / f"{before}{part}{after}" for part in (parts or "").split(",")]


def test_every_table_block_is_present_once_and_closed():
    names = [name for _, name in BLOCKS]
    assert len(set(names)) == len(names) > 20
    assert re.findall(r"^<!-- end of (\w+) -->$", ALL, re.MULTILINE) == names


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_every_table_block_has_a_command(page, name):
    assert writers(page, name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_of_the_suite_has_a_block_on_the_page_of_its_command(name):
    script, *flags = SCRIPTS[name]
    forms = (f"python benchmarks/{script}", f"python -m benchmarks.{Path(script).stem}")
    (page,) = [page for page, other in BLOCKS if other == name]
    assert any(" ".join([form, *flags]) in SHELL[page] for form in forms)


def test_commands_on_pages_have_existing_modules_flags_and_files(monkeypatch):
    """Modules exist, and their flags are in the usage of argparse or in their text."""
    typed = [shlex.split(line) for line in COMMANDS if line.startswith("python ")]
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


def test_tables_of_measurements_are_within_markers():
    outside = re.sub(r"<!-- ((?:\w+: )?\w+) -->\n.*?<!-- end of \1 -->", "", ALL, flags=re.DOTALL)
    heads = re.findall(r"^(\|.*)\n\|[-:| ]+\|$", outside, re.MULTILINE)
    assert heads
    assert [head for head in heads if re.search("± | seed |ms |speed x|scorings", head)] == []


def test_shown_figures_are_exactly_the_files_in_the_figures_folder():
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", ALL))
    assert shown == {path.name for path in (RESULTS / "figures").iterdir()}


def test_rows_behind_tables_are_committed():
    named = re.findall(r"`results/(\w+)\.csv`", ALL)
    assert named
    assert all((HERE / "results" / f"{name}.csv").exists() for name in named)


@pytest.mark.parametrize("name", SUITES)
def test_suite_tables_match_the_committed_rows(name):
    sweeps = SUITES[name].sweeps("cpu")
    paths = [path for sweep in sweeps if (path := HERE / "results" / f"{sweep.name}.csv").exists()]
    if SUITES[name].published or not paths:
        return
    text = suite_text(SUITES[name], {path.stem: read_rows([path]) for path in paths}, sum(len(s.cells) for s in sweeps))
    assert text in block(f"suite_{name}_cpu")


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--write" in line])
def test_tables_match_the_committed_rows(line, capsys):
    (rows,) = re.findall(r"^rows=\$\(echo (.*)\)$", "\n".join(COMMANDS), re.MULTILINE)
    _, _, module, *words = shlex.split(line.replace("$rows", rows))
    place = words.index("--write")
    flags = next(at for at, word in enumerate(words) if word.startswith("--"))
    files = [str(path) for word in words[:flags] for path in expanded(word)]
    name = words[place + 1]
    if module == "benchmarks.channel_bench":
        print("\n".join(channel_bench.table(*channel_bench.TABLES[name])))
    elif module in ("benchmarks.allocators", "benchmarks.repair_ranking"):
        print("\n".join({"allocators": allocators, "repair_ranking": repair_ranking}[name].table()))
    elif module == "benchmarks.many_scorers":
        print("\n".join(many_scorers.table()))
    elif module == "benchmarks.encoder":
        print(encoder.table(read_csv(HERE / "results" / "encoder_cpu.csv")))
    elif module == "benchmarks.language_models":
        print(language_models.table(read_csv(HERE / "results" / "language_models_cpu.csv")))
    elif module == "benchmarks.permutations":
        print(permutations.table(read_csv(permutations.ROWS)))
    else:
        {"benchmarks.goals": goals, "benchmarks.means": means}[module].main([*files, *words[flags:place]])
    assert capsys.readouterr().out.strip() == block(name).strip()


def test_table_of_filter_spaces_matches_the_committed_rows():
    assert filter_spaces.table(read_csv(filter_spaces.ROWS)) in block("filter_spaces")


def test_copied_tables_are_closed_and_have_no_command():
    copied = re.findall(r"^<!-- copied: (\w+) -->$", ALL, re.MULTILINE)
    assert "energy_moves" in copied
    assert re.findall(r"^<!-- end of copied: (\w+) -->$", ALL, re.MULTILINE) == copied
    assert not {*copied} & {*SCRIPTS, *(name for _, name in BLOCKS)}


def test_tables_of_removed_scripts_are_closed_and_have_no_command():
    removed = re.findall(r"^<!-- removed: (\w+) -->$", ALL, re.MULTILINE)
    assert {"annealing_subsets", "stopping_steps"} <= {*removed}
    assert re.findall(r"^<!-- end of removed: (\w+) -->$", ALL, re.MULTILINE) == removed
    assert not {*removed} & {*SCRIPTS, *(name for _, name in BLOCKS)}
