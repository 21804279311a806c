"""Recipes by name: the files of this folder, and any other file in TOML."""

from __future__ import annotations

import difflib
from pathlib import Path

from cifar_core.models import build_shapes
from cifar_core.recipe import Recipe, RecipeError

FOLDER = Path(__file__).resolve().parent
_LARGEST = 100_000  # bytes of a recipe file
SYSTEMS = ("five_conv", "three_conv", "block_cnn", "dynamic_conv", "custom_resnet")  # the published ones


def named(folder: Path = FOLDER) -> list[str]:
    """The names of all recipes in `folder`."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def expand(names: list[str], group: str) -> list[str]:
    """`names` with `group` replaced by the five published systems, each once, in order."""
    return list(dict.fromkeys(name for given in names for name in (SYSTEMS if given == group else (given,))))


def read_recipe(name: str, folder: Path = FOLDER) -> Recipe:
    """The recipe of that name, or in the file of that path: anything with a slash or that ends in ".toml".

    Raises:
        RecipeError: no such recipe, a file that cannot be read, is not TOML or breaks a rule, or an unknown model.
    """
    if "/" in name or "\\" in name or name.endswith(".toml"):
        path = Path(name)
    elif name in named(folder):
        path = folder / f"{name}.toml"
    else:
        close = difflib.get_close_matches(name, named(folder), n=1)
        known = ", ".join(named(folder))
        hint = f"did you mean {close[0]!r}?" if close else f"the recipes are {known}; a file's name ends in .toml"
        raise RecipeError(f"unknown recipe {name!r}: {hint}")
    try:
        with path.open("rb") as file:  # no more than needed: it may be anything
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise RecipeError(f"a recipe file must have at most {_LARGEST:,} bytes, but {path} has more")
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"a recipe file must be readable text, but {path} gave: {cause}") from error
    try:
        recipe = Recipe.from_toml(text)
        build_shapes(recipe.model, recipe.width)  # only to see that it can be built
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe
