"""Recipes: published experiments as settings, in three scales, kept as package data."""

import tomllib
from importlib.resources import files
from typing import Any

from masksearch.errors import InputError
from masksearch.experiment.settings import Settings
from masksearch.table import choose

__all__ = ["SCALES", "load_recipe", "recipe_names", "recipe_text"]

SCALES = ("smoke", "cpu", "paper")


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    folder = files("masksearch.experiment") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, scale: str = "cpu") -> Settings:
    """The settings of a recipe at a scale: its ``[settings]``, overridden by its ``[scale.<scale>]``.

    Raises
    ------
    InputError
        For an unknown recipe, scale, or key.
    """
    choose("scale", scale, list(SCALES))
    recipe = _read(name)
    unknown = set(recipe) - {"about", "settings", "scale"}
    if unknown:
        choose(f"key in recipe {name!r}", sorted(unknown)[0], ["about", "settings", "scale"])
    base = Settings().updated({"name": f"{name}_{scale}"} | recipe.get("settings", {}), f"recipe {name!r}")
    return base.updated(recipe.get("scale", {}).get(scale, {}), f"recipe {name!r}, scale {scale}")


def recipe_text(name: str) -> str:
    """What a recipe says about itself, in one line."""
    return str(_read(name).get("about", ""))


def _read(name: str) -> dict[str, Any]:
    choose("recipe", name, recipe_names())
    text = (files("masksearch.experiment") / "recipes" / f"{name}.toml").read_text()
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name!r}: not valid TOML ({error})") from None
