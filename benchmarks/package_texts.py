"""Debian's package descriptions and their sections, as texts of a benchmark: split by source package, no duplicates.

    python -m benchmarks.package_texts FOLDER [--per-section 40] [--texts FILE]

writes them to a folder that ``masksearch run --dataset textfolder:FOLDER`` reads.
"""

import argparse
import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masksearch.utils.errors import InputError

__all__ = ["SECTIONS", "Package", "drawn", "packages"]

SECTIONS = (
    *("admin", "database", "editors", "games", "graphics", "mail", "math"),
    *("net", "science", "sound", "text", "utils", "video", "web", "x11"),
)
"""Sections by topic. Those by programming language or form (python, libs, doc) can be read off single words."""

_LEAST_WORDS = 12  # of the description without its first line
_COMMAND = ("apt-cache", "-o", "Acquire::Languages=en", "show", "?name(.)")


@dataclass(frozen=True)
class Package:
    """A description: its first line, the rest, and the number of its section."""

    first: str
    rest: str
    section: int
    part: str  # train, search or test


def packages(path: Path | None = None) -> list[Package]:
    """Return one package per source package, in the order of their names.

    Parameters
    ----------
    path : Path, optional
        Output of ``apt-cache show '?name(.)'`` with English descriptions. Default: that of this machine, after
        ``apt-get update -o Acquire::Languages=en``.

    Raises
    ------
    InputError
        If there are no long descriptions in English.
    """
    if path is None:
        text = subprocess.run(_COMMAND, capture_output=True, text=True, check=True).stdout
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, Package] = {}
    seen: set[str] = set()
    for record in sorted(text.split("\n\n")):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*(?:\n .*)*)", record, re.MULTILINE))
        section = fields.get("Section", "").rpartition("/")[2]
        first, _, rest = fields.get("Description-en", "").partition("\n")
        rest = re.sub(r"\s+", " ", re.sub(r"^ \.$", " ", rest, flags=re.MULTILINE)).strip()
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        if section not in SECTIONS or source in found or len(rest.split()) < _LEAST_WORDS:
            continue
        if first.lower() in seen or rest.lower() in seen:
            continue
        seen |= {first.lower(), rest.lower()}
        number = hashlib.sha256(source.encode()).digest()[0]
        part = "test" if number < 64 else "search" if number < 96 else "train"
        found[source] = Package(first, rest, SECTIONS.index(section), part)
    if not found:
        raise InputError(
            "packages: no long descriptions in English; run 'apt-get update -o Acquire::Languages=en', or name a file "
            f"with the output of: {' '.join(_COMMAND)}"
        )
    return list(found.values())


def drawn(found: list[Package], part: str, per_section: int, seed: int) -> list[Package]:
    """Return ``per_section`` packages of every section of a part, drawn by a seed, in random order."""
    rng = np.random.default_rng(seed)
    chosen: list[Package] = []
    for number, name in enumerate(SECTIONS):
        own = [one for one in found if one.part == part and one.section == number]
        if len(own) < per_section:
            raise InputError(f"packages: {len(own)} of section {name} in {part}, and {per_section} are needed")
        chosen += [own[place] for place in rng.permutation(len(own))[:per_section]]
    return [chosen[place] for place in rng.permutation(len(chosen))]


def write_folder(folder: Path, found: list[Package], per_section: int) -> None:
    """Write texts to ``folder/{train,val,test}/<section>/<number>.txt``; a quarter as many are for validation."""
    for part, source, n in (
        ("train", "train", per_section),
        ("val", "search", max(1, per_section // 4)),
        ("test", "test", per_section),
    ):
        for number, one in enumerate(drawn(found, source, n, 0)):
            path = folder / part / SECTIONS[one.section] / f"{number:05}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{one.first}. {one.rest}", encoding="utf-8")


def main() -> None:
    """Read the flags and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-section", type=int, default=40, help="texts of a section for training, and for the test")
    parser.add_argument("--texts", type=Path, help="output of apt-cache show '?name(.)'; default: of this machine")
    arguments = parser.parse_args()
    write_folder(arguments.folder, packages(arguments.texts), arguments.per_section)


if __name__ == "__main__":
    main()
