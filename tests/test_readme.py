"""The README keeps its word: its Python runs, its commands can be typed."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

from masksearch import cli
from masksearch.experiment import Settings
from masksearch.flags import parse

ROOT = Path(__file__).parents[1]
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
COMMANDS = [
    (page.parent.name, line)
    for page in PAGES
    for _, block in blocks(page, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"\bmasksearch (run|show)\b|run_search\.py", line)
]


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """Own working directory, random state and threads."""
    monkeypatch.chdir(tmp_path)
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
    pruning = next(code for heading, code in PYTHON if heading == "Prune your own network")
    assert len([line for line in pruning.splitlines() if line.strip() and "import" not in line]) <= 10


@pytest.mark.parametrize("line", [line for _, line in COMMANDS], ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_commands_have_flags_and_values_that_are(line):
    words = shlex.split(line, comments=True)
    at = next(i for i, word in enumerate(words) if word.endswith(("masksearch", "run_search.py")))
    args = words[at + 1 :] if words[at].endswith("masksearch") else ["run", *words[at + 1 :]]
    for stop in ("|", "&&", ";", ">"):
        args = args[: args.index(stop)] if stop in args else args
    if args[0] == "show":
        assert len(args) == 2
    elif "--help" not in args:
        settings = parse(args[1:], "masksearch run")
        assert settings == "list" if "--list" in args else all(isinstance(part, Settings) for part in settings)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 4
    assert (ROOT / "run_search.py").exists()


def test_flags_that_the_text_names_exist(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    known = set(re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out))
    named = set(re.findall(r"`(--[a-z][a-z0-9.-]*)", PAGES[0].read_text())) - {"--help"}
    assert len(named) > 5
    assert named <= known


def test_links_within_the_repository_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page}: {target}"
