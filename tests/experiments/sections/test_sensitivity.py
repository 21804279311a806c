from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from experiments.decision import sensitivity as sensitivity_module
from experiments.decision.facts import Facts
from experiments.decision.sensitivity import Assumption, Saving, SensitivityResult, assumptions, saved, sensitivity
from experiments.decision.verdict import verdict_of, ways_of
from experiments.pages.blocks import Bullets, Missing
from experiments.sections.sensitivity import section, tornado
from tests.experiments.decision.test_verdict import ACCURACIES, under, vendor
from tests.experiments.support import HICCUPS, figures, known, with_cost, with_scenario, with_test

RESULT = SensitivityResult(
    "horizon", "3 years", Saving(1.5), Saving(1.0), Saving(2.0), "1 year", factor=0.33, becomes="Build", sources=()
)


@pytest.fixture(scope="module")
def facts(demo: Facts) -> Facts:
    """Building against a vendor that clears every bar, at $18,000 over the horizon."""
    return under(demo, vendor(accuracy=ACCURACIES["gpt-4o"], p95_ms=900))


@pytest.fixture(scope="module")
def results(facts: Facts) -> dict[str, SensitivityResult]:
    return {result.name: result for result in sensitivity(facts)}


def headline(assumption: Assumption, factor: float) -> str:
    return verdict_of(assumption.scaled(factor)).headline


def flips(facts: Facts) -> list[str]:
    bullets = section(facts).blocks[0]
    assert isinstance(bullets, Bullets)
    assert all(item.sources for item in bullets.items)
    return [item.text for item in bullets.items]


def test_the_largest_effect_comes_first_and_the_answer_changes_at_the_flip(
    facts: Facts, results: dict[str, SensitivityResult]
) -> None:
    widths = [result.width for result in results.values()]
    assert widths == sorted(widths, reverse=True)
    changed = 0
    for assumption in assumptions(facts):
        result = results[assumption.name]
        if result.becomes:
            changed += 1
            inside = math.exp(0.99 * math.log(result.factor))
            assert headline(assumption, inside) == "Build"
            assert headline(assumption, result.factor) == result.becomes == "Either"
        else:
            assert {headline(assumption, f) for f in (0.1, 0.3, 1, 3, 10)} == {"Build"}
    assert changed == 7


def test_flips_are_stated_with_their_value_and_so_are_assumptions_without_one(facts: Facts) -> None:
    texts = flips(facts)
    assert texts[:2] == [
        "Accuracy bar: 70 %; building clears it up to about 89.70 %, where the interval of its test accuracy begins.",
        "Latency bar: 1 s; building would keep any bar from about 6 ms up, within which 95 % of its answers come.",
    ]
    assert "Images a month: 250,000; below 181,000 (0.72 times) the answer becomes “Either”." in texts
    assert texts[-1].startswith("Changed alone, between a tenth and ten times their value, these do not change the")
    assert "retraining a year" in texts[-1]


@pytest.mark.parametrize(
    ("low", "bar", "words"),
    [
        (0.94892, 0.9485, "94.85 %; building clears it up to about 94.89 %"),
        (0.57, 0.57, "57 %; building clears it up to about 57.00 %"),
        (0.948526, 0.948523, "94.8523 %; building clears it up to about 94.853 %"),
        (0.948526, 0.94853, "94.853 %; building clears it only up to about 94.85 %"),
        (0.948888, 0.9489, "94.89 %; building clears it only up to about 94.889 %"),
        (0.0512345, 0.5, "50 %; building clears it only up to about 5.12 %"),
    ],
)
def test_the_bar_that_building_clears_is_on_the_side_of_the_bar_on_which_it_is(
    facts: Facts, low: float, bar: float, words: str
) -> None:
    test = replace(known(facts.test), low=low, mean=0.96, high=0.97)
    at = replace(facts, test=test, bar=replace(facts.bar, target=bar))
    assert words in flips(at)[0]
    assert ("accuracy" in [check.bar for check in ways_of(at)[0].unknown]) == ("only" in words)


