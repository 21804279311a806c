"""Recipes by name (the TOML files of this folder) or by path."""

from __future__ import annotations

from pathlib import Path

from cifar_core.errors import UserError, suggest_name
from cifar_core.files import read_small_text
from cifar_core.models import MODELS, build_shapes
from cifar_core.recipe import Recipe, RecipeError

FOLDER = Path(__file__).resolve().parent
SYSTEMS = ("five_conv", "three_conv", "block_cnn", "dynamic_conv", "custom_resnet")  # the published ones
NAMES = (*SYSTEMS, "fast94", "fast96")


def expand(names: list[str], group: str) -> list[str]:
    """Replace `group` in `names` by the five published systems; each name stays once, in order."""
    return list(dict.fromkeys(name for given in names for name in (SYSTEMS if given == group else (given,))))


def is_path(name: str) -> bool:
    """True for a path of a TOML file: it has a slash or ends in ".toml"."""
    return "/" in name or "\\" in name or name.endswith(".toml")


def read_recipe(name: str) -> Recipe:
    """Read a recipe by name, or by path (`is_path`).

    Raises:
        RecipeError: unknown name, a file that cannot be read, is not TOML or breaks a rule, or an unknown model.
    """
    if is_path(name):
        path = Path(name)
        if not name.isprintable():
            raise RecipeError(f"a recipe file's name must have no line breaks and control characters, but got {name!r}")
    elif name in NAMES:
        path = FOLDER / f"{name}.toml"
    else:
        recipes_are = f"the recipes are {', '.join(sorted(NAMES))}; a file's name ends in .toml"
        if name in MODELS:
            recipes_are = f"it is a network; {recipes_are}"
        raise RecipeError(f"unknown recipe {name!r}: {suggest_name(name, NAMES, recipes_are)}")
    try:
        text = read_small_text(path, "recipe")
    except UserError as error:
        raise RecipeError(str(error)) from error
    try:
        recipe = Recipe.from_toml(text)
        build_shapes(recipe.model, recipe.width)  # checks that it can be built
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe
