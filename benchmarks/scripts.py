"""The suite ``speed``: scripts whose output goes to pages in docs/results."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.page import HERE, write_block
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["commands", "run_scripts"]

_ANNEALING = "--searchers annealing annealing:within=0.5 annealing:chains=4"
_PLANTED = {
    "annealing": f"--problems equal weighted --units 300 --seeds 5 --budget 20000 {_ANNEALING}",
    "annealing_traps": f"--problems coupled deceptive --units 200 --density 0.5 --seeds 5 --budget 10000 {_ANNEALING}",
    "equal": "--problems equal --searchers annealing eda evolution --figure problems_equal",
    "equal_annealing": "--problems equal --budget 200000 --searchers annealing",
    "layered": "--problems layered --budget 300 --searchers annealing annealing:densities=True "
    "optuna_tpe:saliency=hint evolution eda:saliency=hint",
    "small": "--problems coupled deceptive --units 200 --density 0.5 --budget 10000 --figure problems_small",
    "large": "--problems equal --units 1000000 --seeds 1 --budget 300 --searchers annealing annealing:within=0.5 "
    "annealing:densities=True annealing:chains=4 eda evolution",
}
_ON_GPU = {
    "gpu_widths": ("new_widths.py", ""),
    "gpu_side_by_side": ("side_by_side.py", "--turns 3 --threads 4 --device cuda"),
    "gpu_speed": ("speed.py", "{root} --device cuda --only large chain filters --seconds 1.5"),
}


def commands(scale: str, root: str, runs: str) -> dict[str, list[str]]:
    """Return {name of the block: script and flags}.

    Parameters
    ----------
    root : str
        Folder of the data sets.
    runs : str
        Folder of the runs, for a script that reads some.
    """
    if scale == "smoke":
        return {"sparse": ["sparse.py", "--sizes", "64", "--rows", "1", "--sparsities", "0.5", "--seconds", "0.01"]}
    own = {
        "speed": ["speed.py", root, "--seconds", "3"],
        "training_speed": ["training_speed.py", root, "--turns", "7"],
        "side_by_side": ["side_by_side.py", "--threads", "1"],
        "sampler_costs": ["sampler_costs.py"],
        "repair_speed": ["repair_speed.py"],
        "sparse": ["sparse.py", "--threads", "1", "--seconds", "0.4"],
        "filter_spaces": ["filter_spaces.py"],
        "gpt2_size": ["gpt2_size.py"],
        "gpt2_one_shot": ["gpt2_one_shot.py"],
        "transformer_latencies": ["transformer_latencies.py"],
        "orthogonality": ["orthogonality.py", root],
        "moments": ["moments.py"],
        "grasp_logits": ["grasp_logits.py", root],
        "filter_profiles": ["filter_profiles.py", root],
        "width_profiles": ["width_profiles.py", root],
        **{
            f"annealing_{what}": ["annealing_defaults.py", root, what]
            for what in ("schedules", "additions", "densities")
        },
    }
    on_gpu = {
        name: [script, *(flag.format(root=root) for flag in flags.split())] for name, (script, flags) in _ON_GPU.items()
    }
    planted = {f"problems_{name}": ["problems.py", *flags.split()] for name, flags in _PLANTED.items()}
    of_runs: dict[str, list[str]] = {}
    parts = ("search", "global", "layerwise")
    resnet20 = [f"{runs}/resnet20_{part}{held}" for held in ("", "_macs") for part in parts]
    of_runs["early_losses"] = ["early_losses.py", *resnet20]
    basic_cnn = [f"{runs}/search_filters_cpu_{part}" for part in parts] + [f"{runs}/held_{part}_macs" for part in parts]
    of_runs["early_losses_basic_cnn"] = ["early_losses.py", *basic_cnn]
    of_runs["short_training"] = ["short_training.py", root, f"{runs}/pilot_erk", f"{runs}/pilot_global"]
    return own | on_gpu | planted | of_runs


def run_scripts(scale: str, root: str, runs: str, home: Path, only: Sequence[str] = ()) -> None:
    """Run scripts one after the other, print their output, and write it to the pages.

    Parameters
    ----------
    only : sequence of str
        Their places on the page; all if there are none, without a GPU all but those that need one.

    Raises
    ------
    InputError
        For a place that there is not, runs that a script reads and that are not there, or if a script fails.
    """
    known = commands(scale, root, runs)
    for name in only:
        choose("script", name, list(known))
    chosen = list(only or [name for name in known if torch.cuda.is_available() or name not in _ON_GPU])
    for name in chosen:
        if missing := [flag for flag in known[name] if _is_missing_run(flag, runs)]:
            raise InputError(
                f"{name}: no sweep in {', '.join(missing)}; the commands that make them stand above its table in "
                "docs/results, and --only chooses other scripts"
            )
    there = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))}
    for name in chosen:
        script, *flags = known[name]
        lines = []
        command = [sys.executable, "-m", f"benchmarks.{Path(script).stem}", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=there) as child:
            assert child.stdout is not None
            for line in child.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if child.returncode:
            raise InputError(f"{script} {' '.join(flags)}: ended with exit code {child.returncode}")
        if scale != "smoke":
            write_block(name, "".join(lines), home)


def _is_missing_run(flag: str, runs: str) -> bool:
    return flag.startswith(f"{runs}/") and not (Path(flag) / "sweep.json").exists()
