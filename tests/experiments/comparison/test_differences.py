"""Differences between groups, and the rule that decides on each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.comparison.differences import (
    METRICS,
    Comparison,
    Difference,
    NotPaired,
    compare,
    image_by_image,
    regressions,
)
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.support import known


def found(comparison: Comparison, key: str, at: int = 0) -> Difference:
    metric = next(m for m in METRICS if m.key == key)
    return known(compare(metric, comparison.others[at], comparison.reference))


def with_run(comparison: Comparison, **changes: Any) -> Comparison:
    """Change the second group's run."""
    first, second = comparison.groups
    return replace(comparison, groups=(first, replace(second, runs=(replace(second.runs[0], **changes),))))


def scaled(comparison: Comparison, key: str, factor: float) -> Comparison:
    metrics = comparison.groups[1].runs[0].metrics
    return with_run(comparison, metrics={**metrics, key: factor * metrics[key]})


def test_single_runs_with_stored_answers_are_compared_image_by_image(pair: Comparison) -> None:
    test = image_by_image(pair.others[0], pair.reference)
    assert (test.first, test.second, test.both, test.neither) == (120, 0, 800, 80)
    assert found(pair, "test/accuracy") == Difference("worse", test.difference, "McNemar", test.p)
    cats = image_by_image(pair.others[0], pair.reference, "cat")
    assert (cats.first, cats.images) == (12, 100)


def test_a_difference_within_chance_is_not_significant(chosen: Chosen) -> None:
    difference = found(chosen("good", "level"), "test/accuracy")
    assert (difference.outcome, difference.test, difference.value) == ("not significant", "McNemar", 0.0)


def test_several_runs_are_compared_over_images_and_seeds(chosen: Chosen) -> None:
    comparison = chosen("twice", "again")
    accuracy = found(comparison, "test/accuracy")
    groups = tuple(
        replace(group, runs=tuple(replace(r, metrics={"test/loss": loss + i / 100}) for i, r in enumerate(group.runs)))
        for group, loss in zip(comparison.groups, (0.3, 0.4), strict=True)
    )
    loss = found(Comparison(groups, groups[0], baseline=False), "test/loss")
    assert (accuracy.outcome, accuracy.p) == ("worse", None)
    assert known(accuracy.interval)[1] < 0
    assert (loss.outcome, loss.test) == ("worse", "Welch")


def test_an_unknown_difference_has_a_reason(chosen: Chosen) -> None:
    tested, validated = chosen("good", "searched", "level"), chosen("searched", "good/trial-1")
    reasons = [found(tested, *at).reason for at in (("test/accuracy", 0), ("val/accuracy", 0), ("test/loss", 1))]
    assert reasons == ["not measured for searched", "not measured for good", "needs two seeds on both sides"]
    assert found(validated, "val/accuracy").reason == "good/trial-1 is not complete"
    with pytest.raises(NotPaired, match="none of searched, which was not tested"):
        image_by_image(tested.others[0], tested.reference)
    with pytest.raises(NotPaired, match="not stored for level"):
        image_by_image(with_run(chosen("good", "level"), answers=None).others[0], tested.reference)


def test_seeds_without_spread_prove_no_difference(chosen: Chosen) -> None:
    comparison = chosen("twice", "again")
    groups = tuple(
        replace(group, runs=tuple(replace(run, metrics={"test/loss": loss}) for run in group.runs))
        for group, loss in zip(comparison.groups, (0.3, 0.4), strict=True)
    )
    assert found(Comparison(groups, groups[0], baseline=False), "test/loss").reason == "no spread over seeds"


def test_answers_to_different_images_are_not_paired(pair: Comparison) -> None:
    answers = known(pair.groups[1].runs[0].answers)
    changed = with_run(pair, answers=replace(answers, true=answers.true[::-1]))
    with pytest.raises(NotPaired, match="bad and good were tested on different images"):
        image_by_image(changed.groups[1], changed.reference)
    with pytest.raises(NotPaired, match="not stored for horses"):
        image_by_image(pair.groups[1], pair.reference, "horses")


@pytest.mark.parametrize(
    ("key", "factor", "outcome"),
    [
        ("cost/seconds", 1.09, "not significant"),
        ("cost/seconds", 1.2, "worse"),
        ("cost/seconds", 0.8, "better"),
        ("cost/images_per_second", 0.8, "worse"),
        ("cost/training_flops", 1.005, "not significant"),
        ("cost/training_flops", 1.05, "worse"),
    ],
)
def test_costs_differ_beyond_a_tolerance(chosen: Chosen, key: str, factor: float, outcome: str) -> None:
    difference = found(scaled(chosen("good", "bad"), key, factor), key)
    assert difference.outcome == outcome
    assert difference.value == pytest.approx(factor - 1)


def test_epochs_and_times_on_other_hardware_are_not_compared(pair: Comparison) -> None:
    assert compare(METRICS[-1], pair.others[0], pair.reference) is None
    moved = with_run(pair, conditions={**pair.groups[1].runs[0].conditions, "threads": "8"})
    assert found(moved, "cost/seconds") == Difference("unknown", reason="another number of threads")
    assert found(moved, "cost/training_flops").outcome == "not significant"


def test_regressions_are_the_metrics_that_got_worse_than_the_marked_baseline(chosen: Chosen) -> None:
    comparison = scaled(chosen("good", "level", baseline="good"), "cost/seconds", 2)
    assert [metric.key for metric in regressions(comparison, comparison.others[0])] == ["cost/seconds"]
    assert comparison.titles == ("good (baseline)", "level")


def test_without_confusion_matrices_the_images_are_counted_by_the_data_set(chosen: Chosen) -> None:
    few = replace(CIFAR10, val_images=40, test_images=80)
    for name, split, images in (("searched", "val", 40), ("bad", "test", 80)):
        group = with_run(chosen("good", name), images={}, data_set=few).groups[1]
        assert known(group.estimate(f"{split}/accuracy")).images == images


def test_accuracies_on_other_data_are_not_compared(chosen: Chosen, pair: Comparison) -> None:
    conditions = {**pair.groups[1].runs[0].conditions, "data_sha256": "cd" * 32}
    others = with_run(pair, conditions=conditions)
    validated = with_run(chosen("good/confirm-2-0", "searched"), conditions=conditions)
    for comparison, key in ((validated, "val/accuracy"), (others, "test/accuracy"), (others, "test/loss")):
        assert found(comparison, key) == Difference("unknown", reason="another data set")
    assert found(others, "cost/training_flops").outcome != "unknown"
    with pytest.raises(NotPaired, match="another data set"):
        image_by_image(others.others[0], others.reference)


def test_what_is_not_recorded_is_not_taken_for_the_same(pair: Comparison) -> None:
    groups = tuple(
        replace(group, runs=tuple(replace(r, conditions={}) for r in group.runs)) if group.name == "good" else group
        for group in pair.groups
    )
    bare = Comparison((*groups, replace(groups[1], name="third")), groups[0], baseline=False)
    assert not bare.is_of_same_data
    assert groups[0].estimate("test/accuracy") is None
    for key in ("test/accuracy", "test/loss"):
        assert found(bare, key) == Difference("unknown", reason="the data set of good is not recorded")
    with pytest.raises(NotPaired, match="the data set of good is not recorded"):
        image_by_image(groups[1], groups[0])
    alone = Comparison((groups[0], replace(groups[0], name="other")), groups[0], baseline=False)
    assert found(alone, "cost/seconds") == Difference("unknown", reason="the device of other is not recorded")
    assert found(alone, "cost/training_flops").outcome == "not significant"
