"""Metrics against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions, reliability

SEEDS = st.integers(0, 2**32)


def random_predictions(seed: int, count: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 10, generator=generator)
    return Predictions(logits.softmax(1), torch.randint(10, (count,), generator=generator))


def sure(pairs: list[tuple[int, int, float]]) -> Predictions:
    """One prediction for each (true class, predicted class, confidence); the rest is shared evenly."""
    probabilities = torch.stack([torch.full((10,), (1 - confidence) / 9) for _, _, confidence in pairs])
    for row, (_, predicted, confidence) in zip(probabilities, pairs, strict=True):
        row[predicted] = confidence
    return Predictions(probabilities, torch.tensor([true for true, _, _ in pairs]))


@given(seed=SEEDS, count=st.integers(1, 80))
def test_figures_agree_with_counting(seed: int, count: int) -> None:
    predictions = random_predictions(seed, count)
    pairs = list(zip(predictions.labels.tolist(), predictions.classes.tolist(), strict=True))

    def share(labels: Sequence[int]) -> Any:
        """Share of right predictions where one of `labels` is true."""
        hits = [true == predicted for true, predicted in pairs if true in labels]
        return pytest.approx(sum(hits) / len(hits) if hits else math.nan, nan_ok=True)

    assert predictions.accuracy == share(range(10))
    confusion = predictions.confusion()
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[pairs.count((row, column)) for column in range(10)] for row in range(10)]
    assert predictions.class_accuracy() == [share([label]) for label in range(10)]
    assert list(predictions.group_accuracy().items()) == [
        (group, share([CIFAR10.classes.index(name) for name in names])) for group, names in CIFAR10.groups
    ]
    expected = torch.nn.functional.cross_entropy(predictions.probabilities.log(), predictions.labels)
    assert predictions.loss == pytest.approx(expected.item(), rel=1e-4)


def test_loss_stays_finite_where_the_true_class_has_no_probability() -> None:
    wrong = Predictions(torch.eye(10)[:1], torch.tensor([1]))
    assert wrong.loss == pytest.approx(30 * math.log(10))


@given(seed=SEEDS, count=st.integers(1, 80), shown=st.integers(0, 100))
def test_confident_mistakes_are_mistakes_in_falling_confidence(seed: int, count: int, shown: int) -> None:
    predictions = random_predictions(seed, count)
    found = predictions.confident_mistakes(shown)
    wrong = predictions.classes != predictions.labels
    assert wrong[found].all()
    assert len(found) == len(set(found.tolist())) == min(shown, int(wrong.sum()))
    confidence = predictions.probabilities.amax(1)
    assert confidence[found].tolist() == sorted(confidence[wrong].tolist(), reverse=True)[:shown]


def test_equally_confident_mistakes_come_in_the_order_of_the_images() -> None:
    assert sure([(1, 2, 0.5), (4, 4, 0.9), *[(2, 1, 0.5)] * 100]).confident_mistakes(50).tolist() == [0, *range(2, 51)]


def test_limits_belong_to_the_lower_bin() -> None:
    assert reliability(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([True] * 3), bins=2).counts == (2, 1)


def test_reliability_of_six_answers() -> None:
    probability = torch.tensor([0.55, 0.59, 0.95, 1.0, 0.91, 0.09])
    right = torch.tensor([True, False, True, True, False, False])
    bins = reliability(probability, right, bins=10)
    assert bins.counts == (1, 0, 0, 0, 0, 2, 0, 0, 0, 3)
    assert bins.confidence[5] == pytest.approx(0.57)
    assert bins.accuracy[9] == pytest.approx(2 / 3)
    assert math.isnan(bins.accuracy[1])
    by_hand = (0.09 + 2 * abs(0.57 - 0.5) + 3 * abs(2.86 / 3 - 2 / 3)) / 6
    assert bins.ece == pytest.approx(by_hand)
    assert bins.mean_confidence == pytest.approx(probability.mean().item())
    assert bins.mean_accuracy == 0.5


@given(SEEDS, st.integers(1, 200), st.integers(1, 30))
def test_calibration_error_is_at_least_the_gap_of_the_means(seed: int, count: int, bins: int) -> None:
    predictions = random_predictions(seed, count)
    found = reliability(predictions.probabilities.amax(1), predictions.classes == predictions.labels, bins)
    assert sum(found.counts) == count
    gap = abs(found.mean_confidence - found.mean_accuracy)
    assert gap - 1e-9 <= found.ece <= 1
    assert found.mean_accuracy == pytest.approx(predictions.accuracy)


def test_calibration_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="calibration needs at least one prediction, but got none"):
        reliability(torch.tensor([]), torch.tensor([], dtype=torch.bool))


def test_balanced_accuracy_counts_each_class_the_same() -> None:
    own = replace(CIFAR10, classes=("a", "b", "c"), groups=())
    found = Predictions(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 0]), own)
    assert (found.accuracy, found.balanced_accuracy, found.even) == (0.75, 0.75, False)
    found = Predictions(torch.eye(3)[[0, 0, 0, 0, 1]], torch.tensor([0, 0, 0, 0, 1]), own)
    assert (found.accuracy, found.balanced_accuracy) == (1.0, 1.0)
    found = Predictions(torch.eye(3)[[0, 0, 0, 0, 0]], torch.tensor([0, 0, 0, 0, 1]), own)
    assert (found.accuracy, found.balanced_accuracy, found.even) == (0.8, 0.5, False)
    assert Predictions(torch.eye(3), torch.arange(3), own).even
