"""Stores and scenarios that must give each verdict, and sentences on both sides of each rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.decision.costs import Speed
from experiments.decision.measures import Measures
from experiments.decision.verdict import decide, first_that_holds, in_time
from experiments.reading.published import load_published
from experiments.reading.scenario import Scenario, load_scenario
from experiments.stats import Estimate

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


def with_test(m: Measures, mean: float, half: float = 0.001) -> Measures:
    return replace(m, test=Estimate(mean, mean - half, mean + half, ("r" * 32,), 10_000))


SCENARIO = load_scenario(load_published())

CASES: dict[str, tuple[dict[str, object], Callable[[Scenario], Scenario], str]] = {
    "cheaper by far": ({}, lambda s: s, "Build"),
    "a small volume": ({}, lambda s: replace(s, images_per_month=1000), "Buy"),
    "dear people": ({}, lambda s: replace(s, hourly_rate=500), "Buy"),
    "about the same": ({}, lambda s: replace(s, images_per_month=161_000), "Either"),
    "no champion": ({"champion": ()}, lambda s: s, "Not yet"),
    "not tested": ({"tested": False}, lambda s: s, "Not yet"),
    "missing the bar": ({"champion": (0.60, 0.601)}, lambda s: s, "Buy"),
    "a bar that nothing reaches": ({"champion": (0.60, 0.601)}, lambda s: replace(s, accuracy_bar=0.999), "Not yet"),
    "at the bar": ({"champion": (0.70, 0.701)}, lambda s: s, "Not yet"),
    "too slow": ({}, lambda s: replace(s, latency_bar_ms=5), "Not yet"),
    "no wait is too long": ({}, lambda s: replace(s, latency_bar_ms=None), "Build"),
    "no price for the device": ({"device": "mps"}, lambda s: s, "Not yet"),
    "interrupted": ({"state": "interrupted", "champion": ()}, lambda s: s, "Not yet"),
    "nothing ran": ({"trials": (), "champion": ()}, lambda s: s, "Not yet"),
}


@pytest.mark.parametrize("case", CASES)
def test_stores_and_scenarios_give_each_verdict(fresh_store: Fake, case: str) -> None:
    study, scenario, answer = CASES[case]
    fresh_store.add(**study)
    m = fresh_store.measures("demo", scenario=scenario(SCENARIO))
    verdict = decide(m)
    assert verdict.answer == answer
    assert verdict.decided_by == first_that_holds(verdict.rules)
    assert all(sentence.text and sentence.sources for sentence in (verdict.because, *verdict.facts))


def test_the_two_facts_carry_it(demo: Measures) -> None:
    verdict = decide(demo)
    assert "22.30 points above the 70 % bar" in verdict.facts[0].text
    assert "building costs $11,745, 82 % of it people; Azure Custom Vision $18,130" in verdict.facts[1].text


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


def test_no_test_accuracy_is_said(demo: Measures) -> None:
    verdict = decide(replace(demo, test=None))
    assert verdict.decided_by == 0
    assert "no test" in verdict.facts[0].text


def test_an_unknown_price_is_said(demo: Measures) -> None:
    verdict = decide(replace(demo, cost=replace(demo.cost, machine=None, device="mps")))
    assert verdict.answer == "Not yet"
    assert "no price is listed for compute on 'mps'" in verdict.facts[1].text
    assert "what building costs cannot be said yet" in verdict.because.text


@pytest.mark.parametrize(
    ("mean", "words"),
    [(0.6, "10.00 points below the 70 % bar"), (0.7, ", at the 70 % bar"), (0.8, "10.00 points above")],
)
def test_the_first_fact_is_the_distance_to_the_bar(demo: Measures, mean: float, words: str) -> None:
    assert words in decide(with_test(demo, mean)).facts[0].text


@pytest.mark.parametrize(
    ("latency", "slow", "bounded", "known"),
    [
        (0.5, 0.9, False, True),
        (0.5, 1.1, False, False),  # 95 % of the answers must keep the bar
        (0.9, None, True, True),
        (1.1, None, True, None),  # a bound over the bar says nothing
    ],
)
def test_the_latency_bar(demo: Measures, latency: float, slow: float | None, bounded: bool, known: bool | None) -> None:
    speed = Speed(latency, slow, 1 / latency, 256, 1000.0, bounded, ("r",))
    m = replace(demo, cost=replace(demo.cost, speed=speed))
    assert in_time(m) is known
    assert decide(m).answer == ("Build" if known else "Not yet")
    assert in_time(replace(m, cost=replace(m.cost, speed=None))) is None


def test_the_latency_is_said(demo: Measures) -> None:
    slow = replace(demo, scenario=replace(demo.scenario, latency_bar_ms=5))
    assert "an answer takes up to 6 ms, over the bar of 5 ms" in decide(slow).because.text
    assert demo.cost.speed is not None
    bound = replace(demo.cost.speed, bounded=True)
    unknown = decide(replace(slow, cost=replace(demo.cost, speed=bound)))
    assert "was not measured; from its training it is only known to be under 6 ms" in unknown.because.text
