"""Search spaces by name, from an Optuna trial to a recipe and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

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

_MULTIPLES = (0.25, 4.0)  # of an optimiser's reference rate and decay
_SMOOTHING, _TRANSLATE, _CUTOUT, _JITTER, _MIX_ALPHA = (0.0, 0.25), (0, 4), (0, 12), (0.0, 0.4), (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Optuna parameters and their ranges.

    The learning rate is drawn as a multiple of the optimiser's reference rate, scaled with the square root of the
    batch size, so that the importance of each parameter can be judged on its own.
    """

    description: str
    models: tuple[str, ...]
    optimizers: tuple[str, ...]
    widths: tuple[float, float]
    batch_sizes: tuple[int, ...]
    starts: tuple[Mapping[str, Any], ...]  # known-good points, tried before any other

    def suggest(self, trial: BaseTrial, base: Recipe) -> Recipe:
        """Return the recipe of `trial`; values that the space does not vary come from `base`."""
        optimizer = trial.suggest_categorical("optimizer", self.optimizers)
        batch_size = trial.suggest_categorical("batch_size", self.batch_sizes)
        mix = trial.suggest_categorical("mix", MIXES)
        scale = OPTIMIZER_SCALES[optimizer]
        return replace(
            base,
            model=trial.suggest_categorical("model", self.models),
            width=trial.suggest_float("width", *self.widths, step=0.25),
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=_base_rate(optimizer, batch_size)
            * trial.suggest_float("learning_rate_multiple", *_MULTIPLES, log=True),
            bias_lr_multiple=scale.bias_lr_multiple,
            momentum=scale.momentum,
            weight_decay=scale.weight_decay * trial.suggest_float("weight_decay_multiple", *_MULTIPLES, log=True),
            label_smoothing=trial.suggest_float("label_smoothing", *_SMOOTHING),
            flip=trial.suggest_categorical("flip", (True, False)),
            translate=trial.suggest_int("translate", *_TRANSLATE),
            cutout=trial.suggest_int("cutout", *_CUTOUT, step=4),
            color_jitter=trial.suggest_float("color_jitter", *_JITTER),
            mix=mix,
            # Drawn for every trial, because a conditional parameter would split the history of the sampler.
            mix_alpha=trial.suggest_float("mix_alpha", *_MIX_ALPHA, log=True),
        )

    def nearest(self, recipe: Recipe) -> dict[str, Any]:
        """Return the parameters of the point in this space that is nearest to `recipe`."""
        scale = OPTIMIZER_SCALES[recipe.optimizer]
        rate = recipe.peak_rate / _base_rate(recipe.optimizer, recipe.batch_size)
        return {
            "model": recipe.model if recipe.model in self.models else self.models[0],
            "width": round(_clip(recipe.width, self.widths) * 4) / 4,
            "batch_size": min(self.batch_sizes, key=lambda size: abs(math.log(size / recipe.batch_size))),
            "optimizer": recipe.optimizer if recipe.optimizer in self.optimizers else self.optimizers[0],
            "learning_rate_multiple": _clip(rate, _MULTIPLES),
            "weight_decay_multiple": _clip(recipe.weight_decay / scale.weight_decay, _MULTIPLES),
            "label_smoothing": _clip(recipe.label_smoothing, _SMOOTHING),
            "flip": recipe.flip,
            "translate": int(_clip(recipe.translate, _TRANSLATE)),
            "cutout": round(_clip(recipe.cutout, _CUTOUT) / 4) * 4,
            "color_jitter": _clip(recipe.color_jitter, _JITTER),
            "mix": recipe.mix,
            "mix_alpha": _clip(recipe.mix_alpha, _MIX_ALPHA),
        }


_START: Mapping[str, Any] = MappingProxyType(
    {
        "model": "fast_resnet",
        "width": 0.75,
        "batch_size": 256,
        "optimizer": "muon",
        "learning_rate_multiple": 1.0,
        "weight_decay_multiple": 1.0,
        "label_smoothing": 0.1,
        "flip": True,
        "translate": 2,
        "cutout": 0,
        "color_jitter": 0.0,
        "mix": "none",
        "mix_alpha": 0.2,
    }
)

SPACES: Mapping[str, SearchSpace] = MappingProxyType(
    {
        "full": SearchSpace(
            description="every architecture and optimiser",
            models=("fast_resnet", "five_conv", "vision_transformer", "wide_resnet"),
            optimizers=("sgd", "adamw", "muon"),
            # Narrower networks win short trials but lose the confirmation: 86 against 84 % after 20 TFLOP, but 91.5
            # against 91.8 % after 160 (fast_resnet at width 0.5 and 0.75).
            widths=(0.75, 1.0),
            batch_sizes=(64, 128, 256),
            starts=(_START,),
        ),
        "systems": SearchSpace(
            description="the five published systems and their optimisers; enqueues the systems themselves",
            models=SYSTEMS,
            optimizers=("sgd", "adam", "ranger"),
            widths=(0.25, 1.0),
            batch_sizes=(32, 64, 128, 256),
            starts=(),
        ),
        "fast": SearchSpace(
            description="fast_resnet with Muon only: varies rate, regularisation and augmentation",
            models=("fast_resnet",),
            optimizers=("muon",),
            widths=(0.75, 1.5),
            batch_sizes=(64, 128, 256),
            starts=(_START,),
        ),
    }
)


def comparable(recipe: Recipe) -> Recipe:
    """Return `recipe` with the validation images of a sweep, a learning rate, and the weights of the last step.

    A range test would cost more than a trial, so a rate to be found becomes the optimiser's reference rate.
    """
    rate = recipe.learning_rate
    if isinstance(rate, str):
        rate = _base_rate(recipe.optimizer, recipe.batch_size)
    return replace(recipe, learning_rate=rate, val_fraction=FIXED_SPLIT, keep_best=False)


def _base_rate(optimizer: str, batch_size: int) -> float:
    return OPTIMIZER_SCALES[optimizer].learning_rate * math.sqrt(batch_size / 256)


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
