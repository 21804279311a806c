"""Training as a generator of progress, and evaluation.

    state = TrainState.create(recipe, data, hardware)
    for progress in train(state, data, points):
        ...                              # record, report, save; to stop, stop iterating

The state is complete at each yield, and after a step at which `stop` ended training. All that is drawn during training
comes from the state's generator, so neither reading the progress nor evaluating changes what is learned.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_core import averaging, cuda_graphs
from cifar_core.data import WHITENING_IMAGES, Split, Splits
from cifar_core.data.augment import augment, mix
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import Hardware
from cifar_core.memory import oom_context
from cifar_core.models import build_model
from cifar_core.models.layers import draw_from
from cifar_core.optim import ScheduleValues, build_optimizers, schedule, set_schedule
from cifar_core.recipe import Recipe

_EVALUATION_BATCH = 500
_AHEAD = 160  # small batches are drawn and augmented together, up to so many images
_FLIP_SEED = 0x666C6970  # keeps the alternating flips apart from the order of the images, which the seed draws as well


@dataclass(frozen=True, slots=True)
class EvalSchedule:
    """Points of a run at which it yields progress or validates; they never change what is learned.

    Attributes:
        losses: rising fractions of training in (0, 1], after which the training loss is yielded.
        validations: maps such a fraction to the largest number of validation images; at the end usually all.
    """

    losses: tuple[float, ...] = ()
    validations: Mapping[float, int] = field(default_factory=dict)

    def steps(self, total_steps: int) -> list[int]:
        """Return the steps of a run of `total_steps` at which it yields, rising."""
        return sorted({_step_at(fraction, total_steps) for fraction in (*self.losses, *self.validations)})

    def planned(self, point: Progress) -> float:
        """Return the first fraction in `validations` that falls on the step of `point`; at the end it is 1.

        In a run of few steps it differs from the fraction that is done.
        """
        total_steps = round(point.step / point.fraction)
        at = (fraction for fraction in self.validations if _step_at(fraction, total_steps) == point.step)
        return 1.0 if point.fraction == 1 else next(at)


def evenly(count: int) -> tuple[float, ...]:
    """Return `count` evenly spaced fractions of training; the last is its end."""
    return tuple(k / count for k in range(1, count + 1))


@dataclass(frozen=True, slots=True)
class Progress:
    """A point of a training run. Losses are means in nats, of training since the previous point; accuracies in [0, 1].

    `validation` is left out where a point goes to another process, but not its loss and accuracy.
    """

    step: int  # optimiser steps done
    fraction: float  # of training done
    epoch: float  # passes over the training images done
    train_loss: float
    train_accuracy: float  # on the augmented images
    learning_rate: float  # of the last step
    train_seconds: float  # so far, without validation and the caller's time
    validation_seconds: float
    validation: Predictions | None = None
    val_loss: float | None = None  # of `validation`, as is the accuracy
    val_accuracy: float | None = None


@dataclass(slots=True)
class TrainState:
    """Everything that changes during training."""

    recipe: Recipe
    data_set: DataSet
    hardware: Hardware
    model: nn.Module
    optimizers: list[Optimizer]
    generator: torch.Generator  # on the device; all that is drawn after the start comes from it
    total_steps: int
    order: Tensor  # indices of the training images left in this pass
    ahead: list[tuple[Tensor, Tensor]]  # the next batches, augmented and normalised, and their labels (N,)
    mirrored: Tensor  # bool (N,): training images that alternating flips mirror in even passes; empty without
    average: dict[str, Tensor]  # of the model's state, by name; empty if the recipe averages nothing
    loss_sum: Tensor  # scalar on the device: sum of the batches' mean losses since the last point
    right_sum: Tensor  # scalar on the device: sum of the batches' accuracies since the last point
    batches: int = 0  # since the last point
    step: int = 0
    train_seconds: float = 0.0  # so far, without validation and the caller's time
    validation_seconds: float = 0.0
    best_loss: float = math.inf  # lowest validation loss so far, if the recipe keeps the best weights
    best: dict[str, Tensor] = field(default_factory=dict)  # the model's state at that loss, on the CPU
    forward: Callable[[Tensor], Tensor] | None = None  # of the model in training, from the first step on
    side: int = 0  # pixels of the images of the last step

    @classmethod
    def create(cls, recipe: Recipe, data: Splits, hardware: Hardware) -> TrainState:
        """Create the initial state; equal recipes, data, hardware and thread counts give equal bits.

        Raises:
            RecipeError: unknown model, or a learning rate that is still "range-test".
        """
        data_set = data.train.data_set
        examples = normalise(data.train.images[:WHITENING_IMAGES].float() / 255, recipe.normalisation, data_set)
        model = hardware.place(build_model(recipe, examples, data_set=data_set))
        generator = torch.Generator(hardware.device)
        generator.manual_seed(recipe.seed)
        draw_from(model, generator)
        return cls(
            recipe=recipe,
            data_set=data_set,
            hardware=hardware,
            model=model,
            optimizers=build_optimizers(model, recipe, bf16=hardware.bf16),
            generator=generator,
            total_steps=total_steps(recipe, len(data.train)),
            order=torch.empty(0, dtype=torch.long, device=hardware.device),
            ahead=[],
            mirrored=_random_half(len(data.train) if recipe.alternate_flip else 0, recipe.seed).to(hardware.device),
            average={} if recipe.average == "none" else averaging.new_average(model),
            loss_sum=torch.zeros((), device=hardware.device),
            right_sum=torch.zeros((), device=hardware.device),
        )

    @property
    def moved_average(self) -> dict[str, Tensor]:
        """The average once it has moved; empty before, when it still has the initial weights."""
        return self.average if self.step >= min(averaging.EVERY, self.total_steps) else {}

    def take_means(self) -> tuple[float, float]:
        """Return the mean training loss and accuracy since the last point, and reset them; waits for the device."""
        means = self.loss_sum.item() / self.batches, self.right_sum.item() / self.batches
        self.loss_sum.zero_()
        self.right_sum.zero_()
        self.batches = 0
        return means


def take_batch(order: Tensor, size: int, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices (size,) of a batch, and the rest of `order`; batches may span two passes over the images.

    Args:
        order: indices that are left in this pass. Further passes are drawn from `generator`.
    """
    while len(order) < size:
        order = torch.cat([order, torch.randperm(images, generator=generator, device=generator.device)])
    return order[:size], order[size:]


