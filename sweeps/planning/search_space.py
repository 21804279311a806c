"""Search spaces: from an Optuna trial to a recipe and back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from cifar_core.recipe import FIXED_SPLIT, MOST_EPOCHS, Recipe


@dataclass(frozen=True, slots=True)
class OptimizerScale:
    """Reference learning rate and decay of an optimiser; the search draws multiples of them."""

    learning_rate: float  # at batch size 256
    weight_decay: float
    momentum: float
    bias_lr_multiple: float


OPTIMIZER_SCALES: Mapping[str, OptimizerScale] = {
    "sgd": OptimizerScale(0.5, 1.5e-3, 0.85, 8.0),
    "adam": OptimizerScale(1e-3, 1e-4, 0.9, 1.0),
    "adamw": OptimizerScale(2e-3, 0.05, 0.9, 1.0),
    "muon": OptimizerScale(0.2, 0.02, 0.6, 1.0),
    "ranger": OptimizerScale(4e-3, 0.01, 0.95, 1.0),
}
# Of muon with `reset_norms`, as in the recipe fast94 and for its length. Only biases and the head decay there, so fast
# that the product of rate and decay has to be held: the decay is that of batch size 256.
_RESET_SCALE = OptimizerScale(0.075, 2e-6 * 256 / 0.075, 0.6, 1.0)

_REFERENCE_IMAGES = 8.25 * 50_000  # trained on by fast94

TTA = "mirror-shift"  # test-time augmentation of a sweep's champion

MULTIPLE = "_multiple"  # ends the name of a parameter that is a multiple of the optimiser's reference value
MULTIPLES: Mapping[str, str] = {f + MULTIPLE: f for f in ("learning_rate", "weight_decay")}

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Condition = Mapping[str, tuple[Any, ...]]  # the values that other parameters must have; empty: always true


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the search: a field of the recipe, or a multiple of the optimiser's reference value.

    Attributes:
        when: the parameter exists only in trials where this holds.
        start: known-good value.
    """

    distribution: Distribution
    when: Condition = field(default_factory=dict)
    start: Any = None

    def content(self) -> dict[str, Any]:
        """Return the entry of a space file that means the same."""
        drawn = self.distribution
        entry: dict[str, Any]
        if isinstance(drawn, CategoricalDistribution):
            entry = {"choices": list(drawn.choices)}
        else:
            entry = {"low": drawn.low, "high": drawn.high}
            if drawn.log:
                entry["log"] = True
            elif drawn.step is not None:
                entry["step"] = drawn.step
        if self.start is not None:
            entry["start"] = self.start
        return entry | ({"when": _listed(self.when)} if self.when else {})


