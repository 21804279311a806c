"""Each sentence is held against numbers on both sides of the rule that picks it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments import captions
from experiments.measures import Architecture, ClassAccuracy, Estimate, Measures
from experiments.published import Published, load_published
from experiments.results import Looks
from experiments.verdict import bar_sentence, costs, customisation, decide, learning, performance
from experiments.words import duration, flops, listed, money, percent, rate

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


def with_test(m: Measures, mean: float, half: float = 0.001) -> Measures:
    return replace(m, test=Estimate(mean, mean - half, mean + half, ("r" * 32,), 10_000))


def said(sentences: object) -> str:
    return " ".join(s.text for s in sentences)  # type: ignore[attr-defined]


# ------------------------------------------------------------------ the decision


def test_clearing_the_bar_at_less_cost_is_build(demo: Measures) -> None:
    verdict = decide(demo)
    assert verdict.answer == "Build"
    assert "22.30 points above the 70 % bar" in verdict.facts[0].text
    assert "costs $0.029, less than the $1.00 of the least training on sale" in verdict.facts[1].text


@pytest.mark.parametrize(
    ("mean", "half", "answer"),
    [
        (0.701, 0.001, "Build"),  # the interval begins at the bar
        (0.7009, 0.001, "Not yet"),
        (0.6991, 0.001, "Not yet"),  # its end reaches over the bar
        (0.6989, 0.001, "Buy"),
        (0.30, 0.001, "Buy"),
    ],
)
def test_the_interval_must_be_clear_of_the_bar(demo: Measures, mean: float, half: float, answer: str) -> None:
    assert decide(with_test(demo, mean, half)).answer == answer


def test_missing_the_bar_is_not_buy_when_nothing_listed_reaches_it(demo: Measures) -> None:
    only_weak = replace(demo.published, accuracies=tuple(a for a in demo.published.accuracies if a.group != "public"))
    verdict = decide(with_test(replace(demo, published=only_weak), 0.6))
    assert verdict.answer == "Not yet"
    assert "so does every published system listed" in verdict.because.text


def test_no_test_accuracy_is_not_yet(demo: Measures) -> None:
    verdict = decide(replace(demo, test=None))
    assert verdict.answer == "Not yet"
    assert verdict.decided_by == 0
    assert "no test" in verdict.facts[0].text


def test_an_unknown_price_is_not_yet(demo: Measures) -> None:
    unpriced = replace(demo.cost, machine=None, study_usd=None, per_1000_usd=None, device="mps")
    verdict = decide(replace(demo, cost=unpriced))
    assert verdict.answer == "Not yet"
    assert "no price is listed for compute on 'mps'" in verdict.facts[1].text


@pytest.mark.parametrize(
    ("study_usd", "per_1000_usd", "answer"),
    [(1.0, 2.0, "Build"), (1.01, 2.0, "Either"), (1.0, 2.01, "Either"), (1.01, 2.01, "Buy")],
)
def test_cost_decides_once_the_bar_is_cleared(
    demo: Measures, study_usd: float, per_1000_usd: float, answer: str
) -> None:
    cost = replace(demo.cost, study_usd=study_usd, per_1000_usd=per_1000_usd)
    assert decide(replace(demo, cost=cost)).answer == answer


@pytest.mark.parametrize(
    ("mean", "words"),
    [(0.6, "10.00 points below the 70 % bar"), (0.7, ", at the 70 % bar"), (0.8, "10.00 points above")],
)
def test_the_first_fact_is_the_distance_to_the_bar(demo: Measures, mean: float, words: str) -> None:
    assert words in decide(with_test(demo, mean)).facts[0].text


def test_exactly_one_rule_decides_and_it_is_the_first_that_holds(demo: Measures) -> None:
    for m in (demo, with_test(demo, 0.5), replace(demo, test=None)):
        verdict = decide(m)
        assert [rule.holds for rule in verdict.rules].index(True) == verdict.decided_by
        assert verdict.rules[verdict.decided_by].answer == verdict.answer


def test_every_sentence_of_the_recommendation_has_a_trace(demo: Measures) -> None:
    for m in (demo, with_test(demo, 0.4), replace(demo, test=None)):
        verdict = decide(m)
        everything = [verdict.because, *verdict.facts, *(s for head in verdict.heads for s in head.sentences)]
        assert all(sentence.traces for sentence in everything)


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


# ------------------------------------------------------------------ cost


def test_costs_name_their_machine_and_leave_people_out(demo: Measures) -> None:
    text = said(costs(demo))
    assert "21 min 30 s of wall time, $0.029 at $0.0816 an hour for AWS m7g.large" in text
    assert "The hours of the people who built it are not measured" in text
    assert "Below 29,784 images a month" in text


@pytest.mark.parametrize(("usd", "words"), [(0.99, ", under the $1.00"), (1.0, ", not under the $1.00")])
def test_retraining_is_held_against_the_least_purchase(demo: Measures, usd: float, words: str) -> None:
    assert words in said(costs(replace(demo, cost=replace(demo.cost, retrain_usd=usd))))


@pytest.mark.parametrize(
    ("usd", "words"),
    [(1.99, "It is less than the $2.00"), (2.0, "the same as the $2.00"), (2.1, "It is more than")],
)
def test_labelling_is_held_against_a_trainable_service(demo: Measures, usd: float, words: str) -> None:
    assert words in said(costs(replace(demo, cost=replace(demo.cost, per_1000_usd=usd))))


def test_unmeasured_costs_are_said_to_be_unknown(fresh_store: Fake) -> None:
    fresh_store.add(trials=(), champion=(), state="interrupted")
    text = said(costs(fresh_store.measures("demo")))
    assert "How long the study took was not recorded" in text
    assert "no run of the recipe has finished" in text
    assert "no network was timed" in text
    assert "$" not in text


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


# ------------------------------------------------------------------ looks and words


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        (Looks(True, 2, 5, 0), "was looked at 2 times for this study, 5 in all studies"),
        (Looks(True, 1, 1, 0), "1 time for this study"),
        (Looks(True, 1, 1, 0), "2 runs carry a test accuracy, so the record is incomplete"),
        (Looks(True, 2, 2, 1), "1 line of the record could not be read"),
        (Looks(False), "no record of test looks"),
    ],
)
def test_looks_at_the_test_set_are_printed(demo: Measures, looks: Looks, words: str) -> None:
    assert words in captions.looks_sentence(replace(demo, looks=looks)).text


def test_numbers_read_as_people_write_them() -> None:
    assert [money(v) for v in (1003.75, 0.995, 0.5, 0.0338, 0.000045, 0)] == [
        "$1,003.75", "$0.99", "$0.50", "$0.034", "$0.000045", "$0",
    ]  # fmt: skip
    assert [rate(v) for v in (0.0816, 6.88, 10)] == ["$0.0816", "$6.88", "$10.00"]
    assert [duration(v) for v in (59.4, 59.6, 754, 3600)] == [
        "59 s",
        "1 min 00 s",
        "12 min 34 s",
        "1 h 00 min",
    ]
    assert [flops(v) for v in (3.5e14, 2e11)] == ["0.35 PFLOP", "0.20 TFLOP"]
    assert [listed(v) for v in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_published_figures_can_be_replaced(demo: Measures) -> None:
    cheap: Published = load_published()
    cheap = replace(cheap, prices=tuple(replace(p, usd=1e-6) if p.custom else p for p in cheap.prices))
    assert decide(replace(demo, published=cheap)).answer == "Buy"
