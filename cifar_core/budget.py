"""Compute budgets: the FLOPs of a training step, and the epochs that a budget buys."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError
from cifar_core.models import build_shapes
from cifar_core.optim import ScheduleValues, build_optimizers, set_schedule
from cifar_core.recipe import MOST_EPOCHS, Recipe

_RATE_EXPONENT = -0.3  # of the best rate by the length of a run, at one batch size
_RATE_PASSES = 12.0  # over the training images; more of them do not lower the best rate
_LARGEST_BATCH = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Length of a run: training FLOPs with a cap in epochs, or a fixed number of epochs."""

    flops: float | None  # training FLOPs: forward, backward and optimiser; None: only `max_epochs` counts
    max_epochs: float  # passes over the training images

    def apply(self, recipe: Recipe, train_images: int, data_set: DataSet) -> Recipe:
        """Return `recipe` with the epochs that this budget buys on `train_images` images.

        Raises:
            UserError: the budget does not cover two steps.
        """
        affordable = self._affordable(recipe, data_set)
        if (steps := self.steps(recipe, train_images, data_set)) < 2:
            epochs = f"{self.max_epochs:g} epochs over {train_images:,} images"
            budget = epochs if self.flops is None or steps < affordable else f"{self.flops:.3g} FLOPs"
            raise UserError(
                f"a budget must cover two training steps, but {budget} cover {steps:.2f} of {recipe.model} at batch "
                f"size {recipe.batch_size}"
            )
        if self.flops is None:
            return replace(recipe, epochs=float(self.max_epochs))
        return replace(recipe, epochs=min(int(affordable) * recipe.batch_size / train_images, float(self.max_epochs)))

    def steps(self, recipe: Recipe, train_images: int, data_set: DataSet) -> float:
        """Return the number of training steps that the budget covers on `train_images` images."""
        return min(self._affordable(recipe, data_set), self.max_epochs * train_images / recipe.batch_size)

    def _affordable(self, recipe: Recipe, data_set: DataSet) -> float:
        """Return the number of training steps that the FLOPs of the budget cover."""
        return math.inf if self.flops is None else self.flops / step_flops(recipe, data_set)

    def narrow(self, recipe: Recipe, data_set: DataSet) -> Recipe:
        """Halve the width of `recipe`, at most thrice, then its batch, until the budget covers two training steps.

        Where the cap in epochs covers fewer, or a batch is larger than the training set, only the batch is halved.

        Raises:
            RecipeError: the batch must be smaller, but the rate is to be found by a range test.
        """
        narrow = recipe
        while self._affordable(narrow, data_set) < 2 and narrow.width > recipe.width / 8:
            narrow = replace(narrow, width=narrow.width / 2)
        images = data_set.train_images
        while (self.steps(narrow, images, data_set) < 2 or narrow.batch_size > images) and narrow.batch_size > 2:
            narrow = _at_batch_size(narrow, max(2, narrow.batch_size // 2))
        return narrow

    def extend(self, recipe: Recipe, train_images: int, data_set: DataSet) -> Recipe:
        """Return `recipe`, which was tuned at another length, with the epochs, rate, decay and batch size for this one.

        Where norms are reset, the batch size goes with the root of the length: `python -m experiments.accuracy.lengths`
        measures it, and Zhang et al., "How does critical batch size scale in pre-training?" (2024) found that it grows
        with the number of examples for language models. Batches do not grow beyond 1,024 images, from where nothing
        was gained at any length, nor beyond `train_images`. `lengthen` does the rest.

        Raises:
            UserError: as for `apply`.
            RecipeError: norms are reset, but the rate is to be found by a range test.
        """
        longer = self.apply(recipe, train_images, data_set)
        if not recipe.reset_norms:
            return lengthen(recipe, longer.epochs)
        size = round(recipe.batch_size * math.sqrt(longer.epochs / recipe.epochs))
        largest = max(recipe.batch_size, min(_LARGEST_BATCH, train_images))
        grown = _at_batch_size(recipe, min(size, largest))
        return lengthen(grown, self.apply(grown, train_images, data_set).epochs)


def lengthen(recipe: Recipe, epochs: float) -> Recipe:
    """Return `recipe`, which was tuned at its own number of epochs, for another one at the same batch size.

    Where norms are reset, this is `at_length`. Elsewhere the effect of decay over a whole run is proportional to rate
    times decay times steps, so a run of n times the length needs 1/n of the decay (Wang & Aitchison, "How to set
    AdamW's weight decay as you scale model and dataset size", 2024).
    """
    if recipe.reset_norms:
        return at_length(recipe, epochs)
    return replace(recipe, epochs=epochs, weight_decay=recipe.weight_decay * recipe.epochs / epochs)


def at_length(recipe: Recipe, epochs: float) -> Recipe:
    """Return `recipe`, tuned at its own number of epochs, for another one.

    Where norms are reset, nothing but the learning rate sets how far a step goes, and the best one falls with the
    length of the run to the power of 0.3: `python -m experiments.accuracy.lengths` measures it, and Bjorck et al.,
    "Scaling optimal LR across token horizons" (2024) found 0.32 for language models. A run counts as 12 passes over its
    images at most, as more passes need no smaller rate: `python -m experiments.accuracy.passes` measures that. Rate
    times decay is held.
    """
    return _scaled(recipe, _counted(epochs) / _counted(recipe.epochs), epochs)


def from_reference(recipe: Recipe, epochs: float) -> Recipe:
    """Return `recipe`, the recipe of a point in a search space, for another number of epochs.

    Its epochs stand for the images of the reference run, which are all different, so they are not capped at 12 passes.
    """
    return _scaled(recipe, _counted(epochs) / recipe.epochs, epochs)


def to_reference(recipe: Recipe, epochs: float) -> Recipe:
    """Return the recipe of which `from_reference` makes `recipe`."""
    return _scaled(recipe, epochs / _counted(recipe.epochs), epochs)


def for_data_set(recipe: Recipe, images: float, data_set: DataSet) -> Recipe:
    """Return `recipe` with as many steps on `data_set` as it has on `images` images, in at most `MOST_EPOCHS`.

    Where norms are reset, the rate is that of the images that count, as in `at_length`.
    """
    epochs = min(MOST_EPOCHS, recipe.epochs * images / data_set.train_images)
    before, after = _counted(recipe.epochs) * images, _counted(epochs) * data_set.train_images
    return _scaled(recipe, after / before, epochs)


def _counted(epochs: float) -> float:
    return min(epochs, _RATE_PASSES)


def _scaled(recipe: Recipe, times: float, epochs: float) -> Recipe:
    """Return `recipe` with `epochs`, and where norms are reset with the rate for a length that is `times` as large."""
    if not recipe.reset_norms:
        return replace(recipe, epochs=epochs)
    factor = times**_RATE_EXPONENT
    rate, decay = recipe.peak_rate * factor, recipe.weight_decay / factor
    return replace(recipe, epochs=epochs, learning_rate=rate, weight_decay=decay)


def _at_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    """Return `recipe` for another batch size: the rate goes with its root, rate times decay with the size itself."""
    root = math.sqrt(batch_size / recipe.batch_size)
    rate, decay = recipe.peak_rate * root, recipe.weight_decay * root
    return replace(recipe, batch_size=batch_size, learning_rate=rate, weight_decay=decay)


def step_flops(recipe: Recipe, data_set: DataSet, *, until: float = 1.0) -> int:
    """Return the FLOPs of a training step: matrix products and convolutions, 2 per multiply-add.

    They are counted by definition, so they are the same on every machine: a faster algorithm saves time, not FLOPs.
    Steps at low resolution cost less, and so do those after the first layer is frozen; this is the mean over the run,
    or over its first `until`.

    Args:
        until: fraction of training in (0, 1].
    """
    network = (recipe.model, recipe.width, recipe.optimizer, recipe.orthogonalization)
    ends = sorted({min(end, until) for end in (recipe.low_resolution, recipe.freeze_first, until)})
    of_two_images = start = 0.0
    for end in ends:
        shown = replace(data_set, side=recipe.side_at(end, data_set.side))
        passes, update = _flops(*network, shown, frozen=start >= recipe.freeze_first)
        of_two_images += (end - start) / until * passes
        start = end
    return round(recipe.batch_size * of_two_images / 2) + update


def spent_share(recipe: Recipe, data_set: DataSet, fraction: float) -> float:
    """Return the share of the training FLOPs of a run that its first `fraction` takes."""
    return fraction * step_flops(recipe, data_set, until=fraction) / step_flops(recipe, data_set) if fraction else 0.0


@functools.cache
def _flops(
    model_name: str, width: float, optimizer_name: str, orthogonalization: str, data_set: DataSet, *, frozen: bool
) -> tuple[int, int]:
    """FLOPs of forward and backward on two images, as batch norm cannot train on one, and of an optimiser step.

    Args:
        frozen: whether the first layer is.
    """
    model = build_shapes(model_name, width, data_set)
    recipe = Recipe(model=model_name, width=width, optimizer=optimizer_name, orthogonalization=orthogonalization)
    optimizers = build_optimizers(model, replace(recipe, freeze_first=0.5))  # so that `set_schedule` can freeze it
    set_schedule(optimizers, ScheduleValues(1.0, first_rate=0.0 if frozen else 1.0))
    images = torch.empty(2, 3, data_set.side, data_set.side, device="meta")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as training:
        F.cross_entropy(model(images), labels).backward()
    with FlopCounterMode(display=False) as update:
        for optimizer in optimizers:
            optimizer.step()
    return training.get_total_flops(), update.get_total_flops()
