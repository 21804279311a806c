"""Training: it learns, evaluating changes nothing, and the same seed gives the same bits."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_core import cuda_graphs, training
from cifar_core.averaging import in_place_of
from cifar_core.checkpoint import load_weights, save_state
from cifar_core.data import Split, Splits
from cifar_core.data import augment as augmentation
from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions
from cifar_core.hardware import Hardware
from cifar_core.models import MODELS, build_model
from cifar_core.optim import schedule
from cifar_core.recipe import OPTIMIZERS, Recipe
from cifar_core.training import (
    EvalSchedule,
    Progress,
    TrainState,
    evaluate,
    evenly,
    normalise,
    predict,
    take_batch,
    total_steps,
    train,
)
from tests.cifar_core.support import DEVICES, FP32, PRECISIONS, identical, seeded, synthetic, weights

pytestmark = pytest.mark.usefixtures("global_generator_unused")

# 16 steps of 32 images: 4 passes over 128 images. Everything that draws at random is switched on.
SMALL = Recipe(
    model="fast_resnet",
    width=0.125,
    epochs=4.0,
    batch_size=32,
    optimizer="muon",
    learning_rate=0.2,
    momentum=0.6,
    weight_decay=0.02,
    cutout=8,
    color_jitter=0.2,
    mix="cutmix",
)
EASY = Recipe(width=0.125, batch_size=32, translate=0, flip=False)
END = EvalSchedule(validations={1.0: 10})

Undisturbed = Callable[[Recipe], dict[str, Tensor]]

AVERAGED = replace(SMALL, average="ema", alternate_flip=True, aux_optimizer="sgd", reset_norms=True, freeze_first=0.4)
various_recipes = pytest.mark.parametrize(
    "recipe",
    [SMALL, replace(SMALL, model="five_conv", epochs=1.0), AVERAGED, replace(SMALL, low_resolution=0.7)],
    ids=["plain", "dropout", "averaged", "low resolution"],
)


@pytest.fixture(scope="module")
def data() -> Splits:
    return synthetic(128, 128)


@pytest.fixture(scope="module")
def more_data() -> Splits:
    return synthetic(256, 128)


def run(
    recipe: Recipe, data: Splits, points: EvalSchedule = END, hardware: Hardware = FP32
) -> tuple[TrainState, list[Progress]]:
    state = TrainState.create(recipe, data, hardware)
    return state, list(train(state, data, points))


@pytest.fixture(scope="module")
def undisturbed(data: Splits) -> Undisturbed:
    """Final snapshot of an uninterrupted run, trained once per recipe."""
    return functools.cache(lambda recipe: snapshot(run(recipe, data)[0]))


def snapshot(state: TrainState) -> dict[str, Tensor]:
    """Weights, running statistics and randomness, as they are now."""
    return {**weights(state.model), "randomness": state.generator.get_state(), "order": state.order.clone()}


def validated(progress: Progress) -> Predictions:
    assert progress.validation is not None
    return progress.validation


# It learns


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hardware", DEVICES)
def test_loss_falls_and_classes_are_learned(more_data: Splits, hardware: Hardware, optimizer: str) -> None:
    rate, momentum, decay = {
        "sgd": (0.5, 0.9, 0.001),
        "adam": (0.01, 0.9, 0.0),
        "adamw": (0.01, 0.9, 0.05),
        "muon": (0.2, 0.6, 0.02),
        "ranger": (0.3, 0.9, 0.01),
    }[optimizer]
    recipe = replace(EASY, epochs=6.0, optimizer=optimizer, learning_rate=rate, momentum=momentum, weight_decay=decay)
    state, points = run(recipe, more_data, EvalSchedule(evenly(6), {1.0: 128}), hardware)
    assert points[-1].train_loss < 0.7 * points[0].train_loss
    assert points[-1].train_accuracy > 0.8 > points[0].train_accuracy
    assert validated(points[-1]).accuracy > 0.8
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network_learns(more_data: Splits, name: str) -> None:
    width = {"three_conv": 1.0, "block_cnn": 0.25, "dynamic_conv": 0.03}.get(name, 0.125)
    deep = name in ("block_cnn", "dynamic_conv")  # 18 layers, or 32 channels, in few steps
    recipe = replace(EASY, model=name, width=width, epochs=6.0 if deep else 4.0)
    recipe = replace(recipe, optimizer="adamw", momentum=0.9, weight_decay=0.01, label_smoothing=0.0)
    # Chosen with several seeds, so that rounding that differs between processors decides nothing.
    rate = {"three_conv": 0.003, "airbench": 0.03, "block_cnn": 0.002}.get(name, 0.01)
    least_fall, accuracy = (0.9, 0.25) if name == "dynamic_conv" else (0.7, 0.4)
    _, points = run(replace(recipe, learning_rate=rate), more_data, EvalSchedule(evenly(4), {1.0: 128}))
    assert points[-1].train_loss < least_fall * points[0].train_loss
    assert validated(points[-1]).accuracy > accuracy


# 3 steps of a network whose initial weights do not depend on the images.
SHORT = replace(SMALL, model="five_conv", width=0.05, epochs=0.75)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing", 0.0),
        ("mix", "none"),
        ("mix_alpha", 5.0),
        ("normalisation", "half"),
        ("bn_momentum", 0.1),
        ("clip_norm", 1e-3),
        ("orthogonalization", "polar-express"),
        ("aux_momentum", 0.5),
        ("momentum", 0.9),
    ],
)
def test_a_field_changes_what_is_learned(data: Splits, name: str, value: Any) -> None:
    plain, other = (run(recipe, data)[0].model for recipe in (SHORT, replace(SHORT, **{name: value})))
    assert not identical(weights(plain), weights(other))


def test_training_begins_with_a_first_layer_that_whitens_the_images(data: Splits) -> None:
    expected = build_model(SMALL, normalise(data.train.images.float() / 255))
    assert identical(weights(TrainState.create(SMALL, data, FP32).model), weights(expected))


def test_images_can_have_gradients_after_an_inference(data: Splits) -> None:
    images = data.val.images[:2].float()
    fresh = replace(data.train.data_set, mean=(0.1, 0.2, 0.3))  # so that nothing is cached
    with torch.inference_mode():
        normalise(images, data_set=fresh)
    images.requires_grad_()
    normalise(images, data_set=fresh).sum().backward()
    assert images.grad is not None


def test_images_are_validated_as_they_are_trained_on(data: Splits) -> None:
    state, [point] = run(replace(SHORT, normalisation="half"), data)
    expected = predict(state.model, data.val.head(10), FP32, "half")
    assert torch.equal(validated(point).probabilities, expected.probabilities)


def test_images_are_small_at_low_resolution_and_are_validated_so(data: Splits) -> None:
    state = TrainState.create(replace(SMALL, low_resolution=0.4), data, FP32)
    sides: dict[bool, list[int]] = {True: [], False: []}
    state.model.register_forward_hook(lambda model, given, _: sides[model.training].append(given[0].shape[3]))
    points = list(train(state, data, EvalSchedule(validations={0.25: 10, 0.5: 10, 1.0: 10})))
    assert sides == {True: [24] * 6 + [32] * 10, False: [24, 32, 32]}
    expected = predict(state.model, data.val.head(10), FP32)
    assert torch.equal(validated(points[-1]).probabilities, expected.probabilities)


def test_the_last_step_is_at_full_size(data: Splits) -> None:
    state, _ = run(replace(SHORT, epochs=0.5, low_resolution=0.99), data)
    assert (state.total_steps, state.side) == (2, 32)


def test_weights_of_low_resolution_are_not_kept_as_the_best(data: Splits) -> None:
    state = TrainState.create(replace(SMALL, keep_best=True, low_resolution=0.5), data, FP32)
    points = train(state, data, EvalSchedule(validations={0.5: 10, 1.0: 10}))
    assert validated(next(points)).loss < math.inf
    assert not state.best
    assert validated(next(points)).loss == state.best_loss


def test_no_layer_is_frozen_where_a_graph_captures_the_passes(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    # In its first pass over the images the rate of the first layer is 0, so that it is frozen for the time being.
    recipe = replace(SMALL, model="five_conv", width=0.05, low_resolution=0.15, warmup=0.3, schedule_per_epoch=True)
    captured = []

    def forward_of(model: nn.Module, shape: tuple[int, ...], _: Hardware) -> nn.Module:
        captured.append((shape[3], all(weight.requires_grad for weight in model.parameters())))
        return model

    monkeypatch.setattr(cuda_graphs, "forward_of", forward_of)
    run(replace(recipe, freeze_first=0.9), data)
    assert captured == [(24, True), (32, True)]


def test_loss_that_is_not_finite_is_reported_not_raised(data: Splits) -> None:
    _, points = run(replace(SMALL, optimizer="sgd", learning_rate=1e30), data, EvalSchedule(evenly(4), {1.0: 10}))
    assert not math.isfinite(points[-1].train_loss)
    assert points[-1].fraction == 1.0
    assert math.isnan(validated(points[-1]).loss)


def test_gradients_are_clipped_as_a_whole(data: Splits) -> None:
    recipe = replace(SMALL, optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0, epochs=0.25)
    moved = {}
    for norm in (0.0, 0.5):
        state = TrainState.create(replace(recipe, clip_norm=norm, schedule="constant"), data, FP32)
        before = [parameter.detach().clone() for parameter in state.model.parameters()]
        list(train(state, data, END))
        steps = [(a - b).flatten() for a, b in zip(before, state.model.parameters(), strict=True)]
        moved[norm] = torch.cat(steps).norm().item()
    assert moved[0.5] == pytest.approx(0.5, rel=1e-3)
    assert moved[0.0] > 0.6


def test_a_schedule_laid_out_in_steps_that_moves_on_once_an_epoch(data: Splits) -> None:
    recipe = replace(SMALL, learning_rate=0.1, schedule="one-cycle-linear", warmup=0.5, schedule_per_epoch=True)
    _, points = run(recipe, data, EvalSchedule(evenly(16)))
    # 16 steps, so the peak would be at step 8: epochs 0 to 3 stand at steps 0 to 3 of the way up.
    rates = [0.1 * (0.04 + epoch / 8 * 0.96) for epoch in range(4) for _ in range(4)]
    assert [point.learning_rate for point in points] == pytest.approx(rates)


@pytest.mark.slow
def test_the_best_weights_are_kept_where_the_recipe_says_so(data: Splits) -> None:
    # The rate rises all the way to a ruinous one, so that the last weights are not the best.
    recipe = replace(SMALL, optimizer="sgd", learning_rate=8.0, warmup=0.99, bn_momentum=1.0, epochs=3.0)
    watch = EvalSchedule(validations=dict.fromkeys(evenly(6), 128))
    kept, points = run(replace(recipe, keep_best=True), data, watch)
    last, _ = run(recipe, data, watch)
    losses = [validated(point).loss for point in points]
    assert min(losses) < losses[-1]
    assert predict(kept.model, data.val, FP32).loss == min(losses) == kept.best_loss
    assert predict(last.model, data.val, FP32).loss == losses[-1]


@pytest.mark.slow
def test_only_deterministic_kernels_are_used_where_the_recipe_says_so(data: Splits, undisturbed: Undisturbed) -> None:
    deterministic: Any = torch.utils.deterministic

    def settings() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory

    seen = []
    state = TrainState.create(replace(SMALL, deterministic=True), data, FP32)
    state.model.register_forward_hook(lambda *_: seen.append(settings()))
    list(train(state, data, EvalSchedule()))
    assert seen == [(True, False)] * 16
    assert settings() == (False, True)
    assert identical(snapshot(state), undisturbed(SMALL))  # on a CPU all kernels are deterministic


# Same bits


@pytest.mark.slow
@various_recipes
@pytest.mark.parametrize("hardware", PRECISIONS)
def test_seed_decides_every_bit(data: Splits, hardware: Hardware, recipe: Recipe) -> None:
    (one, points), (same, same_points) = (run(recipe, data, hardware=hardware) for _ in range(2))
    other, _ = run(replace(recipe, seed=1), data, hardware=hardware)
    assert identical(snapshot(one), snapshot(same))
    assert not identical(snapshot(one), snapshot(other))
    assert points[-1].train_loss == same_points[-1].train_loss
    assert torch.equal(validated(points[-1]).probabilities, validated(same_points[-1]).probabilities)


@pytest.mark.slow
@various_recipes
@pytest.mark.parametrize(
    "points",
    [
        EvalSchedule(),
        EvalSchedule(evenly(16)),
        EvalSchedule(evenly(5), {0.1: 128, 0.3: 20, 0.5: 10, 1.0: 128}),
    ],
    ids=["unseen", "losses", "validations"],
)
def test_eval_schedule_does_not_change_training(
    data: Splits, undisturbed: Undisturbed, recipe: Recipe, points: EvalSchedule
) -> None:
    state, _ = run(recipe, data, points)
    assert identical(snapshot(state), undisturbed(recipe))


@various_recipes
def test_state_at_a_yield_is_complete(data: Splits, undisturbed: Undisturbed, recipe: Recipe) -> None:
    state = TrainState.create(recipe, data, FP32)
    for progress in train(state, data, EvalSchedule(evenly(4), {0.5: 10})):
        assert torch.is_grad_enabled()  # also for the caller
        if progress.fraction >= 0.5:
            break
    assert state.step == progress.step == state.total_steps // 2
    stopped = snapshot(state)
    with in_place_of(state.average, state.model):
        predictions = predict(state.model, data.val.head(10), FP32, side=state.side)
        assert torch.equal(predictions.probabilities, validated(progress).probabilities)
    assert identical(snapshot(state), stopped)
    assert not identical(stopped, undisturbed(recipe))  # no step is done ahead of its yield
    assert [progress.fraction for progress in train(state, data, END)] == [1.0]
    assert list(train(state, data, END)) == []
    assert identical(snapshot(state), undisturbed(recipe))


# Alternating flips


def test_each_image_is_mirrored_in_every_other_pass(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(SMALL, alternate_flip=True, epochs=4.0, batch_size=48)  # batches span two passes
    state, drawn = TrainState.create(recipe, data, FP32), []
    flip = augmentation.flip

    def spy(images: Tensor, mirrored: Tensor) -> Tensor:
        drawn.extend(mirrored.tolist())
        return flip(images, mirrored)

    monkeypatch.setattr(augmentation, "flip", spy)
    order: list[int] = []
    monkeypatch.setattr(training, "take_batch", lambda *given: note(take_batch(*given), order))
    list(train(state, data, EvalSchedule()))
    passes = [dict(zip(order[i : i + 128], drawn[i : i + 128], strict=True)) for i in range(0, 4 * 128 - 48, 128)]
    first, *others = passes
    assert 32 < sum(first.values()) < 96
    for number, later in enumerate(others, start=1):
        assert all(later[image] == mirrored ^ (number % 2 == 1) for image, mirrored in first.items() if image in later)


def note(taken: tuple[Tensor, Tensor], order: list[int]) -> tuple[Tensor, Tensor]:
    order.extend(taken[0].tolist())
    return taken


# Small batches


def test_small_batches_are_drawn_and_augmented_several_at_once(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented: list[int] = []
    augment = augmentation.augment

    def spy(images: Tensor, *others: Any) -> Tensor:
        augmented.append(len(images))
        return augment(images, *others)

    monkeypatch.setattr(training, "augment", spy)
    for batch_size, expected in ((20, [160, 160, 60]), (80, [160, 160, 80]), (81, [81] * 5)):
        state, _ = run(replace(SHORT, batch_size=batch_size, epochs=3.0), data, EvalSchedule())
        assert augmented[: len(expected)] == expected, batch_size
        assert sum(augmented) == state.total_steps * batch_size
        augmented.clear()


# Averages of the weights


@pytest.mark.slow
@pytest.mark.parametrize("average", ["ema", "lookahead"])
@pytest.mark.parametrize("keep_best", [False, True])
def test_the_average_is_validated_and_kept(data: Splits, tmp_path: Path, average: str, keep_best: bool) -> None:
    recipe = replace(SMALL, average=average, average_decay=0.9, keep_best=keep_best)
    state = TrainState.create(recipe, data, FP32)
    probabilities, losses = [], []
    for progress in train(state, data, EvalSchedule(validations=dict.fromkeys(evenly(8), 128))):
        probabilities.append(validated(progress).probabilities)
        losses.append(validated(progress).loss)
        raw = predict(state.model, data.val, FP32).probabilities
        is_raw = progress.step < 5 or (average == "lookahead" and progress.step in (10, 16))  # the first move is at 5
        assert torch.equal(raw, probabilities[-1]) == is_raw
        save_state(state, tmp_path / "state")
        best = losses.index(min(losses)) if keep_best else -1
        loaded = predict(load_weights(recipe, tmp_path / "state"), data.val, FP32).probabilities
        assert torch.equal(loaded, probabilities[best])
    assert torch.equal(predict(state.model, data.val, FP32).probabilities, probabilities[best])


def test_an_average_beside_the_weights_does_not_change_what_is_learned(data: Splits) -> None:
    states = [TrainState.create(recipe, data, FP32) for recipe in (SMALL, replace(SMALL, average="ema"))]
    for state in states:
        next(train(state, data, EvalSchedule((0.5,))))
    assert identical(*(state.model.state_dict() for state in states))


# The order of the images


@given(batch_size=st.integers(2, 70), images=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_every_image_is_seen_once_in_every_pass(batch_size: int, images: int, seed: int) -> None:
    generator, order, batches = seeded(seed), torch.empty(0, dtype=torch.long), []
    for _ in range(math.ceil(3 * images / batch_size)):
        batch, order = take_batch(order, batch_size, images, generator)
        batches.append(batch)
    assert {len(batch) for batch in batches} == {batch_size}
    visits = torch.cat(batches)
    passes = [visits[k * images : (k + 1) * images].tolist() for k in range(3)]
    assert all(sorted(visited) == list(range(images)) for visited in passes)
    assert images < 10 or passes[0] != passes[1] != passes[2]


@given(epochs=st.floats(0, 100, exclude_min=True), batch_size=st.integers(2, 1_000), images=st.integers(1, 50_000))
def test_run_is_as_long_as_its_epochs_to_the_nearest_step(epochs: float, batch_size: int, images: int) -> None:
    steps = total_steps(replace(SMALL, epochs=epochs, batch_size=batch_size), images)
    assert steps == 1 or abs(steps * batch_size - epochs * images) <= batch_size / 2 + 1e-6


# What is shown


@given(losses=st.integers(1, 40), total=st.integers(1, 100))
def test_points_of_the_curve_are_even(losses: int, total: int) -> None:
    steps = EvalSchedule(evenly(losses)).steps(total)
    assert len(steps) == min(losses, total)
    assert steps[-1] == total
    gaps = [after - before for before, after in pairwise([0, *steps])]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_fields_of_progress_agree(data: Splits) -> None:
    validations = {0.25: 20, 0.6: 31, 1.0: 128}
    _, points = run(SMALL, data, EvalSchedule(evenly(4), validations))
    assert [point.step for point in points] == [4, 8, 10, 12, 16]
    for point in points:
        assert point.fraction == point.step / 16
        assert point.epoch == point.step * 32 / 128
        assert point.learning_rate == SMALL.peak_rate * schedule(SMALL, (point.step - 0.5) / 16).rate
        assert 0 < point.train_loss < 10
        assert 0 <= point.train_accuracy <= 1
    assert points[-1].fraction == 1.0
    assert points[-1].epoch == SMALL.epochs
    for earlier, later in pairwise(points):
        assert earlier.train_seconds < later.train_seconds
        assert earlier.validation_seconds <= later.validation_seconds
    met = {point.step: point.validation for point in points if point.validation is not None}
    assert list(met) == [4, 10, 16]
    for predictions, count in zip(met.values(), validations.values(), strict=True):
        assert len(predictions) == count
        assert torch.equal(predictions.labels, data.val.labels[:count])


@pytest.mark.slow
def test_loss_is_the_mean_since_the_point_before(data: Splits) -> None:
    fine = [point.train_loss for point in run(SMALL, data, EvalSchedule(evenly(16)))[1]]
    coarse = [point.train_loss for point in run(SMALL, data, EvalSchedule(evenly(4)))[1]]
    assert coarse == pytest.approx([sum(fine[k : k + 4]) / 4 for k in range(0, 16, 4)], rel=1e-5)


@pytest.mark.slow
def test_time_of_the_caller_is_not_counted(data: Splits) -> None:
    state = TrainState.create(SMALL, data, FP32)
    started = time.perf_counter()
    for progress in train(state, data, EvalSchedule(evenly(4), {1.0: 10})):  # noqa: B007
        time.sleep(0.1)
    passed = time.perf_counter() - started
    assert progress.validation_seconds > 0
    assert progress.train_seconds + progress.validation_seconds < passed - 0.4 + 0.01


# Evaluation


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hardware", PRECISIONS)
def test_evaluation_changes_nothing_and_repeats(data: Splits, hardware: Hardware, name: str) -> None:
    width = 0.05 if name == "dynamic_conv" else 0.25
    model = hardware.place(build_model(Recipe(model=name, width=width))).train()
    before = weights(model)
    first, second = (predict(model, data.val.head(50), hardware) for _ in range(2))
    assert identical(before, model.state_dict())
    assert not model.training
    assert torch.equal(first.probabilities, second.probabilities)
    assert first.probabilities.shape == (50, 10)
    assert first.probabilities.dtype == torch.float32
    torch.testing.assert_close(first.probabilities.sum(1), torch.ones(50))


def test_evaluation_keeps_the_order_over_several_batches() -> None:
    class Reader(torch.nn.Module):
        """Predict the class that the red plane of the image encodes."""

        def forward(self, images: Tensor) -> Tensor:
            red = (images[:, 0, 0, 0] * CIFAR10.std[0] + CIFAR10.mean[0]) * 255
            return 1_000 * torch.nn.functional.one_hot(red.round().long(), 10).float()

    labels = torch.randint(10, (1_234,), generator=seeded())
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    predictions = predict(Reader(), Split(images, labels), FP32)
    assert predictions.accuracy == 1.0
    assert torch.equal(predictions.labels, labels)


class Corners(torch.nn.Module):
    """Logits: the two upper corners of the red plane, then zeros."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.pad(images[:, 0, 0, [0, -1]], (0, 8))


