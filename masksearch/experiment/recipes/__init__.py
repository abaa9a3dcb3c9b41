"""Recipes: experiments as settings, in three scales; published ones are package data, others are TOML files."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from masksearch.experiment.settings.all_settings import Settings
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["SCALES", "load_recipe", "recipe_names", "recipe_settings", "recipe_text"]

SCALES = ("smoke", "cpu", "paper")
"""Scales that every recipe has."""


def recipe_names() -> list[str]:
    """Return the sorted names of all recipes. A recipe has the settings of a published experiment."""
    folder = files("masksearch.experiment.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, scale: str = "cpu", only: Sequence[str] = ()) -> list[Settings]:
    """Return the settings of a recipe (an experiment) at a scale such as "cpu", one object for each part.

    Parameters
    ----------
    name : str
        Name of a recipe of the package, or the path of a file that ends with ``.toml``.
    scale : str
        ``smoke``, ``cpu``, ``paper``, or another scale of the recipe.
    only : sequence of str
        Names of parts; by default, all parts.

    Raises
    ------
    InputError
        For an unknown recipe, scale, key, or part, or a file that is no TOML.
    """
    return recipe_settings(_read(name), recipe_title(name), scale, only)


def recipe_title(name: str) -> str:
    """Return a recipe's name as names of its sweeps begin with it: for a file, its name without folder and suffix."""
    return Path(name).stem if name.endswith(".toml") else name


def recipe_settings(recipe: Mapping[str, Any], name: str, scale: str, only: Sequence[str] = ()) -> list[Settings]:
    """Return the settings of a recipe, one object for each of its parts, from the content of the recipe's TOML file.

    A part has the recipe's ``[settings]``, overridden by ``[scale.<scale>]``, then by its own ``[[part]]`` and by what
    that says for the scale, ``[part.scale.<scale>]``. Parts of one ``name`` make one sweep; the name is added to the
    recipe's and the scale's. A part that is ``like`` an earlier one begins with what that one says. A part whose
    ``methods`` are empty at a scale is left out. A recipe may have more scales than ``SCALES``.
    The errors are those of :func:`load_recipe`.
    """
    of_parts = [name for part in recipe.get("part", []) for name in part.get("scale", {})]
    choose("scale", scale, list(dict.fromkeys([*SCALES, *recipe.get("scale", {}), *of_parts])))
    source = f"recipe {name!r}"
    for key in recipe:
        choose(f"key in {source}", key, ["about", "settings", "scale", "part"])
    whole = recipe.get("settings", {}) | recipe.get("scale", {}).get(scale, {})
    loaded = []
    known: dict[str, dict[str, Any]] = {}  # what parts say, by name
    parts = recipe.get("part", [{}])
    if only and not _part_names(recipe):
        raise InputError(f"parts: {' '.join(only)}; {source} has no named parts")
    for asked in only:
        choose(f"part of {source}", asked, _part_names(recipe))
    for number, part in enumerate(parts, start=1):
        own = {key: value for key, value in part.items() if key != "scale"} | part.get("scale", {}).get(scale, {})
        suffix = own.pop("name", "")
        if "like" in own:
            own = known[choose(f"earlier part of {source}", own.pop("like"), list(known))] | own
        known[suffix] = own
        if (only and suffix not in only) or own.get("methods") == []:
            continue
        settings = Settings().updated(whole | own, f"{source}, part {number}" if len(parts) > 1 else source)
        full_name = "_".join(filter(None, [name, scale, suffix]))
        loaded.append(settings.updated({"name": full_name}, source))
    return loaded


def _part_names(recipe: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(part["name"] for part in recipe.get("part", []) if "name" in part))


def recipe_text(name: str) -> str:
    """Return the one-line description of a recipe (settings of a published experiment), with its parts' names."""
    recipe = _read(name)
    names = ", ".join(_part_names(recipe))
    return recipe.get("about", "") + f" (parts: {names})" * bool(names)


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InputError(f"recipe {name}: no such file; give a TOML file, or a name in masksearch --list")
        text = Path(name).read_text(encoding="utf-8")
    else:
        choose("recipe", name, recipe_names())
        text = (files("masksearch.experiment.recipes") / f"{name}.toml").read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name!r}: not valid TOML ({error})") from None
