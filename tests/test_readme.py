"""The README keeps its word: its Python runs, its commands can be typed."""

import contextlib
import io
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import torch
from rich.console import Console

from masksearch import cli, plugin, reading
from masksearch.criteria import CRITERIA
from masksearch.errors import InputError
from masksearch.experiment import Settings, costs
from masksearch.flags import parse
from masksearch.schedules import SCHEDULES
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.testing import check_criterion, check_searcher

ROOT = Path(__file__).parents[1]
BIB = ROOT / "docs" / "references.bib"
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md"]


def blocks(page, language):
    """Code blocks of a page: (their heading, their text)."""
    found, heading = [], ""
    for part in re.finditer(r"^(#+ [^\n]*)$|^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if part[1]:
            heading = part[1].lstrip("# ")
        elif part[2] == language:
            found.append((heading, part[3]))
    return found


PYTHON = blocks(PAGES[0], "python")
_INDENTED = re.findall(r"^    (\w.*\n)", PAGES[1].read_text(), re.MULTILINE)
SHELL = [
    (page.parent.name, line)
    for page, texts in ((PAGES[0], [block for _, block in blocks(PAGES[0], "sh")]), (PAGES[1], _INDENTED))
    for text in texts
    for line in text.replace("\\\n", " ").splitlines()
]
COMMANDS = [
    (page, line)
    for page, line in SHELL
    if re.search(r"\bmasksearch (run|show|compare|analyse|--list)( |$)|run_search\.py", line)
]
TOOLS = r"python3 -m venv |\.venv/bin/(pip install|ruff|mypy|lint-imports|python -m pytest)\b|tensorboard --logdir "
BENCHMARKS = r"(for part in .*; do |MASKSEARCH_TEST_DEVICE=cuda )?python (-m benchmarks|benchmarks/|-m pytest)|rows="


PLUGIN = next(code for heading, code in PYTHON if heading == "Add one of your own")


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """Own working directory with the README's plugin in it, tables that forget its rows, random state and threads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.setattr(plugin, "_loaded", set())
    for kind in plugin._KINDS.values():
        for name in ("_rows", "_added"):
            monkeypatch.setattr(kind.table, name, dict(getattr(kind.table, name)))
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[heading for heading, _ in PYTHON])
def test_python_runs_as_it_stands(code, in_a_folder):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    if "print" in code:
        assert out.getvalue().strip()
        assert "nan" not in out.getvalue()


def test_the_blocks_that_were_promised_are_there():
    headings = {heading for heading, _ in PYTHON}
    assert {"Ask, score, tell", "Your own network, your own task", "Prune your own network", "Schedules"} <= headings
    for promised in ("Prune your own network", "Ask, score, tell"):  # in ten lines
        code = next(code for heading, code in PYTHON if heading == promised)
        assert len([line for line in code.splitlines() if line.strip() and "import" not in line]) <= 10


@pytest.mark.parametrize("line", [line for _, line in COMMANDS], ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_commands_have_flags_and_values_that_are(line, in_a_folder):
    words = shlex.split(line, comments=True)
    at = next(i for i, word in enumerate(words) if word.endswith(("masksearch", "run_search.py")))
    args = words[at + 1 :] if words[at].endswith("masksearch") else ["run", *words[at + 1 :]]
    for stop in ("|", "&&", ";", ">"):
        args = args[: args.index(stop)] if stop in args else args
    if args[0] == "show":
        assert len(args) == 2
    elif args[0] in ("compare", "analyse"):
        with pytest.raises(InputError, match="holds no sweep"):  # all else is fine
            getattr(reading, args[0])(args[1:], Console())
    elif args[0] == "--list":
        assert cli.main(args) == 0
    elif "--help" not in args:
        settings = parse(args[1:], "masksearch run")
        assert settings == "list" if "--list" in args else all(isinstance(part, Settings) for part in settings)


def test_the_plugin_of_the_readme_keeps_the_contracts_and_runs(in_a_folder, monkeypatch):
    monkeypatch.setattr(costs, "_LATENCY_SECONDS", 0.002)
    plugin.load_plugins(["mine.py"])
    check_criterion(plugin.CRITERIA["relative"])
    check_searcher(plugin.SEARCHERS["greedy"], in_a_folder)
    small = "--model lenet_300_100:0.05 --sparsity 0.5 --seeds 1 --budget 5 --epochs 1 --threads 1 --device cpu"
    assert cli.main(["run", "--plugin", "mine.py", "--methods", "relative", "greedy", *small.split()]) == 0


def test_every_source_of_a_row_can_be_cited():
    entries = dict(re.findall(r"^@\w+\{(\w+), author = \{([^}]*)\}", BIB.read_text(), re.MULTILINE))
    rows = [row.source for row in (*CRITERIA.values(), *SUPERMASKS.values())]
    rows += [row.about for row in SCHEDULES.values()]
    rows += [(make.__doc__ or "").partition("\n")[0] for make in SEARCHERS.values()]
    text = f"{' '.join(rows)} {PAGES[0].read_text().partition('## Sources')[2]}"
    cited = re.findall(r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+| & [A-Z]\w+) (\d{4})", text)
    assert len(set(cited)) >= 18
    for author, year in cited:
        key = unicodedata.normalize("NFKD", author).encode("ascii", "ignore").decode().lower() + year
        assert key in entries, (author, year)
        assert entries[key].startswith(author)


def test_the_analyses_of_the_readme_are_those_there_are():
    table = PAGES[0].read_text().partition("| `--what` |")[2].partition("\n\n")[0]
    named = [name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall("`(.*?)`", cell)]
    assert sorted(named) == sorted(reading.ANALYSES)


def test_no_code_of_the_readme_goes_unchecked():
    text = PAGES[0].read_text()
    assert set(re.findall(r"^```(\w*)\n.*?^```$", text, re.MULTILINE | re.DOTALL)) == {"python", "sh", "mermaid"}
    assert len(PYTHON) == text.count("\n```python\n")
    for page, line in SHELL:
        if (page, line) not in COMMANDS:  # what others make, and the suite's own, which its tests check
            assert re.match(TOOLS if page == PAGES[0].parent.name else BENCHMARKS, line), line


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 4
    assert (ROOT / "run_search.py").exists()


def test_flags_that_the_text_names_exist(capsys):
    for command in ("run", "compare", "analyse"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
    known = set(re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out))
    named = set(re.findall(r"`(--[a-z][a-z0-9.-]*)", PAGES[0].read_text())) - {"--help"}
    assert len(named) > 5
    assert named <= known


def test_links_within_the_repository_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page}: {target}"