@pytest.mark.parametrize(
    ("p95", "bar", "words"),
    [
        (0.0060001, 1000, "1 s; building would keep any bar from about 6 ms up, "),
        (0.0060001, 6, "6 ms; building would keep any bar from about 6.0001 ms up, "),
        (0.9981, 998.2, "998.2 ms; building would keep any bar from about 998 ms up, "),
        (1.0004, 1000, "1 s; building would keep any bar from about 1.0004 s up, "),
    ],
)
def test_the_bar_that_building_keeps_is_on_the_side_of_the_bar_on_which_it_is(
    facts: Facts, p95: float, bar: float, words: str
) -> None:
    speed = replace(known(facts.cost.speed), p95=p95)
    alone = with_scenario(with_cost(facts, speed=speed), images_per_month=1, latency_bar_ms=bar)
    assert words in flips(alone)[1]


def test_without_a_cost_of_building_no_cost_changes_the_answer(facts: Facts) -> None:
    unknown = with_cost(facts, machine=None)
    assert sensitivity(unknown) == ()
    assert flips(unknown)[-1] == "While the cost of building is unknown, so is the effect of prices and volumes."
    assert section(unknown).pictures == ()
    assert section(unknown).blocks[-1] == Missing(
        "There is no figure of the assumptions, as there are no two costs to compare."
    )
    [number] = section(unknown).numbers
    assert (number.name, str(number.value)) == ("sensitivity.saved", "nan")


def test_a_flip_that_is_too_close_for_three_figures_is_stated_as_a_factor() -> None:
    flip = replace(RESULT, value="100 %", flip="100 %", factor=1.0004, becomes="Buy")
    assert flip.change == "above 1.0004 times 100 %"
    assert replace(flip, flip="0.9 times", factor=0.9).change == "below 0.9 times what is assumed"
    assert replace(flip, value="$2", flip="$3").change == "above $3, not $2"


def test_an_assumption_of_zero_is_not_changed(facts: Facts) -> None:
    free = with_scenario(facts, hourly_rate=0, retraining_per_year=0)
    assert {"hourly rate of people", "retraining a year"}.isdisjoint(a.name for a in assumptions(free))


def test_bars_that_are_missed_or_met_unmeasured_are_stated(facts: Facts) -> None:
    assert flips(replace(facts, test=None))[0] == "Test accuracy: until it is measured, costs decide nothing."
    high = replace(facts, bar=replace(facts.bar, target=0.95))
    assert "building clears it only up to about 89.70 %" in flips(high)[0]
    assert facts.cost.speed is not None
    bound = with_cost(facts, speed=replace(facts.cost.speed, bounded=True, p95=None))
    assert "any bar from about 4 ms up, by the speed of its training" in flips(bound)[1]
    assert not any("Latency bar" in text for text in flips(with_scenario(facts, latency_bar_ms=None)))
    uneven = with_cost(facts, speed=replace(facts.cost.speed, latency=0.1, uneven=HICCUPS))
    assert "which bars building would keep is unknown" in flips(with_scenario(uneven, images_per_month=12_000_000))[1]
    flip = "Labelling speed of the network built: above 1.2 times what is assumed the answer becomes “Build”."
    quick = under(facts, vendor(accuracy=ACCURACIES["gpt-4o"], p95_ms=4), latency_bar_ms=5)
    assert flip in flips(quick)


def test_flips_are_stated_in_three_figures_and_assumptions_in_all(facts: Facts) -> None:
    often = with_scenario(facts, maintenance_hours_per_year=20, retraining_per_year=1234, engineering_hours=1020)
    stated = " ".join(f"{r.name}: {r.value}, {r.flip}" for r in sensitivity(often))
    assert "hours to build: 1,020 h, " in stated
    assert "retraining a year: 1234 times, " in stated
    assert not re.search(r"\d\.\d{5}|\de\+", stated)


def test_a_saving_against_the_least_that_a_rival_costs_is_called_the_least(demo: Facts, facts: Facts) -> None:
    bound = section(with_scenario(demo, vendors=(vendor(20.0),)))  # against a download whose compute nobody measured
    assert {n.unit for n in bound.numbers if "saved" in n.name} == {"USD over the horizon, at least"}
    (figure,) = figures(bound).values()
    assert "what else is cheapest, of which only the least is known." in figure.caption.text
    assert "US dollars, at least" in figure.figure.layout.xaxis.title.text
    assert {n.unit for n in section(facts).numbers if "saved" in n.name} == {"USD over the horizon"}


