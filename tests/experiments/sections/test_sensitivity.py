from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from experiments.decision.facts import Facts, answer_of
from experiments.pages.blocks import Bullets
from experiments.sections.sensitivity import SensitivityResult, assumptions, section, sensitivity
from tests.experiments.support import with_cost, with_scenario


@pytest.fixture(scope="module")
def results(demo: Facts) -> dict[str, SensitivityResult]:
    return {result.name: result for result in sensitivity(demo)}


def flips(facts: Facts) -> list[str]:
    bullets = section(facts).blocks[0]
    assert isinstance(bullets, Bullets)
    assert all(item.sources for item in bullets.items)
    return [item.text for item in bullets.items]


def test_the_largest_effect_comes_first_and_the_answer_changes_at_the_flip(
    demo: Facts, results: dict[str, SensitivityResult]
) -> None:
    widths = [abs(result.high - result.low) for result in results.values()]
    assert widths == sorted(widths, reverse=True)
    changed = 0
    for assumption in assumptions(demo):
        result = results[assumption.name]
        if result.becomes:
            changed += 1
            inside = math.exp(0.99 * math.log(result.factor))
            assert answer_of(assumption.scaled(inside)) == "Build"
            assert answer_of(assumption.scaled(result.factor)) == result.becomes == "Either"
        else:
            assert {answer_of(assumption.scaled(f)) for f in (0.1, 0.3, 1, 3, 10)} == {"Build"}
    assert changed == 5


def test_flips_are_stated_with_their_value_and_so_are_assumptions_without_one(demo: Facts) -> None:
    texts = flips(demo)
    assert texts[:2] == [
        "Accuracy bar: 70.0 %; it is cleared up to 89.7 %, where the interval of the test accuracy begins.",
        "Latency bar: 1 s; it is kept down to 6 ms, within which 95 % of the answers come.",
    ]
    assert 'Images a month: 250,000; below 179,000 (0.72 times) the answer becomes "Either".' in texts
    assert texts[-1].startswith("Changed alone, between a tenth and ten times their value, these do not change the")
    assert "retraining a year" in texts[-1]


def test_without_a_cost_of_building_no_cost_changes_the_answer(demo: Facts) -> None:
    unknown = with_cost(demo, machine=None)
    assert sensitivity(unknown) == ()
    assert flips(unknown)[-1] == "While a cost of building is unknown, so is the effect of prices and volumes."
    assert section(unknown).pictures == ()
    assert [(n.name, n.value) for n in section(unknown).numbers] == [("sensitivity.saved", None)]


def test_an_assumption_of_zero_is_not_changed(demo: Facts) -> None:
    free = with_scenario(demo, hourly_rate=0, retraining_per_year=0)
    assert {"cost of people", "retraining a year"}.isdisjoint(a.name for a in assumptions(free))


def test_bars_that_are_missed_or_met_unmeasured_are_stated(demo: Facts) -> None:
    assert flips(replace(demo, test=None))[0] == "A test accuracy: without one, costs do not count."
    high = replace(demo, bar=replace(demo.bar, target=0.95))
    assert "it is cleared only up to 89.7 %" in flips(high)[0]
    assert demo.cost.speed is not None
    bound = with_cost(demo, speed=replace(demo.cost.speed, bounded=True, p95=None))
    assert "kept down to 4 ms, the longest that an answer can take" in flips(bound)[1]
    assert not any("Latency bar" in text for text in flips(with_scenario(demo, latency_bar_ms=None)))
    flip = 'Our labelling speed: 100 %; above 120 % (1.2 times) the answer becomes "Build".'
    assert flip in flips(with_scenario(demo, latency_bar_ms=5))


def test_the_figure_has_a_bar_and_a_label_for_each_assumption(demo: Facts) -> None:
    (figure,) = section(demo).pictures
    halved, doubled = json.loads(figure.figure.to_json())["data"]  # type: ignore[union-attr]
    assert (halved["name"], doubled["name"]) == ("halved", "doubled")
    assert len(halved["x"]) == len(doubled["x"]) == 8
    assert halved["base"] == pytest.approx(6385.46, abs=0.01)
    labels = [a.text for a in figure.figure.layout.annotations]  # type: ignore[union-attr]
    assert labels[-1] == "<b>images a month</b>: either below 179,000"
    assert "<b>our labelling speed</b>: flips nothing" in labels
    assert 'The nearest flip: "Either", with ' in figure.caption.text