def total_steps(recipe: Recipe, train_images: int) -> int:
    """Return the optimiser steps of a whole run, at least one."""
    return max(1, round(recipe.epochs * train_images / recipe.batch_size))


def train(
    state: TrainState, data: Splits, points: EvalSchedule, stop: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Train `state` to the end of its recipe, and yield progress at `points`.

    On a CPU a state that was saved at a yield resumes there with the same bits. Once the iteration is exhausted, the
    model holds the weights that the recipe keeps.

    Args:
        data: images uint8 (N, 3, side, side). They are moved to the device once.
        stop: called after each step but the last, after its yield if any. If it returns true, the iteration ends with
            `state.step < state.total_steps`; training resumes from there to the same later points.

    Raises:
        OutOfMemory: the training images or a batch did not fit into the memory of the device.
    """
    recipe, device = state.recipe, state.hardware.device
    with oom_context(f"the {len(data.train):,} training images", recipe):
        images, labels = data.train.images.to(device), data.train.labels.to(device)
    yields = set(points.steps(state.total_steps))
    # Of several on one step the last counts, which of those on the last step is the whole validation.
    validate = {_step_at(fraction, state.total_steps): count for fraction, count in points.validations.items()}
    state.model.train()
    started = time.perf_counter()
    while state.step < state.total_steps:
        values = schedule(recipe, _schedule_progress(state, len(images)))
        loss, right = train_step(state, images, labels, values)
        state.loss_sum += loss
        state.right_sum += right
        state.batches += 1
        if state.step in yields:
            mean_loss, mean_right = state.take_means()
            state.train_seconds += time.perf_counter() - started
            validation = None
            if state.step in validate:
                validation = _validate(state, data.val.head(validate[state.step]))
            yield Progress(
                step=state.step,
                fraction=state.step / state.total_steps,
                epoch=state.step * recipe.batch_size / len(images),
                train_loss=mean_loss,
                train_accuracy=mean_right,
                learning_rate=recipe.peak_rate * values.rate,
                train_seconds=state.train_seconds,
                validation_seconds=state.validation_seconds,
                validation=validation,
                val_loss=validation.loss if validation else None,
                val_accuracy=validation.accuracy if validation else None,
            )
            state.model.train()
            started = time.perf_counter()
        if state.step < state.total_steps and stop():
            state.loss_sum.item()  # waits for the device
            state.train_seconds += time.perf_counter() - started
            return
    keep_weights(state)


def keep_weights(state: TrainState) -> None:
    """Give the model the weights that the recipe keeps: the best ones, their average, or the last ones."""
    if state.best:
        state.model.load_state_dict(state.best)
    elif state.moved_average:
        averaging.copy_average(state.moved_average, state.model)


def train_step(state: TrainState, images: Tensor, labels: Tensor, values: ScheduleValues) -> tuple[Tensor, Tensor]:
    """Do one optimiser step on the next batch of `images` uint8 (N, 3, side, side) and `labels` (N,), on the device.

    Returns:
        mean loss in nats and accuracy of the batch, as scalars on the device.

    Raises:
        OutOfMemory: the batch did not fit into the memory of the device.
    """
    recipe, hardware = state.recipe, state.hardware
    with oom_context(f"a batch of {recipe.batch_size} images", recipe):
        if not state.ahead:
            state.ahead = _next_batches(state, images, labels)
        inputs, targets = state.ahead.pop(0)
        inputs = _resize(inputs, recipe.side_at((state.step + 1) / state.total_steps, state.data_set.side))
        if state.forward is None or state.side != inputs.shape[3]:
            state.forward, state.side = None, inputs.shape[3]  # frees the graph of another size
            set_schedule(state.optimizers, ScheduleValues(1.0, first_rate=1.0))  # a graph keeps what is frozen in it
            with hardware.kernels(deterministic=recipe.deterministic):
                state.forward = cuda_graphs.forward_of(state.model, tuple(inputs.shape), hardware)
        set_schedule(state.optimizers, values)
        if recipe.mix != "none":
            targets = F.one_hot(targets, len(state.data_set.classes)).float()
            inputs, targets = mix(inputs, targets, recipe, state.generator)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with hardware.kernels(deterministic=recipe.deterministic):
            with hardware.autocast():
                logits = state.forward(inputs).float()
                loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
            for optimizer in state.optimizers:
                optimizer.zero_grad()
            loss.backward()
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
            for optimizer in state.optimizers:
                optimizer.step()
    state.step += 1
    if state.average:
        _update_average(state)
    classes = targets if recipe.mix == "none" else targets.argmax(1)
    return loss.detach(), (logits.detach().argmax(1) == classes).float().mean()


def predict(
    model: nn.Module,
    split: Split,
    hardware: Hardware,
    normalisation: str = "dataset",
    *,
    tta: str = "none",
    side: int | None = None,
) -> Predictions:
    """Predict the class of each image of `split`; leaves the model in evaluation mode.

    Args:
        side: pixels to which the images are scaled first, in x and in y.
        tta: test-time augmentation: "none"; "mirror" averages the logits of an image and its mirror image;
            "mirror-shift" averages those with the mean of the image shifted by a pixel in x and y, either way, and of
            their mirror images: six views (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024).
    """
    _, averaged = _predict(model, split, hardware, normalisation, tta, side)
    return averaged


def evaluate(model: nn.Module, split: Split, hardware: Hardware, recipe: Recipe) -> tuple[Predictions, float | None]:
    """Return the predictions of `split`, and the accuracy with test-time augmentation if the recipe has it."""
    plain, averaged = _predict(model, split, hardware, recipe.normalisation, recipe.tta)
    return plain, None if recipe.tta == "none" else averaged.accuracy


@torch.no_grad()
def _predict(
    model: nn.Module, split: Split, hardware: Hardware, normalisation: str, tta: str, side: int | None = None
) -> tuple[Predictions, Predictions]:
    """Predict from the image alone, which is the first view, and from all views."""
    model.eval()
    probabilities: tuple[list[Tensor], list[Tensor]] = [], []  # on the device, which nothing waits for until the end
    for images in split.images.split(_EVALUATION_BATCH):
        inputs = normalise(images.to(hardware.device).float().div_(255), normalisation, split.data_set)
        inputs = _resize(inputs, side or inputs.shape[3])
        weights, views = zip(*_views(inputs, tta), strict=True)
        with hardware.autocast():
            logits = [model(view.contiguous(memory_format=torch.channels_last)).float() for view in views]
        mean = torch.stack([weight * of_view for weight, of_view in zip(weights, logits, strict=True)]).sum(0)
        for kept, chosen in zip(probabilities, (logits[0], mean), strict=True):
            kept.append(chosen.softmax(1))
    plain, averaged = (Predictions(torch.cat(kept).cpu(), split.labels.cpu(), split.data_set) for kept in probabilities)
    return plain, averaged


def _views(images: Tensor, tta: str) -> Iterator[tuple[float, Tensor]]:
    """Yield the views (N, 3, H, W) of test-time augmentation and their weights, which sum to 1."""
    if tta == "none":
        yield 1.0, images
        return
    shifted = []
    if tta == "mirror-shift":
        height, width = images.shape[2:]
        framed = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = [framed[:, :, :height, :width], framed[:, :, 2:, 2:]]
    centre = 0.25 if shifted else 0.5
    for weight, view in [(centre, images), *((0.125, view) for view in shifted)]:
        yield weight, view
        yield weight, view.flip(3)


def normalise(images: Tensor, normalisation: str = "dataset", data_set: DataSet = CIFAR10) -> Tensor:
    """Normalise images (N, 3, H, W) in [0, 1] by the data set's mean and standard deviation, or 0.5 for "half"."""
    mean, std = _statistics(normalisation, data_set, images.device)
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@functools.cache
def _statistics(normalisation: str, data_set: DataSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,), cached because a copy to the GPU at each step would wait for it."""
    mean, std = (data_set.mean, data_set.std) if normalisation == "dataset" else ((0.5,) * 3, (0.5,) * 3)
    with torch.inference_mode(False):  # else a gradient of images would fail after an inference
        return torch.tensor(mean, device=device), torch.tensor(std, device=device)


def _validate(state: TrainState, split: Split) -> Predictions:
    """Predict at the resolution of the last step, as the network knows no other yet."""
    started = time.perf_counter()
    average = state.moved_average
    averaged = averaging.in_place_of(average, state.model) if average else contextlib.nullcontext()
    with averaged, oom_context(f"a batch of {min(len(split), _EVALUATION_BATCH)} images", state.recipe):
        predictions = predict(state.model, split, state.hardware, state.recipe.normalisation, side=state.side)
        full = state.side == state.data_set.side  # losses of small images do not compare
        if state.recipe.keep_best and full and predictions.loss < state.best_loss:
            state.best_loss = predictions.loss
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in state.model.state_dict().items()}
    state.validation_seconds += time.perf_counter() - started
    return predictions


def _update_average(state: TrainState) -> None:
    moved = averaging.update_average(
        state.average, state.model, state.recipe.average_decay, state.step, state.total_steps
    )
    if moved and state.recipe.average == "lookahead":
        averaging.copy_average(state.average, state.model)


def _random_half(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed ^ _FLIP_SEED)
    return torch.rand(count, generator=generator) < 0.5


def _next_batches(state: TrainState, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Draw, augment and normalise the next batches: several small ones at once, as each operation takes its time."""
    recipe, size = state.recipe, state.recipe.batch_size
    count = max(1, min(_AHEAD // size, state.total_steps - state.step))
    batch, state.order = take_batch(state.order, count * size, len(images), state.generator)
    mirrored = _mirrored(state, batch, len(images)) if recipe.alternate_flip else None
    mean, _ = _statistics("dataset", state.data_set, state.hardware.device)
    inputs = augment(images[batch].float().div_(255), recipe, mean, state.generator, mirrored)
    inputs = normalise(inputs, recipe.normalisation, state.data_set)
    return list(zip(inputs.split(size), labels[batch].split(size), strict=True))


def _resize(images: Tensor, side: int) -> Tensor:
    if images.shape[3] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _mirrored(state: TrainState, batch: Tensor, images: int) -> Tensor:
    """Return which of the next images are to be mirrored, bool (N,); they may span two passes."""
    first = state.step * state.recipe.batch_size
    odd = (torch.arange(first, first + len(batch), device=batch.device) // images) % 2 == 1
    return state.mirrored[batch] ^ odd


def _schedule_progress(state: TrainState, images: int) -> float:
    if state.recipe.schedule_per_epoch:
        return state.step * state.recipe.batch_size // images / state.total_steps
    return (state.step + 0.5) / state.total_steps


def _step_at(fraction: float, steps: int) -> int:
    return max(1, round(fraction * steps))
