"""Each sentence is held against numbers on both sides of the rule that picks it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cifar_core.evaluation.metrics import Reliability
from experiments.decision.measures import Measures
from experiments.pages.text import CitedText, percent
from experiments.sections.accuracy import Calibration, ClassAccuracy
from experiments.sections.heads import bar_sentence, customisation, heads_of, learning, performance
from experiments.sections.learned import Architecture
from experiments.stats import Estimate

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


def with_test(m: Measures, mean: float, half: float = 0.001) -> Measures:
    return replace(m, test=Estimate(mean, mean - half, mean + half, ("r" * 32,), 10_000))


def said(sentences: Iterable[CitedText]) -> str:
    return " ".join(s.text for s in sentences)


def test_every_sentence_has_a_trace(demo: Measures) -> None:
    for m in (demo, with_test(demo, 0.4), replace(demo, test=None)):
        assert all(sentence.sources for head in heads_of(m) for sentence in head.sentences)


# ------------------------------------------------------------------ performance


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (0.71, 0.01, "clears the 70 % target; the whole 95 % interval"),
        (0.70, 0.01, "meets the 70 % target, but its 95 % interval"),
        (0.6999, 0.01, "misses the 70 % target, though its 95 % interval"),
        (0.6, 0.01, "being over 50 %, it is a start"),
        (0.5001, 0.01, "being over 50 %, it is a start"),
        (0.50, 0.01, "is not over the 50 % that counts as a start"),
        (0.45, 0.01, "is not over the 50 % that counts as a start"),
        (0.4499, 0.01, "needs work on architecture, loss and optimiser"),
    ],
)
def test_the_bar_is_read_as_published(demo: Measures, mean: float, half: float, words: str) -> None:
    assert words in bar_sentence(with_test(demo, mean, half)).text


def test_without_a_test_only_validation_is_said_and_that_it_flatters(demo: Measures) -> None:
    sentences = performance(replace(demo, test=None))
    assert len(sentences) == 1
    assert "cannot be said yet" in sentences[0].text
    assert "the figure flatters" in sentences[0].text


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (0.90, "5.48 points more accurate than the published five_conv network (84.52 %"),
        (0.846, "cannot be told from the published five_conv network"),
        (0.80, "4.52 points less accurate than the published five_conv network"),
    ],
)
def test_five_conv_is_compared_within_chance(demo: Measures, mean: float, words: str) -> None:
    assert words in said(performance(with_test(demo, mean)))


def test_a_checkpoint_that_is_no_better_is_not_offered(demo: Measures) -> None:
    assert "More can be had" in said(performance(with_test(demo, 0.98)))
    assert "More can be had" not in said(performance(with_test(demo, 0.989)))


@pytest.mark.parametrize(
    ("mean", "words"),
    [(0.801, "still at or above the bar"), (0.79, "on both sides of the bar"), (0.739, "below the bar")],
)
def test_a_fresh_test_set_is_held_against_the_bar(demo: Measures, mean: float, words: str) -> None:
    assert words in said(performance(with_test(demo, mean)))


@pytest.mark.parametrize(("accuracy", "words"), [(0.7, "clears the bar too"), (0.699, "misses the bar")])
def test_the_weakest_class_is_held_against_the_bar(demo: Measures, accuracy: float, words: str) -> None:
    rows = (ClassAccuracy("cat", None, accuracy), ClassAccuracy("ship", None, 0.9))
    assert f"The weakest class, cat, is right {percent(accuracy, 1)} of the time" in said(
        performance(replace(demo, classes=rows))
    )
    assert words in said(performance(replace(demo, classes=rows)))


# ------------------------------------------------------------------ customisation


def test_the_worth_of_an_architecture_needs_two(demo: Measures) -> None:
    a, b = Architecture("a", 0.9, "ra", 3, 5), Architecture("b", 0.8, "rb", 1, 2)
    texts = [
        said(customisation(replace(demo, search=replace(demo.search, architectures=some))))
        for some in ((), (a,), (a, b))
    ]
    assert "No architecture has a complete trial" in texts[0]
    assert "Only one architecture has a complete trial (a)" in texts[1]
    assert "Of the two architectures with a complete trial, the best trials lie 10.00 points" in texts[2]


@pytest.mark.parametrize(("weakest", "words"), [(0.80, "Classes are uneven"), (0.801, "Classes are even")])
def test_classes_are_uneven_from_ten_points(demo: Measures, weakest: float, words: str) -> None:
    rows = (ClassAccuracy("cat", None, weakest), ClassAccuracy("ship", None, 0.90))
    assert words in said(customisation(replace(demo, classes=rows)))


# ------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    ("complete", "best", "last", "words"),
    [
        (9, 3, 30, "9 complete trials are too few"),
        (1, 3, 3, "One trial is complete, at 84.0 % validation accuracy (trial 3): too few"),
        (10, 24, 30, "it had not levelled off"),
        (10, 23, 30, "found none better in the 7 trial numbers after it: it had levelled off"),
    ],
)
def test_a_search_has_levelled_off_when_its_best_is_not_late(
    demo: Measures, complete: int, best: int, last: int, words: str
) -> None:
    search = replace(demo.search, complete=complete, best_trial=best, last_trial=last)
    assert words in said(learning(replace(demo, search=search)))


def test_a_first_trial_that_stayed_the_best_is_said_to_be_that(demo: Measures) -> None:
    search = replace(demo.search, complete=12, first=demo.search.best)
    text = said(learning(replace(demo, search=search)))
    assert "The first complete trial stayed the best" in text
    assert "none of the 11 complete trials after it did better" in text


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (None, "was not recorded"),
        (0.0, "saved nothing"),
        (0.499, "short of the aim"),
        (0.5, "meets the aim of half"),
    ],
)
def test_pruning_is_held_against_the_aim(demo: Measures, saved: float | None, words: str) -> None:
    assert words in said(learning(replace(demo, search=replace(demo.search, saved_fraction=saved))))


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (0.927, "agree within chance"),
        (0.90, "flattered the champion"),
        (0.95, "the splits differ in difficulty"),
    ],
)
def test_validation_is_judged_by_the_test(demo: Measures, test: float, words: str) -> None:
    assert words in said(learning(with_test(demo, test)))


def test_what_became_of_the_best_trial_is_told_with_its_compute(demo: Measures) -> None:
    assert demo.selection is not None
    assert demo.selection.confirmed is not None
    again = replace(demo.selection, confirmed=replace(demo.selection.confirmed, mean=0.80, low=0.79, high=0.81))
    cases = {
        "with the same compute, 4.00 points less, more than chance explains: choosing the best flattered it": again,
        "cannot be told from what more training did": replace(again, confirm_flops=9e14),
        "how the compute of the two compares was not recorded": replace(again, confirm_flops=None),
        "so how much of that is the luck of the best cannot be said": replace(again, confirmed=None),
        "0.00 points more, within chance": replace(again, searched=0.80),
        "choosing the best did not flatter it": replace(again, searched=0.70),
    }
    for words, selection in cases.items():
        assert words in said(learning(replace(demo, selection=selection)))


@pytest.mark.parametrize(
    ("sure", "words"), [(0.95, "It is surer than it should be"), (0.90, "as sure"), (0.85, "It is less sure than")]
)
def test_confidence_is_judged_beyond_chance(demo: Measures, sure: float, words: str) -> None:
    calibration = Calibration(Reliability((10_000,), (sure,), (0.90,)), 10_000, ("r",))
    assert words in said(learning(replace(demo, calibration=calibration)))


def test_a_group_is_weaker_only_beyond_chance(demo: Measures) -> None:
    assert "Animals are the weaker group, by" in said(performance(demo))
    alike = {name: replace(demo.groups["animals"]) for name in demo.groups}
    assert "Animals and vehicles cannot be told apart" in said(performance(replace(demo, groups=alike)))
    turned = {"animals": demo.groups["vehicles"], "vehicles": demo.groups["animals"]}
    assert "Vehicles are the weaker group" in said(performance(replace(demo, groups=turned)))


def test_the_weakest_class_needs_its_interval_to_clear_the_bar(demo: Measures) -> None:
    for low, high, words in ((0.71, 0.75, "clears the bar too"), (0.6, 0.8, "cannot be told"), (0.5, 0.69, "misses")):
        rows = (ClassAccuracy("cat", None, 0.7, low, high, 1000), ClassAccuracy("ship", None, 0.9))
        assert words in said(performance(replace(demo, classes=rows)))


def test_a_vendor_that_retires_within_the_horizon_is_named(demo: Measures) -> None:
    assert "Azure Custom Vision ends its service on 2028-09-25" in said(customisation(demo))
    short = replace(demo, scenario=replace(demo.scenario, horizon_years=1))
    assert "ends its service" not in said(customisation(short))
