"""Is masked = pruned, and how long does it take to find out? A row per network: the package's and other libraries'.

    python -m benchmarks.filter_spaces [--only resnet18 ...] [--again] [--limit 600]

Adds a row for every network to ``results/filter_spaces.csv``, skips networks that have one, and prints the rows as a
Markdown table. All weights and statistics are randomised. Differences are the largest over random masks at densities
.9, .5 and .2, as a share of the outputs' standard deviation. The network of density .5 takes a training step, is saved,
and is loaded in a new process into a network of other weights; torch.export must take it where it takes the full
network. Seconds of one core: making the space with its proof, and the slowest of the prunings.
"""

import argparse
import json
import multiprocessing
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import masksearch as ms
from benchmarks.networks import NETWORKS, build, examples, missing_library
from benchmarks.rows import read_csv, write_csv
from benchmarks.unit_kinds import unit_kinds
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, describe, map_tensors, output_tensors

ROWS = Path(__file__).parent / "results" / "filter_spaces.csv"
DENSITIES = (0.9, 0.5, 0.2)
WITH_NORMS = (
    *("timm:deit_tiny_patch16_224", "timm:convnext_atto"),
    *("transformers:bert", "transformers:gpt2", "transformers:llama", "transformers:mamba"),
)
"""Networks with a second row, of the space with ``norms=True``."""


def randomise(model: nn.Module) -> None:
    """Draw weights that hide nothing: no zero heads, no tiny layer scales, no fresh BatchNorm statistics.

    Larger weights make deep networks chaotic: there, roundings of float32 alone change outputs by more than 1e-5.
    """
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.data.copy_((torch.randn(tensor.shape, generator=generator) + 0.1) / tensor[0].numel() ** 0.5)
        else:  # scales and biases in +-[0.5, 1], away from 0
            tensor.data.uniform_(-0.5, 0.5, generator=generator)
            tensor.data.add_(tensor.data.sign() / 2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5, generator=generator)


def masks(space: ms.FilterSpace) -> list[ms.Mask]:
    """Return a random mask for every density; each keeps at least one unit of every layer."""
    generator = torch.Generator().manual_seed(1)
    return [space.random(density, "layerwise", generator, on_empty="keep_one") for density in DENSITIES]


def outputs_of(model: nn.Module, inputs: Nested) -> list[Tensor]:
    """Return all floating-point tensors of the outputs, without gradients."""
    with torch.no_grad():
        return [output for output in output_tensors(call_model(model, inputs)) if output.is_floating_point()]


def gap(full: list[Tensor], small: list[Tensor]) -> float:
    """Return the largest difference of outputs over their standard deviation."""
    assert len(full) == len(small)
    return max(
        float((one - other).abs().max() / one.std()) for one, other in zip(full, small, strict=True) if one.numel() > 1
    )


def difference(model: nn.Module, space: ms.FilterSpace, inputs: Nested) -> tuple[float, float]:
    """Return the largest difference of masked and pruned outputs, and the seconds of the slowest pruning."""
    worst, slowest = 0.0, 0.0
    for mask in masks(space):
        start = process_time()
        small = ms.prune(model, space, mask).eval()
        slowest = max(slowest, process_time() - start)
        with space.applied(model, mask):
            masked = outputs_of(model, inputs)
        worst = max(worst, gap(masked, outputs_of(small, inputs)))
    return worst, slowest


def trains(model: nn.Module, inputs: Nested) -> str:
    """Take one SGD step in training mode, in eval mode where batches are too small; return "yes" or the error."""
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    for training in (True, False):
        try:
            outputs = output_tensors(call_model(model.train(training), inputs))
            loss = torch.stack([output.square().mean() for output in outputs if output.is_floating_point()]).sum()
            loss.backward()
            error = ""
            break
        except Exception as exception:
            error = _first_line(exception)
    if error:
        return error
    nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.SGD(parameters, lr=0.1).step()
    changed = sum(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True))
    model.eval()
    return "yes" if changed and all(bool(each.isfinite().all()) for each in parameters) else "no change"


def load(name: str, folder: str) -> None:
    """Load the network of a folder without its original weights, and write whether its outputs are those saved there.

    Runs in a process of its own.
    """
    try:
        small = ms.load_pruned(f"{folder}/small", model=build(name, seed=1))
        found = gap(torch.load(f"{folder}/outputs.pt"), outputs_of(small, examples(name)))
        text = "yes" if found <= 1e-5 else f"outputs differ by {found:.1e}"
    except Exception as error:
        text = _first_line(error)
    Path(folder, "loads.txt").write_text(text)


def exports(model: nn.Module, small: nn.Module, inputs: Nested) -> str:
    """Return "yes" if torch.export takes the pruned network, "dense: no" if it doesn't take the full one."""

    def program_gap(network: nn.Module) -> float:
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        program = torch.export.export(network, args, kwargs, strict=False)
        return gap(outputs_of(network, inputs), outputs_of(program.module(), inputs))

    try:
        return "yes" if (found := program_gap(small)) <= 1e-5 else f"outputs differ by {found:.1e}"
    except Exception as error:
        try:
            program_gap(model)
        except Exception:
            return "dense: no"
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200].replace("|", "/")


def reasons(space: ms.FilterSpace) -> str:
    """Return what is left out and why, in short: reasons without names of layers, with numbers of layers."""
    counts = Counter(short_reason(reason) for _, reason in space.left_out)
    return "; ".join(f"{n} x {reason}" for reason, n in counts.most_common(5))


