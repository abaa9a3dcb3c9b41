"""The texts of ``masksearch --help`` and ``masksearch run --help``, made without importing PyTorch."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, UseAppendAction

from masksearch.cli.tyro_arguments import Texts, metavar, takes
from masksearch.utils.field_docstrings import field_texts

COMMANDS = """\
usage: masksearch COMMAND ...

Find pruning masks of neural networks by search and by criteria, retrain each masked network, and
compare all of them on the same splits, seeds and training budget.

Start here:
  masksearch run                        six methods on scikit-learn's digits, about a minute
  masksearch run --granularity filter   the same for filters, which are removed from the network
  masksearch show runs/sweep            the results again; runs/sweep/report.html is the full report
  masksearch run --help                 the main flags, with more examples

commands:
  run                 search, prune and retrain; the same command continues an interrupted run
  show FOLDER         print the results of a finished or running sweep, and what its folder contains
  compare RUN RUN ... print how sweeps differ: their settings, and their results paired by cell
  analyse RUN ...     print and draw properties of masks: similarity, densities, MACs, controls

flags:
  --list              print every method, schedule, objective, network, data set and recipe
  --version           print the version
  -h, --help          print this text; masksearch COMMAND --help lists the flags of a command
"""

_RUN = """\
Train a dense network, find masks with every method at every sparsity, retrain each masked network,
and write runs/NAME/report.html. The same command continues an interrupted run.

examples:
  masksearch run --methods annealing magnitude random --sparsity 0.9 --seeds 1 --name first
  masksearch run --dataset mnist --download --methods annealing snip magnitude --name mnist
  masksearch run --granularity filter --model resnet20 --sparsity 0.5 --name filters"""

_MAIN = {
    "data": ("dataset", "download"),
    "network": ("model", "granularity"),
    "search": ("methods", "sparsity", "budget", "objective"),
    "training": ("epochs", "optimizer", "lr"),
    "output": ("seeds", "name", "device"),
}
"""Topic -> names of the settings whose flags ``masksearch run --help`` prints."""

OTHERS = "recipes and other settings"
"""Topic of the flags that do not belong to a setting."""


@dataclass(frozen=True)
class OtherFlags:
    """Flags of ``masksearch run`` that do not belong to a setting: ``--recipe``, ``--set``, ``--list`` and others."""

    recipe: Annotated[Texts, takes("NAME")] = ()
    """Experiment that replaces all defaults: a name in --list, or a TOML file."""
    scale: Annotated[Texts, takes("smoke|cpu|paper")] = ()
    """How long the recipe takes: smoke (seconds), cpu (minutes to hours on two cores), or paper (as published).
    Some recipes have further scales. (default: cpu)"""
    parts: Annotated[Texts, takes("NAME ...")] = ()
    """Names of the recipe's parts to run; if not given, all parts.
    A part is one set of settings in a recipe; --list shows the names."""
    set: Annotated[tuple[Texts, ...], UseAppendAction, takes("KEY=VALUE ...")] = ()
    """Any other setting, such as --set train.momentum=0.8 annealing.chains=4.
    Commas separate several values; "none" unsets a value."""
    help: Annotated[bool, FlagCreatePairsOff] = False
    """Print the main flags."""
    help_all: Annotated[bool, FlagCreatePairsOff] = False
    """Print all flags, and all settings that --set takes."""
    list: Annotated[bool, FlagCreatePairsOff] = False
    """Print every method, schedule, objective, network, data set and recipe."""


def short_help() -> str:
    """Return the text of ``masksearch run --help``, made from the docstrings of the main settings."""
    package = Path(__file__).parents[1]
    files = [*(package / "experiment" / "settings").glob("*.py"), package / "training" / "train_settings.py"]
    known = {name: (default, text) for file in files for name, default, text in field_texts(file.read_text("utf-8"))}
    topics: dict[str, list[tuple[str, str]]] = {}
    for topic, names in _MAIN.items():
        entries = topics.setdefault(topic, [])
        for name in names:
            value, text = _literal(known[name][0]), known[name][1].partition("\n")[0]
            flag = f"--{name.replace('_', '-')}"
            if value is False:
                entries.append((flag, text))
                continue
            default = f": {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            if name == "methods":
                kinds = _literal(known["METHODS"][0])
                shown = {kind: kinds[kind] for kind in ("weight", "filter")}  # the screen is short
                default = "; ".join(f" for {kind}s: {' '.join(usual)}" for kind, usual in shown.items())
            entries.append((f"{flag} {_metavar(value)}", f"{text} (default{default})"))
    others = [(flag, text.partition("\n")[0]) for flag, text in other_entries("recipe", "set", "help_all", "list")]
    return f"usage: masksearch run [flags]\n\n{_RUN}\n" + help_text({**topics, OTHERS: others}, indent=23)


def help_text(topics: Mapping[str, Sequence[tuple[str, str]]], indent: int) -> str:
    """Return the help on flags, grouped by topic, as text 100 columns wide; explanations begin at column ``indent``."""
    lines = []
    for topic, entries in topics.items():
        lines += ["", f"{topic}:"]
        for head, text in entries:
            body = fill(" ".join(text.split()), 100, initial_indent=" " * indent, subsequent_indent=" " * indent)
            fits = len(head) <= indent - 4
            lines += [f"  {head:<{indent - 2}}{body.lstrip()}"] if fits else [f"  {head}", body]
    return "\n".join(lines) + "\n"


def other_entries(*names: str) -> list[tuple[str, str]]:
    """Return (flag and the name of its value, explanation) pairs for flags that do not belong to a setting."""
    texts = {name: text for name, _, text in field_texts(inspect.getsource(OtherFlags))}
    return [(f"--{name.replace('_', '-')} {metavar(OtherFlags, name)}".strip(), texts[name]) for name in names or texts]


def _literal(value: ast.expr | None) -> Any:
    assert value is not None
    return ast.literal_eval(value)


def _metavar(value: Any) -> str:
    """The word for a setting's value in the help, by the type of its default."""
    if isinstance(value, tuple):
        return f"{_metavar(value[0]) if value else 'NAME'} ..."
    return {int: "N", float: "X"}.get(type(value), "NAME")
