"""The suite of measurements that are scripts of their own: what they print goes to their places on the page."""

import subprocess
import sys
from pathlib import Path

from benchmarks.collect import HERE, replace_block
from masksearch.errors import InputError

__all__ = ["commands", "run_scripts"]

_NETWORKS = (
    *("resnet20", "resnetb20", "basic_cnn", "torchvision:resnet18", "torchvision:mobilenet_v3_small"),
    *("torchvision:densenet121", "torchvision:shufflenet_v2_x1_0", "torchvision:convnext_tiny", "torchvision:swin_t"),
)


def commands(scale: str, root: str) -> dict[str, list[str]]:
    """Script and flags of every measurement, by its place on the page; ``root`` is the folder of the data sets."""
    if scale == "smoke":
        return {"sparse": ["sparse.py", "--sizes", "64", "--rows", "1", "--sparsities", "0.5", "--seconds", "0.01"]}
    spaces = ["--size", "64" if scale == "cpu" else "224", "--only", *_NETWORKS]
    return {
        "speed": ["speed.py", root, "--seconds", "3"],
        "sparse": ["sparse.py", "--threads", "1", "--seconds", "0.4"],
        "filter_spaces": ["filter_spaces.py", *spaces],
    }


def run_scripts(scale: str, root: str, home: Path) -> None:
    """Run them one after the other, so that none disturbs another; print what they print, and keep it on the page.

    Raises
    ------
    InputError
        If one of them fails.
    """
    for name, (script, *flags) in commands(scale, root).items():
        lines = []
        with subprocess.Popen([sys.executable, str(HERE / script), *flags], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if child.returncode:
            raise InputError(f"{script} {' '.join(flags)}: ended with exit code {child.returncode}")
        if scale != "smoke":
            page = home / "README.md"
            page.write_text(replace_block(page.read_text(), name, "".join(lines)))
