"""Damaged files: every file of half-done and finished runs, damaged in every way, and then the same command again."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from masksearch.cli import main
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json
from tests.faults import runs
from tests.faults.campaign import REFERENCE, Part, Report, scratch
from tests.faults.forks import Disk, Ended, run

__all__ = ["damage_parts"]

Damage = Callable[[bytes, random.Random], bytes | None]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\x01"
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def _zeroed(content: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(max(1, len(content)))
    return content[:begin] + bytes(min(64, len(content) - begin)) + content[begin + 64 :]


DAMAGES: Mapping[str, Damage] = {
    "one bit flipped": _flipped,
    "another bit flipped": _flipped,
    "64 zeros": _zeroed,
    "cut in the middle": lambda content, rng: content[: len(content) // 2],
    "last byte missing": lambda content, rng: content[:-1],
    "empty": lambda content, rng: b"",
    "twice": lambda content, rng: content + content,
    "one line twice": lambda content, rng: content + content[content.rfind(b"\n", 0, -1) + 1 :],
    "a pickle": lambda content, rng: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94.",
    "an empty list": lambda content, rng: b"[]",
    "an empty object": lambda content, rng: b"{}",
    "nested too deeply": lambda content, rng: b"[" * 100_000,
    "missing": lambda content, rng: None,
}
"""Kind of damage -> function (content, random numbers) -> new content; None removes the file."""


def _states() -> list[tuple[str, str, Path]]:
    """Return (kind, name, folder) of runs that were killed in the middle, and of finished runs."""
    found = []
    for kind in runs.KINDS:
        _, operations, done = REFERENCE.of(kind)
        found.append((kind, "finished", done))
        for number in (operations // 3, 2 * operations // 3):
            folder = scratch()
            run(runs.job(runs.command(kind, folder)), Disk(folder, number), timeout=300)
            found.append((kind, f"killed at operation {number}", folder))
    return found


def damaged_files(report: Report, share: float) -> None:
    """Damage one file, and run the same command again: the right result, or one sentence that names the remedy."""
    rng = random.Random(4)
    states = _states()
    trials = [
        (kind, state, source, str(path.relative_to(source)), what)
        for kind, state, source in states
        for path in sorted(source.rglob("*"))
        for what in DAMAGES
        if path.is_file() and path.stat().st_size and path.name != ".lock" and rng.random() < share
    ]
    rng.shuffle(trials)
    try:
        for kind, state, source, name, what in trials:
            before = (source / name).read_bytes()
            content = DAMAGES[what](before, rng)
            if content != before:
                folder = scratch()
                try:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                    _damage_one(report, kind, state, folder, name, what, content)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        for _, state, source in states:
            if state != "finished":
                shutil.rmtree(source, ignore_errors=True)


def _damage_one(
    report: Report, kind: str, state: str, folder: Path, name: str, what: str, content: bytes | None
) -> None:
    target = folder / name
    if content is None:
        target.unlink()
    else:
        target.write_bytes(content)
    trial = f"{kind}, {state}, {name}, {what}"
    again = run(runs.job(runs.command(kind, folder)), timeout=120)
    if again.kind == "refused":
        line = next(line for line in again.err.splitlines() if line.startswith("masksearch: "))
        says = any(word in line for word in ("remove", "restore", "another", "move the folder"))
        report.add("refused" if says else "no remedy", trial, line)
        return
    if again.kind != "done":
        report.add(again.kind, trial, again.err)
        return
    wanted, found = dict(REFERENCE.of(kind)[0]), runs.results(folder)
    if found == wanted:
        report.add("right", trial)
    elif {name for name in {**wanted, **found} if wanted.get(name) != found.get(name)} == {name}:
        report.add(_when_read(target), trial)
    else:
        report.add("silent", trial, str([n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]))


def _when_read(path: Path) -> str:
    """The outcome where a finished run was left alone: unread, if its damaged file is missing or refused when read."""
    if not path.exists():
        return "unread"

    def job() -> int:
        from masksearch.core.space import MaskSpace
        from masksearch.searching.history_store import incumbents, read_rows

        try:
            if path.suffix == ".safetensors":
                load_tensors(path)
            elif path.name == "history.jsonl":
                read_rows(path.parent)
            elif path.name == "moves.i32":
                list(incumbents(path.parent, MaskSpace([("all", (1,), 10**6)]), 3))
            else:
                read_json(path)
        except InputError as error:
            print(error)
            return 0
        return 3

    return "unread" if run(job).code == 0 else "silent"


HOSTILE: Mapping[str, bytes] = {
    "null": b"null",
    "a list": b"[]",
    "an object": b'{"a": 1}',
    "a text": b'"text"',
    "a number": b"7",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 50_000,
    "900 levels": b"[" * 900 + b"]" * 900,
    "a huge number": b'{"format": ' + b"9" * 5000 + b"}",
    "infinity": b'{"format": 1e999}',
    "NaN": b'{"format": NaN}',
    "UTF-16": '{"format": 2}'.encode("utf-16"),
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "NULs": bytes(300),
}
"""Name -> content of a JSON file that masksearch has not written."""


def _values(rng: random.Random) -> object:
    return rng.choice(
        [None, True, -1, 10**18, 10**30, 1.5, 1e308, "", "text", "<script>alert(1)</script>", "[red]x[/b]", "../..",
         "\x1b[2J", [], [[]], {}, {"a": {"b": 1}}, ["a"] * 3, "9" * 400]
    )  # fmt: skip


def _mutated(node: object, rng: random.Random) -> object:
    """Return JSON with one part replaced, removed or renamed."""
    if isinstance(node, dict) and node and rng.random() < 0.85:
        name = rng.choice(list(node))
        roll = rng.random()
        if roll < 0.15:
            return {key: value for key, value in node.items() if key != name}
        if roll < 0.25:
            return {("x" + key if key == name else key): value for key, value in node.items()}
        return {key: (_mutated(value, rng) if key == name else value) for key, value in node.items()}
    if isinstance(node, list) and node and rng.random() < 0.85:
        place = rng.randrange(len(node))
        return [_mutated(value, rng) if number == place else value for number, value in enumerate(node)]
    return _values(rng)


def hostile_json(report: Report, share: float) -> None:
    """Show folders whose JSON files were written by someone else: a table, or one sentence; no code runs."""
    rng = random.Random(5)
    for kind in ("search", "filters", "early bird"):
        _, _, source = REFERENCE.of(kind)
        for path in sorted(source.rglob("*.json")):
            name = str(path.relative_to(source))
            for what, content in HOSTILE.items():
                if rng.random() < share:
                    _show(report, source, name, what, content)
            for number in range(round(30 * share) or 1):
                content = json.dumps(_mutated(read_json(path), rng)).encode()
                _show(report, source, name, f"mutation {number}", content)


def _show(report: Report, source: Path, name: str, what: str, content: bytes) -> None:
    folder = scratch()
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / name).write_bytes(content)
        shown = folder / "sweep" if name.startswith("sweep") else (folder / name).parent
        if name.startswith("dense"):
            plan = folder / "sweep" / "sweep.json"
            plan.write_text(plan.read_text().replace(str(source), str(folder)))

        def job() -> int:
            code = main(["show", str(shown)])
            page = shown / "report.html"
            return 4 if page.exists() and "<script>alert" in page.read_text() else code

        ended: Ended = run(job, timeout=60)
        kinds = {"done": "right", "refused": "refused"}
        report.add(kinds.get(ended.kind, ended.kind), f"{name}, {what}: {content[:200]!r}", ended.err + ended.out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def damage_parts() -> Iterator[tuple[str, Part]]:
    """Yield (name, part) of the parts with damaged and hostile files."""
    yield "damaged file, run again", damaged_files
    yield "hostile JSON, show", hostile_json