@pytest.mark.parametrize("tta", ["none", "mirror", "mirror-shift"])
def test_views_of_test_time_augmentation(tta: str) -> None:
    images = torch.randint(256, (20, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    red = normalise(images.float() / 255)[:, 0]
    corners = {
        "none": [(1.0, red[:, 0, [0, -1]])],
        "mirror": [(0.5, red[:, 0, [0, -1]]), (0.5, red[:, 0, [-1, 0]])],
        "mirror-shift": [
            *((0.25, red[:, 0, columns]) for columns in ([0, -1], [-1, 0])),
            *((0.125, red[:, 1, columns]) for columns in ([1, -2], [-2, 1])),  # mirrored at the upper edge
            *((0.125, red[:, 1, columns]) for columns in ([1, -2], [-2, 1])),
        ],
    }[tta]
    logits = torch.stack([share * corner for share, corner in corners]).sum(0)
    expected = torch.nn.functional.pad(logits, (0, 8)).softmax(1)
    predictions = predict(Corners(), Split(images, torch.zeros(20, dtype=torch.long)), FP32, tta=tta)
    torch.testing.assert_close(predictions.probabilities, expected)


def test_an_evaluation_has_plain_predictions_and_accuracy_with_augmentation() -> None:
    own = replace(CIFAR10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(256, (20, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    split = Split(images, torch.arange(20) % 2, own)
    plain, accuracy = evaluate(Corners(), split, FP32, Recipe(tta="mirror"))
    red = (images[:, 0, 0, [0, -1]] / 255 - 0.1) / 0.5
    torch.testing.assert_close(plain.probabilities, torch.nn.functional.pad(red, (0, 8)).softmax(1))
    assert accuracy == predict(Corners(), split, FP32, tta="mirror").accuracy != plain.accuracy
    assert evaluate(Corners(), split, FP32, Recipe())[1] is None


@pytest.mark.parametrize(
    ("normalisation", "mean", "std"), [("dataset", CIFAR10.mean, CIFAR10.std), ("half", (0.5,) * 3, (0.5,) * 3)]
)
def test_normalised_images_have_mean_zero_and_unit_variance(
    normalisation: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    signs = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    images = (torch.tensor(mean).view(3, 1, 1) + signs * torch.tensor(std).view(3, 1, 1)).expand(2, 3, 4, 5)
    torch.testing.assert_close(normalise(images, normalisation), signs.expand(2, 3, 4, 5))
