"""The texts of ``masksearch --help`` and ``masksearch run --help``, made without importing PyTorch."""

import ast
from pathlib import Path
from typing import Any

from masksearch.cli.arguments import Parser
from masksearch.utils.field_texts import field_texts

__all__ = ["COMMANDS", "add_other_flags", "short_help"]

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
  analyse RUN ...     print and draw what the masks of sweeps have in common, cost and are worth

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


def short_help() -> str:
    """Return the text of ``masksearch run --help``: the first line of the docstring of each main setting."""
    package = Path(__file__).parents[1]
    files = [*(package / "experiment" / "settings").glob("*.py"), package / "training" / "train_settings.py"]
    known = {name: (default, text) for file in files for name, default, text in field_texts(file.read_text("utf-8"))}
    parser = Parser("masksearch run", indent=23, usage="masksearch run [flags]", description=_RUN, add_help=False)
    for topic, names in _MAIN.items():
        group = parser.add_argument_group(topic)
        for name in names:
            value, text = _literal(known[name][0]), known[name][1].partition("\n")[0].replace("%", "%%")
            flag = f"--{name.replace('_', '-')}"
            if value is False:
                group.add_argument(flag, action="store_true", help=text)
                continue
            default = f": {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            if name == "methods":
                kinds = _literal(known["METHODS"][0])
                default = "; ".join(f" for {kind}s: {' '.join(usual)}" for kind, usual in kinds.items())
            group.add_argument(flag, metavar=_metavar(value), help=f"{text} (default{default})")
    add_other_flags(parser, only_main=True)
    return parser.format_help()


def add_other_flags(parser: Parser, *, only_main: bool = False) -> None:
    """Add the flags of ``masksearch run`` that are no settings; ``only_main``: the main ones, with a short help."""
    group = parser.add_argument_group("recipes and other settings")
    recipe = "Published experiment whose settings replace all defaults: a row of --list."
    group.add_argument("--recipe", metavar="NAME", help=recipe)
    others = "Any other setting, as --set train.momentum=0.8 annealing.chains=4."
    if only_main:
        group.add_argument("--set", metavar="KEY=VALUE ...", help=others)
    else:
        scale = "Size of the recipe: smoke (seconds), cpu (minutes to hours on two cores), or paper (as published)."
        group.add_argument("--scale", metavar="smoke|cpu|paper", default="cpu", help=scale)
        parts = "Parts of the recipe to run; all if not given."
        group.add_argument("--parts", metavar="NAME", nargs="+", default=[], help=parts)
        several = f"{others} Commas separate several values; none unsets a value."
        group.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help=several)
        group.add_argument("--help", action="store_true", help="Print the main flags.")
    group.add_argument("--help-all", action="store_true", help="Print all flags, and all settings that --set takes.")
    rows = "Print every method, schedule, objective, network, data set and recipe."
    group.add_argument("--list", action="store_true", help=rows)


def _literal(value: ast.expr | None) -> Any:
    assert value is not None
    return ast.literal_eval(value)


def _metavar(value: Any) -> str:
    """The word for a setting's value in the help, by the type of its default."""
    if isinstance(value, tuple):
        return f"{_metavar(value[0]) if value else 'NAME'} ..."
    return {int: "N", float: "X"}.get(type(value), "NAME")
