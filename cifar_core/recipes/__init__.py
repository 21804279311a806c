"""Recipes by name (the TOML files of this folder) or by path."""

from __future__ import annotations

from pathlib import Path

from cifar_core.errors import suggest_name
from cifar_core.models import build_shapes
from cifar_core.recipe import Recipe, RecipeError

FOLDER = Path(__file__).resolve().parent
_LARGEST = 100_000  # bytes; limit for a recipe file
SYSTEMS = ("five_conv", "three_conv", "block_cnn", "dynamic_conv", "custom_resnet")  # the published ones
NAMES = (*SYSTEMS, "fast94")


def expand(names: list[str], group: str) -> list[str]:
    """Replace `group` in `names` by the five published systems; each name stays once, in order."""
    return list(dict.fromkeys(name for given in names for name in (SYSTEMS if given == group else (given,))))


def read_recipe(name: str) -> Recipe:
    """Read a recipe by name, or by path if `name` has a slash or ends in ".toml".

    Raises:
        RecipeError: unknown name, a file that cannot be read, is not TOML or breaks a rule, or an unknown model.
    """
    if "/" in name or "\\" in name or name.endswith(".toml"):
        path = Path(name)
    elif name in NAMES:
        path = FOLDER / f"{name}.toml"
    else:
        recipes_are = f"the recipes are {', '.join(sorted(NAMES))}; a file's name ends in .toml"
        raise RecipeError(f"unknown recipe {name!r}: {suggest_name(name, NAMES, recipes_are)}")
    try:
        with path.open("rb") as file:  # a limit, as the path may be of any file
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise RecipeError(f"a recipe file must have at most {_LARGEST:,} bytes, but {path} has more")
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"a recipe file must be readable text, but {path} gave: {cause}") from error
    try:
        recipe = Recipe.from_toml(text)
        build_shapes(recipe.model, recipe.width)  # checks that it can be built
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe
