"""Recipes: published experiments as settings, in three scales, kept as package data."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from masksearch.experiment.settings.combined import Settings
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["SCALES", "load_recipe", "recipe_names", "recipe_settings", "recipe_text"]

SCALES = ("smoke", "cpu", "paper")


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    folder = files("masksearch.experiment.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, scale: str = "cpu", only: Sequence[str] = ()) -> list[Settings]:
    """The settings of a recipe at a scale, one for each of its parts, or for those of these names.

    Raises
    ------
    InputError
        For an unknown recipe, scale, key, or part.
    """
    return recipe_settings(_read(name), name, scale, only)


def recipe_settings(recipe: Mapping[str, Any], name: str, scale: str, only: Sequence[str] = ()) -> list[Settings]:
    """The settings of a recipe that is given as the dictionary of its TOML file.

    A part has the recipe's ``[settings]``, overridden by ``[scale.<scale>]``, then by its own ``[[part]]`` and by what
    that says for the scale, ``[part.scale.<scale>]``. Parts of one ``name`` make one sweep; the name is added to the
    recipe's and the scale's. A part that is ``like`` an earlier one begins with what that one says.

    Raises
    ------
    InputError
        For an unknown scale, key, or part.
    """
    choose("scale", scale, list(SCALES))
    source = f"recipe {name!r}"
    _check_keys(recipe, ("about", "settings", "scale", "part"), source)
    whole = recipe.get("settings", {}) | recipe.get("scale", {}).get(scale, {})
    loaded = []
    known: dict[str, dict[str, Any]] = {}  # what parts say, by name
    parts = recipe.get("part", [{}])
    _check_parts(only, _part_names(recipe), source)
    for number, part in enumerate(parts, start=1):
        own = {key: value for key, value in part.items() if key != "scale"} | part.get("scale", {}).get(scale, {})
        suffix = own.pop("name", "")
        if "like" in own:
            own = known[choose(f"earlier part of {source}", own.pop("like"), list(known))] | own
        known[suffix] = own
        if only and suffix not in only:
            continue
        settings = Settings().updated(whole | own, f"{source}, part {number}" if len(parts) > 1 else source)
        full_name = "_".join(filter(None, [name, scale, suffix]))
        loaded.append(settings.updated({"name": full_name}, source))
    return loaded


def _check_parts(only: Sequence[str], names: Sequence[str], source: str) -> None:
    if only and not names:
        raise InputError(f"parts: {' '.join(only)}; {source} has no named parts")
    for name in only:
        choose(f"part of {source}", name, list(names))


def _part_names(recipe: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(part["name"] for part in recipe.get("part", []) if "name" in part))


def _check_keys(table: Mapping[str, Any], allowed: tuple[str, ...], source: str) -> None:
    for key in table:
        choose(f"key in {source}", key, list(allowed))


def recipe_text(name: str) -> str:
    """What a recipe says about itself, with its parts' names, in one line."""
    recipe = _read(name)
    names = ", ".join(_part_names(recipe))
    return recipe.get("about", "") + f" (parts: {names})" * bool(names)


def _read(name: str) -> dict[str, Any]:
    choose("recipe", name, recipe_names())
    text = (files("masksearch.experiment.recipes") / f"{name}.toml").read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name!r}: not valid TOML ({error})") from None
