from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Lead
from experiments.sections import verdict
from tests.experiments.support import with_cost, with_scenario, with_test


def lead(facts: Facts) -> Lead:
    (block,) = verdict.section(facts).blocks
    assert isinstance(block, Lead)
    assert all(text.text and text.sources for text in (block.because, *(text for _, text in block.facts)))
    return block


def test_two_facts_carry_the_answer(demo: Facts) -> None:
    shown = lead(demo)
    assert shown.answer == "Build"
    assert [label for label, _ in shown.facts] == ["Accuracy", "Money"]
    accuracy, money = (text.text for _, text in shown.facts)
    assert "22.30 points above the 70 % bar" in accuracy
    assert "building costs $11,745, 82 % of it people; Azure Custom Vision $18,130" in money


@pytest.mark.parametrize(
    ("mean", "words"),
    [(0.6, "10.00 points below the 70 % bar"), (0.7, ", at the 70 % bar"), (0.8, "10.00 points above")],
)
def test_the_accuracy_is_stated_with_its_distance_to_the_bar(demo: Facts, mean: float, words: str) -> None:
    assert words in lead(with_test(demo, mean)).facts[0][1].text


def test_each_rule_has_its_reason(demo: Facts) -> None:
    own = replace(demo.published, accuracies=tuple(a for a in demo.published.accuracies if a.group != "public"))
    even, few = (with_scenario(demo, images_per_month=images) for images in (161_000, 1000))
    slow, speed = with_scenario(demo, latency_bar_ms=5), demo.cost.speed
    assert speed is not None
    bounded = with_cost(slow, speed=replace(speed, bounded=True))
    reasons = {
        "No run of this study was tested": replace(demo, test=None),
        "The network misses the 70 % bar, which others clear, such as ": with_test(demo, 0.6),
        "so does every published system listed": replace(with_test(demo, 0.6), published=own),
        "its 95 % interval lies on both sides": with_test(demo, 0.7),
        "an answer takes up to 6 ms, over the bar of 5 ms": slow,
        "the speed of training only shows that it is under 6 ms, and the bar is 5 ms": bounded,
        "its latency was not measured.": with_cost(demo, speed=None),
        "the cost of building is not known yet: no price": with_cost(demo, machine=None),
        "over 3 years building costs less than Azure Custom Vision, the cheapest vendor": demo,
        "building and Azure Custom Vision, the cheapest vendor of the scenario, cost about the same": even,
        "but over 3 years Azure Custom Vision, the cheapest vendor of the scenario, costs less": few,
    }
    for words, facts in reasons.items():
        assert words in lead(facts).because.text


def test_missing_measurements_are_stated(demo: Facts) -> None:
    assert "there was no test" in lead(replace(demo, test=None)).facts[0][1].text
    assert "No trial has finished" in lead(replace(demo, test=None, validation=None)).facts[0][1].text
    unpriced = lead(with_cost(demo, machine=None, device="mps"))
    assert "no price is listed for compute on 'mps'" in unpriced.facts[1][1].text
