"""Stores and scenarios on both sides of each rule of the decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.decision.costs import Speed
from experiments.decision.facts import Facts, answer_of, in_time
from experiments.reading.published import load_published
from experiments.reading.scenario import load_scenario
from tests.experiments.fake_store import Fake
from tests.experiments.support import with_cost, with_scenario, with_test

PUBLISHED = load_published()
SCENARIO = load_scenario(PUBLISHED.prices)


def test_without_any_run_nothing_is_measured(empty: Facts) -> None:
    assert (empty.test, empty.validation, empty.model, empty.parameters, empty.cost.seconds) == (None,) * 5
    assert (empty.has_champion, empty.subject_runs, answer_of(empty)) == (False, (), "Not yet")


def test_the_scenario_moves_the_bar(store: Fake) -> None:
    moved = store.facts("demo", scenario=replace(SCENARIO, accuracy_bar=0.40)).bar
    assert (moved.target, moved.start, moved.rework) == (0.40, 0.40, 0.40)
    assert moved.source.startswith("scenario.toml; ")


@pytest.mark.parametrize(("accuracy_bar", "answer"), [(0.90, "Not yet"), (0.95, "Buy"), (0.9999, "Not yet")])
def test_a_missed_bar_is_buy_where_a_published_system_reaches_it(store: Fake, accuracy_bar: float, answer: str) -> None:
    assert answer_of(store.facts("demo", scenario=replace(SCENARIO, accuracy_bar=accuracy_bar))) == answer


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
def test_the_interval_must_be_clear_of_the_bar(demo: Facts, mean: float, half: float, answer: str) -> None:
    assert answer_of(with_test(demo, mean, half)) == answer


@pytest.mark.parametrize(
    ("latency", "p95", "bounded", "known"),
    [
        (0.5, 0.9, False, True),
        (0.5, 1.1, False, False),  # 95 % of the answers must keep the bar
        (0.9, None, True, True),
        (1.1, None, True, False),  # a bound over the bar says nothing
    ],
)
def test_the_latency_bar(demo: Facts, latency: float, p95: float | None, bounded: bool, known: bool) -> None:
    speed = Speed(latency, p95, 256, 1000.0, bounded, ("r",))
    facts = with_cost(demo, speed=speed)
    assert in_time(facts) is known
    assert answer_of(facts) == ("Build" if known else "Not yet")
    assert not in_time(with_cost(demo, speed=None))
    assert in_time(with_scenario(facts, latency_bar_ms=None))