def short_reason(reason: str) -> str:
    """Return a reason without the names and numbers of one layer."""
    reason = re.sub(r"^\d+ of \d+ channels: ", "", reason)
    reason = re.sub(r"(?<!also) '[^']*'", "", reason)
    reason = re.sub(r"all channels of \S+ depend", "all channels depend", reason)
    return reason[:160]


def row(name: str, folder: str, *, norms: bool = False) -> dict[str, Any]:
    """Return one network's row without ``loads``; save the trained pruned network and its outputs in the folder."""
    model, inputs = build(name), examples(name)
    library = name.partition(":")[0] if ":" in name else "masksearch"
    made: dict[str, Any] = {"network": name + " (norms)" * norms, "library": f"{library} {version(library)}"}
    made["input"] = describe(inputs)
    start = process_time()
    try:
        space = ms.filter_space(model, inputs, norms=norms)
    except InputError as error:
        return made | {"left out because": f"refused: {error}"[:400]}
    made |= {"units": space.n_units, "layers": len(space.layers)} | unit_kinds(model, space)
    made["layers left out"] = len(space.left_out)
    seconds = process_time() - start
    randomise(model)
    single, prune_seconds = difference(model, space, inputs)
    small = ms.prune(model, space, masks(space)[1]).eval()
    made["exports"] = exports(model, small, inputs)
    made["trains"] = trains(small, inputs)
    ms.save_pruned(f"{folder}/small", small, space, masks(space)[1])
    torch.save(outputs_of(small, inputs), f"{folder}/outputs.pt")
    double, _ = difference(model.double(), space, map_tensors(_double, inputs))
    made |= {"float32": f"{single:.1e}", "float64": f"{double:.1e}"}
    made |= {"space seconds": f"{seconds:.1f}", "prune seconds": f"{prune_seconds:.2f}"}
    return made | {"left out because": reasons(space)}


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def write_row(name: str, folder: str) -> None:
    """Write a network's row to the folder, as JSON; errors become the reason of an empty row."""
    warnings.simplefilter("ignore")
    network = name.removesuffix(" (norms)")
    try:
        made = row(network, folder, norms=name != network)
    except Exception as error:
        made = {"network": name, "left out because": f"error: {_first_line(error)}"}
    Path(folder, "row.json").write_text(json.dumps(made))


def add_row(name: str, limit: float) -> None:
    """Measure a network in two new processes, at most ``limit`` seconds each, and add its row to the file."""
    with TemporaryDirectory() as folder:
        _in_new_process(write_row, name, folder, limit=limit)
        if Path(folder, "outputs.pt").exists():
            _in_new_process(load, name.removesuffix(" (norms)"), folder, limit=limit)
        made: dict[str, Any] = {"network": name, "left out because": f"stopped after {limit:g} seconds"}
        if (written := Path(folder, "row.json")).exists():
            made = json.loads(written.read_text())
        if (said := Path(folder, "loads.txt")).exists():
            made["loads"] = said.read_text()
    made |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    rows = [*(other for other in read_csv(ROWS) if other["network"] != name), made]
    order = [*NETWORKS, *(f"{network} (norms)" for network in NETWORKS)]
    write_csv(sorted(rows, key=lambda each: order.index(each["network"])), ROWS)


def _in_new_process(function: Callable[[str, str], None], name: str, folder: str, limit: float) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [*filter(find_spec, ("timm", "transformers")), "benchmarks.networks", "torch.export"]
    )
    process = context.Process(target=function, args=(name, folder))
    process.start()
    process.join(limit)
    process.kill()


_HEADS = (
    *("network", "units in layers", "of which", "layers left out", "float32", "float64", "space, s", "prune, s"),
    *("trains", "loads", "torch.export", "left out, besides the output"),
)


def table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---|---|---|" + "---:|" * 5 + "---|" * 4]
    for each in rows:
        kinds = ("heads", "neurons", "channels", "groups", "RNN units", "trunk channels")
        of_which = ", ".join(f"{int(each[kind]):,} {kind}" for kind in kinds if each.get(kind) not in (None, "", "0"))
        figures = [each[key] for key in ("layers left out", "float32", "float64", "space seconds", "prune seconds")]
        checks = [each[key] for key in ("trains", "loads", "exports")]
        why = [part for part in each["left out because"].split("; ") if " x channels are outputs of" not in part]
        units = f"{each['units']} in {each['layers']}" if each["units"] else ""
        lines.append(f"| {' | '.join((each['network'], units, of_which, *figures, *checks, '; '.join(why)))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what has no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--again", action="store_true", help="measure networks again that have a row")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one network")
    flags = parser.parse_args()
    names = flags.only or [*NETWORKS, *(f"{name} (norms)" for name in WITH_NORMS)]
    finished = {each["network"] for each in read_csv(ROWS)}
    for name in names:
        if missing := missing_library(name.removesuffix(" (norms)")):
            print(f"{name}: {missing} is not installed", file=sys.stderr)
        elif flags.again or name not in finished:
            print(name, file=sys.stderr, flush=True)
            add_row(name, flags.limit)
    rows = [each for each in read_csv(ROWS) if not flags.only or each["network"] in flags.only]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{table(rows)}")


if __name__ == "__main__":
    main()
