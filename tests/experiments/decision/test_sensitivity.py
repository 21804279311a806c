from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.decision.measures import Measures
from experiments.decision.sensitivity import Swing, assumptions, flip_sentences, saved, swings
from experiments.decision.verdict import answer_of

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


@pytest.fixture(scope="module")
def found(demo: Measures) -> dict[str, Swing]:
    return {swing.name: swing for swing in swings(demo)}


def test_what_building_saves_is_the_difference_of_the_totals(demo: Measures) -> None:
    assert saved(demo) == pytest.approx(18_130 - 11_744.54, abs=0.01)
    assert saved(replace(demo, cost=replace(demo.cost, machine=None))) is None


def test_the_answer_changes_at_the_flip_and_not_before(demo: Measures, found: dict[str, Swing]) -> None:
    flips = 0
    for assumption in assumptions(demo):
        swing = found[assumption.name]
        if swing.becomes:
            flips += 1
            inside = math.exp(0.99 * math.log(swing.factor))
            assert answer_of(assumption.scaled(inside)) == "Build"
            assert answer_of(assumption.scaled(swing.factor)) == swing.becomes == "Either"
        else:
            assert {answer_of(assumption.scaled(f)) for f in (0.1, 0.3, 1, 3, 10)} == {"Build"}
    assert flips == 5


def test_the_widest_swing_comes_first(demo: Measures) -> None:
    widths = [abs(swing.high - swing.low) for swing in swings(demo)]
    assert widths == sorted(widths, reverse=True)


def test_what_flips_is_said_with_its_value_and_what_does_not_too(demo: Measures) -> None:
    texts = [sentence.text for sentence in flip_sentences(demo, swings(demo))]
    assert (
        texts[0] == "Accuracy bar: 70.0 %; it is cleared up to 89.7 %, where the interval of the test accuracy begins."
    )
    assert texts[1] == "Latency bar: 1 s; it is kept down to 6 ms, what 95 % of the answers take."
    assert 'Images a month: 250,000; below 179,000 (0.72 times) the answer becomes "Either".' in texts
    assert texts[-1].startswith("Moved alone, between a tenth and ten times what is assumed, these flip nothing: ")
    assert "retraining a year" in texts[-1]


def test_without_a_cost_of_building_money_flips_nothing(demo: Measures) -> None:
    unknown = replace(demo, cost=replace(demo.cost, machine=None))
    assert swings(unknown) == ()
    assert "cannot be said while a cost of building is unknown" in flip_sentences(unknown, ())[-1].text


def test_without_a_test_accuracy_that_is_the_first_thing_to_get(demo: Measures) -> None:
    untested = replace(demo, test=None)
    assert flip_sentences(untested, swings(untested))[0].text == "A test accuracy: without one, no money decides."


def test_an_assumption_of_nothing_is_not_moved(demo: Measures) -> None:
    free = replace(demo, scenario=replace(demo.scenario, hourly_rate=0, retraining_per_year=0))
    assert {"cost of people", "retraining a year"}.isdisjoint(a.name for a in assumptions(free))


def test_bars_that_are_missed_are_said_to_be(demo: Measures) -> None:
    assert demo.test is not None
    high = replace(demo, bar=replace(demo.bar, target=0.95))
    assert "it is cleared only up to 89.7 %" in flip_sentences(high, swings(high))[0].text
    assert demo.cost.speed is not None
    bound = replace(demo, cost=replace(demo.cost, speed=replace(demo.cost.speed, bounded=True, slow=None)))
    assert "kept down to 4 ms, the longest that an answer can take" in flip_sentences(bound, swings(bound))[1].text
    waits = replace(demo, scenario=replace(demo.scenario, latency_bar_ms=None))
    assert not any("Latency bar" in sentence.text for sentence in flip_sentences(waits, swings(waits)))


def test_a_network_that_is_too_slow_says_how_fast_it_must_be(demo: Measures) -> None:
    slow = replace(demo, scenario=replace(demo.scenario, latency_bar_ms=5))
    texts = [sentence.text for sentence in flip_sentences(slow, swings(slow))]
    assert 'Our labelling speed: 100 %; above 120 % (1.2 times) the answer becomes "Build".' in texts