@dataclass(frozen=True, slots=True)
class Hold:
    """Values that every trial has in which `when` holds."""

    values: Mapping[str, Any]
    when: Condition = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """Parameters in the order in which a trial draws them, and values that are held.

    The learning rate is drawn as a multiple of the optimiser's reference rate, scaled with the square root of the
    batch size, so that the importance of each parameter can be judged on its own.

    Attributes:
        parameters: by field of the recipe, or "learning_rate_multiple" and the like.
        holds: a later one overrides an earlier one.
        enqueue: recipes that are tried first unless the user names others.
        text: content of the file.
    """

    name: str
    description: str
    parameters: Mapping[str, Parameter]
    holds: tuple[Hold, ...] = ()
    enqueue: tuple[str, ...] = ()
    text: str = field(default="", compare=False, repr=False)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that this space can draw; empty if it does not vary them."""
        return self.choices("model")

    @property
    def starts(self) -> tuple[dict[str, Any], ...]:
        """Known-good points, to be tried before any other: one for each model, or only that of the model's `start`."""
        start = {name: parameter.start for name, parameter in self.parameters.items()}
        if all(value is None for value in start.values()):
            return ()
        each = [{**start, "model": model} for model in self.models] if start.get("model", "") is None else [start]
        return tuple(self.point_of(values.__getitem__) for values in each)

    def suggest(self, trial: BaseTrial, base: Recipe) -> Recipe:
        """Return the recipe of `trial`, for `reference_epochs`; what the space does not name comes from `base`."""
        return self.recipe(self.point_of(lambda name: _draw(trial, name, self.parameters[name].distribution)), base)

    def recipe(self, point: Mapping[str, Any], base: Recipe) -> Recipe:
        """Return the recipe of a point of this space.

        Raises:
            RecipeError: the point breaks a rule of the recipe.
        """
        values = {**self.held(point), **point}
        batch_size = values.get("batch_size", base.batch_size)
        scale = _scale(values.get("optimizer", base.optimizer), values.get("reset_norms", base.reset_norms))
        rate = values.get("learning_rate", _base_rate(scale, batch_size) * values.pop("learning_rate_multiple", 1.0))
        usual = {
            "learning_rate": rate,
            "weight_decay": _base_decay(scale, batch_size, rate) * values.pop("weight_decay_multiple", 1.0),
            "momentum": scale.momentum,
            "bias_lr_multiple": scale.bias_lr_multiple,
        }
        return replace(base, **{**usual, **values})

    def held(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that are held at a point."""
        return {name: v for hold in self.holds if is_true(hold.when, point) for name, v in hold.values.items()}

    def nearest(self, recipe: Recipe) -> dict[str, Any]:
        """Return the point in this space that is nearest to `recipe`, without parameters that do not exist there."""
        wanted = {**recipe.to_dict(), **multiples_of(recipe)}
        return self.point_of(lambda name: _nearest(wanted[name], self.parameters[name].distribution))

    def point_of(self, value: Callable[[str], Any]) -> dict[str, Any]:
        """Return a point: `value` is asked for each parameter that exists there, one after another."""
        point: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if is_true(parameter.when, point):
                point[name] = value(name)
        return point

    def combinations(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield each combination of these parameters, which have choices; those that do not exist in it are left out.

        Args:
            names: in the order of `parameters`, with all that their own conditions name.
        """
        if not names:
            yield {}
            return
        last = names[-1]
        for point in self.combinations(names[:-1]):
            if is_true(self.parameters[last].when, point):
                yield from ({**point, last: choice} for choice in self.choices(last))
            else:
                yield point

    def content(self) -> dict[str, Any]:
        """Return all that decides what a trial draws, as a space file has it and as JSON can hold it."""
        parameters = {name: parameter.content() for name, parameter in self.parameters.items()}
        holds = [{**hold.values, **({"when": _listed(hold.when)} if hold.when else {})} for hold in self.holds]
        return {"parameters": parameters, "hold": holds}

    @property
    def hash(self) -> str:
        """The first twelve hexadecimal digits of the SHA-256 of `content`."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:12]

    def choices(self, name: str) -> tuple[Any, ...]:
        """Return the choices of a parameter; empty for a range, and where there is no such parameter."""
        distribution = self.parameters[name].distribution if name in self.parameters else None
        return tuple(distribution.choices) if isinstance(distribution, CategoricalDistribution) else ()


def is_true(condition: Condition, point: Mapping[str, Any]) -> bool:
    """Return true if a condition holds at a point; false if the point lacks one of its parameters."""
    return all(name in point and point[name] in values for name, values in condition.items())


def reference_epochs(train_images: int) -> float:
    """Return the epochs on `train_images` images for which a space gives learning rates and decays."""
    return min(MOST_EPOCHS, _REFERENCE_IMAGES / train_images)


def comparable(recipe: Recipe) -> Recipe:
    """Return `recipe` with the settings that all recipes of a sweep share.

    They are the validation split, test-time augmentation, and no choice of the best weights. A range test would cost
    more than a trial, so a rate to be found becomes the optimiser's reference rate. A sweep keeps more images for
    validation, so the epochs are scaled to give as many steps as before.
    """
    rate = recipe.learning_rate
    if isinstance(rate, str):
        rate = _base_rate(_scale(recipe.optimizer, recipe.reset_norms), recipe.batch_size)
    epochs = min(MOST_EPOCHS, recipe.epochs * ((1 - recipe.val_fraction) / (1 - FIXED_SPLIT)))
    return replace(recipe, learning_rate=rate, epochs=epochs, val_fraction=FIXED_SPLIT, keep_best=False, tta=TTA)


def multiples_of(recipe: Recipe) -> dict[str, float]:
    """Return learning rate and decay of `recipe`, which is for `reference_epochs`, as multiples of their references."""
    scale = _scale(recipe.optimizer, recipe.reset_norms)
    return {
        "learning_rate_multiple": recipe.peak_rate / _base_rate(scale, recipe.batch_size),
        "weight_decay_multiple": recipe.weight_decay / _base_decay(scale, recipe.batch_size, recipe.peak_rate),
    }


def _scale(optimizer: str, reset_norms: bool) -> OptimizerScale:
    return _RESET_SCALE if reset_norms else OPTIMIZER_SCALES[optimizer]


def _base_rate(scale: OptimizerScale, batch_size: int) -> float:
    return scale.learning_rate * math.sqrt(batch_size / 256)


def _base_decay(scale: OptimizerScale, batch_size: int, rate: float) -> float:
    if scale is not _RESET_SCALE:
        return scale.weight_decay
    return scale.weight_decay * scale.learning_rate / rate * batch_size / 256


def _draw(trial: BaseTrial, name: str, distribution: Distribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    low, high, log = distribution.low, distribution.high, distribution.log
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, int(low), int(high), step=distribution.step, log=log)
    return trial.suggest_float(name, low, high, step=distribution.step, log=log)


def _nearest(wanted: Any, distribution: Distribution) -> Any:
    """Return the value nearest to `wanted`; positive numbers to choose from are compared by their ratio."""
    if isinstance(distribution, CategoricalDistribution):
        choices: Sequence[Any] = distribution.choices
        if wanted in choices or type(wanted) not in (int, float):
            return wanted if wanted in choices else choices[0]
        scale = math.log if min(wanted, *choices) > 0 else float
        return min(choices, key=lambda choice: abs(scale(choice) - scale(wanted)))
    low, high = distribution.low, distribution.high
    clipped = min(max(wanted, low), high)
    if not distribution.step or distribution.log:
        return clipped
    return min(low + round((clipped - low) / distribution.step) * distribution.step, high)


def _listed(condition: Condition) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in condition.items()}
