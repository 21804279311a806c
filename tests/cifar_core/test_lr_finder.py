"""LR range test: its suggestion, and that it leaves training unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from cifar_core import lr_finder
from cifar_core.data import Splits
from cifar_core.errors import OutOfMemory, UserError
from cifar_core.lr_finder import RangeTest, range_test, settle
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, train
from tests.cifar_core.support import FP32, synthetic

pytestmark = pytest.mark.usefixtures("global_generator_unused")

RECIPE = Recipe(
    model="five_conv", width=0.05, batch_size=32, epochs=2.0, optimizer="adam", momentum=0.9, weight_decay=0.0
)


@pytest.fixture(scope="module")
def data() -> Splits:
    return synthetic(256, 64)


@pytest.fixture(scope="module")
def found(data: Splits) -> RangeTest:
    return range_test(RECIPE, data, FP32, low=1e-5, high=10.0, steps=60)


def test_rates_rise_evenly_on_a_logarithmic_axis(found: RangeTest) -> None:
    logs = torch.tensor(found.rates, dtype=torch.float64).log()
    assert found.rates[0] == pytest.approx(1e-5)
    torch.testing.assert_close(logs.diff(), logs.diff()[:1].expand(len(logs) - 1))
    assert len(found.rates) == len(found.losses)
    assert found.rates[-1] <= 10.0


@pytest.mark.slow
def test_it_ends_when_the_loss_blows_up(data: Splits) -> None:
    recipe = replace(RECIPE, model="three_conv", width=0.25, optimizer="sgd")
    found = range_test(recipe, data, FP32, low=1e-3, high=1e3, steps=60)
    assert 10 < len(found.losses) < 60
    assert max(found.losses) <= 4 * min(found.losses)


def scripted(losses: Sequence[float], data: Splits, monkeypatch: pytest.MonkeyPatch) -> RangeTest:
    """The range test of a training with these losses."""
    left = iter(losses)
    monkeypatch.setattr(lr_finder, "train_step", lambda *_: (torch.tensor(next(left)), torch.tensor(0.5)))
    return range_test(RECIPE, data, FP32, steps=len(losses))


def test_noise_about_a_loss_that_never_falls_suggests_nothing(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        noise = 0.05 * torch.randn(200, generator=generator)
        with pytest.raises(UserError, match=r"^a range test must see the loss fall by more than its noise"):
            scripted((2.3 + noise).tolist(), data, monkeypatch)
        falling = 2.3 - 0.2 * torch.linspace(0, 1, 200) + noise
        assert scripted(falling.tolist(), data, monkeypatch).suggestion > 0.01


def test_a_loss_that_falls_in_the_first_steps_alone(data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"by more than its noise after 10 steps, but from 0\.01 to 10 it did not$"):
        scripted([3.0, 2.0, *(1.0 + 0.03 * step for step in range(98))], data, monkeypatch)


def test_noisy_first_steps_suggest_nothing_and_the_lowest_loss_tells_a_blow_up(
    data: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scripted([8.0] + [4.0] * 29 + [0.1] * 10 + [20.0] * 20, data, monkeypatch)
    assert found.suggestion == found.rates[30]
    assert len(found.losses) == 42, "1.5 at the lowest, and 6.5 after three steps with 20"


def test_images_that_do_not_fit_on_the_device_are_one_line(data: Splits) -> None:
    images = MagicMock(to=Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    images.__getitem__.side_effect = data.train.images.__getitem__
    with pytest.raises(OutOfMemory, match=r"^out of memory: the 256 training images did not fit beside the network \("):
        range_test(RECIPE, replace(data, train=replace(data.train, images=images)), FP32)


@pytest.mark.slow
def test_suggestion_trains_and_its_extremes_do_not(data: Splits, found: RangeTest) -> None:
    losses = {}
    for rate in (found.rates[0], found.suggestion, found.rates[-1]):
        state = TrainState.create(replace(RECIPE, learning_rate=rate), data, FP32)
        [last] = train(state, data, EvalSchedule((1.0,), {1.0: 64}))
        assert last.validation is not None
        losses[rate] = last.validation.loss
    assert min(losses, key=lambda rate: losses[rate]) == found.suggestion


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"average": "lookahead", "freeze_first": 0.5, "schedule": "one-cycle-linear", "warmup": 0.3},
        {"low_resolution": 0.5},
    ],
)
def test_same_seed_same_curve_whatever_only_a_whole_run_has(
    data: Splits, found: RangeTest, changes: dict[str, Any]
) -> None:
    assert range_test(replace(RECIPE, **changes), data, FP32, low=1e-5, high=10.0, steps=60) == found


@pytest.mark.slow
def test_rate_is_found_for_a_recipe_that_asks_for_it(data: Splits) -> None:
    assert settle(RECIPE, data, FP32) == (RECIPE, None)
    settled, found = settle(replace(RECIPE, learning_rate="range-test", model="three_conv", width=0.25), data, FP32)
    assert found is not None
    assert settled.learning_rate == found.suggestion
    assert 0.01 <= found.suggestion <= 10.0


def test_a_loss_that_blows_up_at_once(data: Splits) -> None:
    recipe = replace(RECIPE, optimizer="sgd")
    with pytest.raises(UserError, match=r"but from 1000 to 1000 it did not$"):
        range_test(recipe, data, FP32, low=1e3, high=1e6, steps=40)
