"""Plan of a label curve: shares of the training labels, the length of each training, and its seeds, within a budget."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal

from cifar_core.budget import lengthen, step_flops
from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError
from cifar_core.recipe import MOST_EPOCHS, Recipe
from cifar_core.training import total_steps
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.head import HeadRecipe
from experiments.reading.study import ADAPT, BUILD
from sweeps.planning.search_space import comparable
from sweeps.words import percent

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
# Training FLOPs of the whole curve: half an hour of two cores that compute 0.35 TFLOP a second together.
BUDGET = 0.6e15
SEEDS = 5  # most trainings of one share
_FIRSTS = 2 / 3  # share of the budget that the first seeds may take
_LEAST_BATCH = 16
_HEAD = HeadRecipe(mirrored=False)  # features of the mirror images would double the time
STAGE = "labels"  # tag of a run in MLflow


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRun:
    """A training of the curve.

    Attributes:
        way: BUILD or ADAPT.
        labels: number of labelled images to learn from.
        seed: number of the training among those with as many labels; it draws the images too.
        digest: hash of the recipe, or of the pretrained network and its head.
    """

    way: str
    labels: int
    seed: int
    digest: str

    @property
    def key(self) -> str:
        """Name of the training within its experiment; one of another recipe has another key."""
        return f"{self.way}-{self.labels}-{self.seed}-{self.digest}"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run in MLflow."""
        return {"stage": STAGE, "way": self.way, "labels": str(self.labels), "seed": str(self.seed)}

    def name(self, model: str, accuracy: float | None = None) -> str:
        """Return the name of the run in MLflow, such as `450 labels seed 0 airbench 58.1 %`."""
        name = f"{self.labels:,} labels seed {self.seed} {model}"
        return name if accuracy is None else f"{name} {percent(accuracy)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRun(LabelRun):
    """A network that is trained from nothing.

    Attributes:
        recipe: recipe of the training, with its length and its own seed.
        flops: FLOPs of the training.
    """

    recipe: Recipe
    flops: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptRun(LabelRun):
    """A head that is fitted to the features of a pretrained network."""

    head: HeadRecipe
    backbone: Backbone


def counts_of(shares: Sequence[float], train_images: int, classes: int) -> list[int]:
    """Return the numbers of labels of these shares, rising: at least one for each class, and each number once."""
    return sorted({min(train_images, max(classes, round(share * train_images))) for share in shares})


def build_runs(recipe: Recipe, shares: Sequence[float], budget: float, data_set: DataSet) -> list[BuildRun]:
    """Plan the trainings from nothing, first seeds first, and few labels first.

    All take as many steps: those of `recipe`, or fewer, so that the first seeds cost two thirds of the budget. Batches
    shrink as the root of the share of the labels: with few labels a training goes over its images more often, and costs
    less. The rate does not follow them: so airbench had 57.9 % with 450 labels, and 53.0 % with a rate that went with
    the root of the batch size. Further seeds go where they narrow the mean over seeds most for their compute.

    Args:
        budget: training FLOPs of all runs together.

    Raises:
        UserError: the budget does not cover two steps of each.
    """
    recipe, train_images = comparable(recipe), data_set.train_images
    counts = counts_of(shares, train_images, len(data_set.classes))
    batches = {labels: _batch_size(recipe, labels, train_images) for labels in counts}
    each = {labels: step_flops(replace(recipe, batch_size=batches[labels]), data_set) for labels in counts}
    own, affordable_steps = total_steps(recipe, train_images), int(_FIRSTS * budget / sum(each.values()))
    if affordable_steps < 2:
        least = Decimal(2 * sum(each.values()) / _FIRSTS / 1e15)
        rounded = Context(prec=2, rounding=ROUND_CEILING).plus(least)
        raise UserError(f"--pflop must be at least {rounded:f} for these shares, but got {budget / 1e15:g}")

    steps = min(own, affordable_steps)
    # Shorter runs need another decay, or another rate.
    recipe = lengthen(recipe, recipe.epochs * steps / own)

    def planned(labels: int, seed: int) -> BuildRun:
        epochs = min(MOST_EPOCHS, steps * batches[labels] / labels)
        length = replace(recipe, batch_size=batches[labels], epochs=epochs, seed=seed)
        flops = float(total_steps(length, labels) * each[labels])
        return BuildRun(way=BUILD, labels=labels, seed=seed, digest=length.digest, recipe=length, flops=flops)

    runs, seeds = [planned(labels, 0) for labels in counts], Counter(counts)
    left = budget - sum(run.flops for run in runs)
    while affordable := [labels for labels in counts if steps * each[labels] <= left and seeds[labels] < SEEDS]:
        labels = min(affordable, key=lambda labels: seeds[labels] * (1 + seeds[labels]) * each[labels])
        runs.append(planned(labels, seeds[labels]))
        seeds[labels] += 1
        left -= steps * each[labels]
    return sorted(runs, key=lambda run: (run.seed, run.labels))


def adapt_runs(backbone: Backbone, shares: Sequence[float], train_images: int, classes: int) -> list[AdaptRun]:
    """Plan the heads on a pretrained network, which take seconds: all seeds, but one of a head on all labels.

    Fitting a head is deterministic: another seed only draws other images.
    """
    content = f"{backbone.name} {backbone.sha256} {backbone.side} {_HEAD.to_toml()}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return [
        AdaptRun(way=ADAPT, labels=labels, seed=seed, digest=digest, head=_HEAD, backbone=backbone)
        for seed in range(SEEDS)
        for labels in counts_of(shares, train_images, classes)
        if seed == 0 or labels < train_images
    ]


def _batch_size(recipe: Recipe, labels: int, train_images: int) -> int:
    smaller = min(labels, round(recipe.batch_size * math.sqrt(labels / train_images)))
    return min(recipe.batch_size, max(_LEAST_BATCH, smaller))