class TestARivalThatChanges:
    """The cheapest of two vendors: one by the call, at $18,000 over the horizon, and one by the token, at $900."""

    @pytest.fixture
    def two(self, facts: Facts) -> Facts:
        cheap = vendor(0.1, name="cheap", accuracy=ACCURACIES["gpt-4o"], p95_ms=900, integration_hours=200)
        return under(facts, *facts.scenario.vendors, cheap)

    def test_each_bar_ends_at_what_building_saves_against_the_cheapest_of_its_scenario(self, two: Facts) -> None:
        results = {result.name: result for result in sensitivity(two)}
        for assumption in assumptions(two):
            for factor, found in ((0.5, results[assumption.name].low), (2.0, results[assumption.name].high)):
                ours, *others = ways_of(assumption.scaled(factor))
                months = assumption.scaled(factor).scenario.months
                cheapest = min(way.option.total(months) for way in others if not way.misses)
                assert found.usd == pytest.approx(cheapest - ours.option.total(months)), assumption.name
        hours = results["hours with vendors"]
        assert hours.high.usd - hours.now.usd == pytest.approx(18_000 - 16_900)  # which the other costs
        assert saved(two) == hours.now

    def test_what_is_known_of_each_rival_is_said_of_its_saving(self, facts: Facts, demo: Facts) -> None:
        mixed = under(facts, vendor(1.0, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
        mixed = with_scenario(mixed, downloads=demo.scenario.downloads)  # twice as many images make a download cheapest
        units = {number.name: number.unit for number in section(mixed).numbers}
        assert units["sensitivity.saved"] == "USD over the horizon"
        assert units["sensitivity.images_a_month.saved_if_doubled"] == "USD over the horizon, at least"
        [figure] = figures(section(mixed)).values()
        assert "what else is cheapest, of which sometimes only the least is known. " in figure.caption.text

    def test_where_every_other_way_misses_a_bar_there_is_none_in_the_figure(self, demo: Facts) -> None:
        ends = {v.name: v for v in demo.scenario.vendors}["Azure Custom Vision"]
        short = under(demo, replace(ends, accuracy=ACCURACIES["gpt-4o"], p95_ms=900), horizon_years=1.8)
        [horizon] = [result for result in sensitivity(short) if result.name == "horizon"]
        assert math.isnan(horizon.high.usd)
        assert horizon.width == abs(horizon.low.usd - horizon.now.usd)
        [figure] = figures(section(short)).values()
        halved, doubled = figure.figure.data
        assert len(halved.x) == len(doubled.x) + 1
        assert "NaN" not in figure.figure.to_json()
        assert " Where a bar is missing, building or every other way misses a requirement. " in figure.caption.text

    def test_two_bars_on_one_side_are_both_seen(self) -> None:
        beside = replace(RESULT, low=Saving(-3.0), high=Saving(-5.0))
        assert beside.is_one_sided
        assert beside.width == 6.5
        assert not RESULT.is_one_sided
        halved, doubled = tornado([beside, RESULT]).data
        assert [a > b for a, b in zip(halved.width, doubled.width, strict=True)] == [False, True]


def test_hours_of_people_that_nobody_measured_can_flip_it_too(demo: Facts) -> None:
    people = {"hours with vendors": "integration_hours", "hours to adapt": "hours"}
    named = {assumption.name: assumption for assumption in assumptions(demo)}
    assert people.keys() <= named.keys()
    twice = named["hours with vendors"].scaled(2.0).scenario.vendors
    assert [v.integration_hours for v in twice] == [2 * v.integration_hours for v in demo.scenario.vendors]
    assert [v.migration_hours for v in twice] == [2 * v.migration_hours for v in demo.scenario.vendors]
    assert named["hours to adapt"].scaled(0.5).scenario.downloads[0].hours == demo.scenario.downloads[0].hours / 2
    bought = under(demo, vendor(0.5, accuracy=ACCURACIES["gpt-4o"], p95_ms=900, integration_hours=40))
    assert "Hours with vendors: above 1.9 times what is assumed the answer becomes “Either”." in flips(bought)


@pytest.mark.parametrize("latency_bar_ms", [1000.0, None])
def test_vendors_labelling_prices_are_all_that_labelling_costs(demo: Facts, latency_bar_ms: float | None) -> None:
    facts = with_scenario(demo, latency_bar_ms=latency_bar_ms)
    [prices] = [assumption for assumption in assumptions(facts) if assumption.name == "vendors' labelling prices"]
    waits, images = latency_bar_ms is None, facts.scenario.images_per_month
    before, after = facts.scenario.vendors, prices.scaled(2.0).scenario.vendors
    assert [v.serving(images, waits=waits) for v in after] == pytest.approx(
        [2 * v.serving(images, waits=waits) for v in before]
    )


def test_of_two_flips_the_nearer_one_is_stated(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    bought = under(facts, vendor(0.5, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
    between = Assumption("between", 1.0, str, lambda f: facts if 0.93 < f < 1.02 else bought, ())
    monkeypatch.setattr(sensitivity_module, "assumptions", lambda facts: (between,))
    [result] = sensitivity(facts)
    assert result.becomes == "Buy calls"
    assert result.factor == pytest.approx(1.02)


def test_the_horizon_is_doubled_whatever_it_is(facts: Facts) -> None:
    [horizon] = (a for a in assumptions(with_scenario(facts, horizon_years=60)) if a.name == "horizon")
    assert horizon.scaled(2).scenario.horizon_years == 120


def test_flips_are_found_though_every_rival_misses_a_bar(demo: Facts) -> None:
    """The service ends after 22 months: a shorter horizon makes it a rival."""
    ends = {v.name: v for v in demo.scenario.vendors}["Azure Custom Vision"]
    known = replace(ends, accuracy=ACCURACIES["gpt-4o"], p95_ms=900)
    facts = under(demo, known)
    assert verdict_of(facts).headline == "Build"
    results = {result.name: result for result in sensitivity(facts)}
    assert results["horizon"].becomes == "Either"
    assert math.isnan(results["horizon"].now.usd)
    assert not math.isnan(results["horizon"].low.usd)
    assert math.isnan(results["horizon"].high.usd)
    assert any(text.startswith("Horizon: 3 years; below 1.") for text in flips(facts))
    assert section(facts).pictures == ()
    assert section(facts).blocks[-1] == Missing(
        "There is no figure of the assumptions, as every way other than building misses a bar."
    )


def test_building_that_misses_a_bar_saves_nothing(facts: Facts) -> None:
    missed = with_test(facts, 0.5)
    assert math.isnan(saved(missed).usd)
    assert section(missed).pictures == ()
    assert section(missed).blocks[-1] == Missing(
        "There is no figure of the assumptions, as building misses a bar, and no saving makes up for that."
    )


def test_the_figure_has_a_bar_and_a_label_for_each_assumption(facts: Facts) -> None:
    (figure,) = section(facts).pictures
    halved, doubled = json.loads(figure.figure.to_json())["data"]  # type: ignore[union-attr]
    assert (halved["name"], doubled["name"]) == ("halved", "doubled")
    assert len(halved["x"]) == len(doubled["x"]) == 7
    assert halved["base"] == pytest.approx(6255.46, abs=0.01)
    labels = [a.text for a in figure.figure.layout.annotations]  # type: ignore[union-attr]
    assert labels[-1] == "<b>images a month</b>: “Either” below 181,000"
    assert "The nearest flip: “Either”, with " in figure.caption.text


def test_a_label_that_is_too_long_for_a_phone_has_two_lines(demo: Facts) -> None:
    (figure,) = section(demo).pictures
    labels = [a.text for a in figure.figure.layout.annotations]  # type: ignore[union-attr]
    assert "<b>hours with vendors</b>:<br>“Adapt and test ViT-B/16” above 3 times" in labels
    assert [label for label in labels if "<br>" in label] == [label for label in labels if "hours with" in label]


def test_a_name_with_signs_of_html_is_drawn_as_it_is() -> None:
    bought = "Buy A <b>&</b> B"
    [label] = tornado([replace(RESULT, becomes=bought)]).layout.annotations
    assert label.text == "<b>horizon</b>: “Buy A &lt;b&gt;&amp;&lt;/b&gt; B” below 1 year"
