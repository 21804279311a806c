"""Search spaces by name, from an Optuna trial to a recipe and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from cifar_core.recipe import FIXED_SPLIT, MIXES, Recipe
from cifar_core.recipes import SYSTEMS


@dataclass(frozen=True, slots=True)
class OptimizerScale:
    """Reference learning rate and decay of an optimiser; the search draws multiples of them."""

    learning_rate: float  # at batch size 256
    weight_decay: float
    momentum: float
    bias_lr_multiple: float


OPTIMIZER_SCALES: Mapping[str, OptimizerScale] = MappingProxyType(
    {
        "sgd": OptimizerScale(0.5, 1.5e-3, 0.85, 8.0),
        "adam": OptimizerScale(1e-3, 1e-4, 0.9, 1.0),
        "adamw": OptimizerScale(2e-3, 0.05, 0.9, 1.0),
        "muon": OptimizerScale(0.2, 0.02, 0.6, 1.0),
        "ranger": OptimizerScale(4e-3, 0.01, 0.95, 1.0),
    }
)

TTA = "mirror-shift"  # test-time augmentation of a sweep's champion

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Optuna parameters and their ranges, in the order in which a trial draws them.

    The learning rate is drawn as a multiple of the optimiser's reference rate, scaled with the square root of the
    batch size, so that the importance of each parameter can be judged on its own.
    """

    name: str
    description: str
    parameters: Mapping[str, Distribution]  # by field of the recipe, or "learning_rate_multiple" and the like
    starts: tuple[Recipe, ...] = ()  # known to be good, tried before any other

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(map(str, cast(CategoricalDistribution, self.parameters["model"]).choices))

    def suggest(self, trial: BaseTrial, base: Recipe) -> Recipe:
        """Return the recipe of `trial`; values that the space does not vary come from `base`."""
        drawn = {name: _draw(trial, name, distribution) for name, distribution in self.parameters.items()}
        scale = OPTIMIZER_SCALES[drawn["optimizer"]]
        rate = _base_rate(drawn["optimizer"], drawn["batch_size"]) * drawn.pop("learning_rate_multiple")
        decay = scale.weight_decay * drawn.pop("weight_decay_multiple")
        return replace(
            base,
            learning_rate=rate,
            weight_decay=decay,
            momentum=scale.momentum,
            bias_lr_multiple=scale.bias_lr_multiple,
            **drawn,
        )

    def nearest(self, recipe: Recipe) -> dict[str, Any]:
        """Return the parameters of the point in this space that is nearest to `recipe`."""
        rate = _base_rate(recipe.optimizer, recipe.batch_size)
        wanted = {
            **recipe.to_dict(),
            "learning_rate_multiple": recipe.peak_rate / rate,
            "weight_decay_multiple": recipe.weight_decay / OPTIMIZER_SCALES[recipe.optimizer].weight_decay,
        }
        return {name: _nearest(wanted[name], distribution) for name, distribution in self.parameters.items()}


_MULTIPLE = FloatDistribution(0.25, 4.0, log=True)  # of an optimiser's reference rate or decay

_FULL: Mapping[str, Distribution] = MappingProxyType(
    {
        "optimizer": CategoricalDistribution(("sgd", "adamw", "muon")),
        "batch_size": CategoricalDistribution((64, 128, 256)),
        "mix": CategoricalDistribution(MIXES),
        "model": CategoricalDistribution(("fast_resnet", "five_conv", "vision_transformer", "wide_resnet")),
        # Narrower networks win short trials but lose the confirmation: 86 against 84 % after 20 TFLOP, but 91.5
        # against 91.8 % after 160 (fast_resnet at width 0.5 and 0.75).
        "width": FloatDistribution(0.75, 1.0, step=0.25),
        "learning_rate_multiple": _MULTIPLE,
        "weight_decay_multiple": _MULTIPLE,
        "label_smoothing": FloatDistribution(0.0, 0.25),
        "flip": CategoricalDistribution((True, False)),
        "translate": IntDistribution(0, 4),
        "cutout": IntDistribution(0, 12, step=4),
        "color_jitter": FloatDistribution(0.0, 0.4),
        # Drawn for every trial, because a conditional parameter would split the history of the sampler.
        "mix_alpha": FloatDistribution(0.1, 1.0, log=True),
    }
)

_START = Recipe(width=0.75, batch_size=256, optimizer="muon", learning_rate=0.2, weight_decay=0.02, label_smoothing=0.1)

_SPACES = (
    SearchSpace("full", "every architecture and optimiser", _FULL, (_START,)),
    SearchSpace(
        "systems",
        "the five published systems and their optimisers; enqueues the systems themselves",
        {
            **_FULL,
            "optimizer": CategoricalDistribution(("sgd", "adam", "ranger")),
            "batch_size": CategoricalDistribution((32, 64, 128, 256)),
            "model": CategoricalDistribution(SYSTEMS),
            "width": FloatDistribution(0.25, 1.0, step=0.25),
        },
    ),
    SearchSpace(
        "fast",
        "fast_resnet with Muon only: varies rate, regularisation and augmentation",
        {
            **_FULL,
            "optimizer": CategoricalDistribution(("muon",)),
            "model": CategoricalDistribution(("fast_resnet",)),
            "width": FloatDistribution(0.75, 1.5, step=0.25),
        },
        (_START,),
    ),
)

SPACES: Mapping[str, SearchSpace] = MappingProxyType({space.name: space for space in _SPACES})


def comparable(recipe: Recipe) -> Recipe:
    """Return `recipe` with the validation images and test-time augmentation of a sweep, a learning rate, and the
    weights of the last step.

    A range test would cost more than a trial, so a rate to be found becomes the optimiser's reference rate.
    """
    rate = recipe.learning_rate
    if isinstance(rate, str):
        rate = _base_rate(recipe.optimizer, recipe.batch_size)
    return replace(recipe, learning_rate=rate, val_fraction=FIXED_SPLIT, keep_best=False, tta=TTA)


def _base_rate(optimizer: str, batch_size: int) -> float:
    return OPTIMIZER_SCALES[optimizer].learning_rate * math.sqrt(batch_size / 256)


def _draw(trial: BaseTrial, name: str, distribution: Distribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _nearest(wanted: Any, distribution: Distribution) -> Any:
    """Return the value nearest to `wanted`; numbers to choose from are compared by their ratio."""
    if isinstance(distribution, CategoricalDistribution):
        choices: Sequence[Any] = distribution.choices
        if wanted not in choices and type(wanted) is int:
            return min(choices, key=lambda choice: abs(math.log(choice / wanted)))
        return wanted if wanted in choices else choices[0]
    clipped = min(max(wanted, distribution.low), distribution.high)
    return round(clipped / distribution.step) * distribution.step if distribution.step else clipped
