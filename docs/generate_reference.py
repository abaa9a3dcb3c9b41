"""Write the reference pages that come from the code: ``docs/reference/{command_line,settings,names}.md``.

python docs/generate_reference.py
"""

import contextlib
import io
import os
import re
from pathlib import Path

from masksearch.cli.help import COMMANDS
from masksearch.cli.run_arguments import full_help
from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key
from masksearch.experiment.settings.text_values import value_text

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- Written by docs/generate_reference.py: change the code, not this page. -->"


def pages() -> dict[str, str]:
    """Return {name of a page: its text}."""
    return {"command_line": command_line(), "settings": settings(), "names": names()}


def command_line() -> str:
    """Return the page of the commands and the flags of ``masksearch run``."""
    parts = ["# Command line", MADE, f"```text\n{COMMANDS}```", "## masksearch run"]
    parts.append(
        "Every flag of `masksearch run`, by topic. [Settings](settings.md) lists what `--set` takes beside the flags, "
        "[Names](names.md) the methods, networks and data sets."
    )
    for topic, entries in _topics(full_help([], "masksearch run").partition("\nsettings that are no flags")[0]):
        parts += [f"### {topic[0].upper()}{topic[1:]}", _table(["flag", "meaning"], entries)]
    for command in ("show", "compare", "analyse"):
        parts += [f"## masksearch {command}", f"```text\n{_output(command, '--help')}```"]
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """Return the page of all settings by group."""
    parts = ["# Settings", MADE]
    parts.append(
        "This page lists all settings by their key, with defaults. Settings with a flag can be set by the flag; "
        "all can be set by `--set KEY=VALUE`, in recipes, and in Python by `Settings` of `masksearch.experiment`. "
        "Commas separate several values; `none` unsets a value."
    )
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for key, setting in settings_by_key().items():
        flag = f" `{setting.flag}`" if key in flag_keys() else ""
        default = value_text(setting.default) or "none"
        groups.setdefault(setting.group, []).append((f"`{key}`{flag}", f"`{default}`", _prose(setting.text)))
    for group, rows in groups.items():
        parts += [f"## {group}", _table(["setting", "default", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def names() -> str:
    """Return the page of all rows of ``masksearch --list``."""
    parts = [
        "# Names",
        MADE,
        "This page lists what `masksearch --list` prints: the names that flags take, with their sources.",
    ]
    for topic, entries in _topics(_output("--list")):
        title, _, flags = topic.partition(" (")
        used = f"For {', '.join(f'`{flag}`' for flag in re.findall('--[a-z-]+', flags))}." if flags else ""
        parts += [f"## {title[0].upper()}{title[1:]}", used, _table(["name", "what it is"], entries)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _topics(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (topic, [(name, text)]) of an indented list; a text may go on in lines that are indented further."""
    topics: list[tuple[str, list[tuple[str, str]]]] = []
    for line in text.splitlines():
        if re.match(r"\S", line):
            topics.append((line.rstrip(":"), []))
        elif match := re.match(r"  (\S.*?)(?:\s{2,}(.*))?$", line):
            topics[-1][1].append((match[1], match[2] or ""))
        elif line.strip():
            name, before = topics[-1][1][-1]
            topics[-1][1][-1] = (name, f"{before} {line.strip()}".strip())
    return [(topic, [(f"`{name}`", _prose(words)) for name, words in rows]) for topic, rows in topics if rows]


def _prose(text: str) -> str:
    words = " ".join(text.split()).replace("``", "`").replace("<", "&lt;")
    return re.sub(r"(?<!`)(--[a-z][a-z-]+)(?!`)", r"`\1`", words)


def _table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _output(*args: str) -> str:
    """Return what a command prints on a terminal of 100 columns."""
    from masksearch.cli import main

    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(args)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / f"{name}.md").write_text(text)
