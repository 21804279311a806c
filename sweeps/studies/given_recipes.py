"""Recipes that a search tries first because the user names them: `--enqueue`, `--from`, or those of the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cifar_core.budget import Budget, for_data_set
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.recipe import Recipe
from cifar_core.recipes import expand, is_path, read_recipe
from sweeps.planning.plan import Plan
from sweeps.planning.search_space import comparable
from sweeps.planning.space_rules import SYSTEMS_GROUP
from sweeps.store import Store
from sweeps.studies.settings import ADAPTATION, TRAIN_IMAGES
from sweeps.studies.storage import StudyError
from sweeps.studies.study import SOURCE, ended_trials, find_study, load_study, ranked, recipe_of
from sweeps.words import narrowed

EARLIER_RECIPES = 3  # best ones of the study that `--from` names


def read_given(names: Sequence[str]) -> dict[str, Recipe]:
    """Read recipes by name, file, or group of names, comparable to those of the search.

    Raises:
        RecipeError: there is no such recipe, or its file breaks a rule.
    """
    return {name: comparable(read_recipe(name)) for name in expand(list(names), SYSTEMS_GROUP)}


def for_this_data(recipes: Mapping[str, Recipe], data_set: DataSet) -> dict[str, Recipe]:
    """Convert the epochs of built-in recipes, which are for CIFAR-10, to `data_set`; those of files stay."""
    return {
        name: recipe if is_path(name) else for_data_set(recipe, CIFAR10.train_images, data_set)
        for name, recipe in recipes.items()
    }


def earlier_recipes(source: str, store: Store, plan: Plan) -> dict[str, Recipe]:
    """Return the best recipes of the study `source`; none if the plan's study has tried those already.

    Raises:
        UserError: there is no such study, it is the plan's own or no sweep, or it has no complete trial.
    """
    if source == plan.study:
        raise StudyError(f"--from must name another study, but got {source!r}, which this command runs")
    own = find_study(store, plan.study)
    if own is not None and own.get_trials(deepcopy=False) and own.user_attrs.get(SOURCE) == source:
        return {}
    earlier = load_study(store, source, option="--from")
    if ADAPTATION in earlier.user_attrs:
        raise StudyError(f"--from must name a sweep, but {source!r} adapts a network")
    if not ended_trials(earlier)["complete"]:
        raise StudyError(f"--from must name a study with a complete trial, but {source!r} has none")
    if TRAIN_IMAGES not in earlier.user_attrs:
        raise StudyError(f"--from must name a sweep, but {source!r} is a study of another program")
    images, best = earlier.user_attrs[TRAIN_IMAGES], ranked(earlier.get_trials(deepcopy=False))[:EARLIER_RECIPES]
    recipes = [comparable(for_data_set(recipe_of(trial), images, plan.data_set)) for trial in best]
    return {f"{place} of {source}": recipe for place, recipe in enumerate(recipes, start=1)}


def affordable(
    recipes: Mapping[str, Recipe], named: Sequence[str], budget: Budget, data_set: DataSet
) -> tuple[list[Recipe], list[str]]:
    """Return the recipes, and a line for each whose width or batch was reduced to the budget of a trial.

    Args:
        named: names that the user gave one by one, not as a group; the width of these recipes is not reduced.

    Raises:
        UserError: the budget does not cover two steps of one of them.
    """
    tried, notes = [], []
    for name, recipe in recipes.items():
        narrow = budget.narrow(recipe, data_set)
        as_given = name in named and narrow.width != recipe.width
        budget.apply(recipe if as_given else narrow, data_set.train_images, data_set)
        tried.append(narrow)
        if narrow is not recipe:
            before, after = (budget.steps(each, data_set.train_images, data_set) for each in (recipe, narrow))
            notes.append(
                f"{name} is tried at {narrowed(narrow, recipe)}: there the budget of a trial covers {after:.3g} "
                f"training steps, not {before:.3g}"
            )
    return tried, notes
