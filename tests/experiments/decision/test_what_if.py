"""The page of sliders: its own arithmetic decides as `verdict_of` does, in a real browser."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from cifar_core.evaluation.serving import Timing
from experiments.decision import what_if
from experiments.decision.facts import Facts
from experiments.decision.verdict import judge, verdict_of, ways_of
from experiments.reading.scenario import Vendor
from experiments.reading.vendor_score import VendorScore
from experiments.stats import Estimate, mean_accuracy
from tests.experiments.decision.test_machines import PUBLISHED
from tests.experiments.decision.test_verdict import score
from tests.experiments.support import ADAPTED, HICCUPS, known, with_scenario

pytestmark = pytest.mark.slow

PRICES = {price.key: price for price in PUBLISHED.prices}
DRAWN = 200


@pytest.fixture(scope="module")
def page(browser: Browser, demo: Facts, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "what-if.html"
    path.write_bytes(what_if.render(demo))
    found = browser.new_page()
    found.goto(path.as_uri())
    return found


def draw(chance: random.Random, facts: Facts) -> Facts:
    """The facts with another scenario, other vendors, and more or less that is known."""

    def maybe(value: Any, other: Any = None, odds: float = 0.5) -> Any:
        return value if chance.random() < odds else other

    def vendor(number: int) -> Vendor:
        paid: dict[str, Any] = chance.choice([
            {"per_call": PRICES[chance.choice(["azure-prediction", "vision-prediction", "rekognition-prediction"])]},
            {"endpoint": PRICES["vertex-endpoint"]},
            {"tokens": PRICES["gpt-6-luna"], "image_tokens": chance.choice([77, 88])},
        ])  # fmt: skip
        return Vendor(
            name=f"vendor {number}", **paid, images_per_second=chance.uniform(0.05, 9), prompt_tokens=60,
            training=maybe(PRICES["vertex-training"]), storage=maybe(PRICES["azure-storage"]),
            batch=maybe(PRICES["vertex-batch"]), integration_hours=chance.choice([0, 16, 40]),
            migration_hours=8, migrations_per_year=chance.choice([0, 1]), p95_ms=maybe(chance.uniform(1, 3000)),
            accuracy=maybe(chance.choice(PUBLISHED.accuracies)),
        )  # fmt: skip

    vendors = tuple(vendor(number) for number in range(chance.randint(1, 4)))
    assumed = {field.name: getattr(facts.scenario, field.name) for field in fields(facts.scenario)}
    numbers: dict[str, Any] = {
        name: value * chance.uniform(0.5, 1.3) for name, value in assumed.items() if type(value) is float
    }
    scenario = replace(
        replace(facts.scenario, **numbers), vendors=vendors, downloads=maybe(facts.scenario.downloads, ()),
        latency_bar_ms=maybe(chance.choice([5.0, 300.0, 2000.0]), odds=0.7),
        data_stays_in_house=maybe(True, False, odds=0.1), maintenance_hours_per_year=chance.choice([0.0, 12.0, 100.0]),
        labels_at_hand=maybe(chance.choice([0.0, 40_000.0]), odds=0.3),
    )  # fmt: skip
    speed = replace(
        known(facts.cost.speed), latency=chance.choice([0.0005, 0.004, 0.4]), p95=maybe(0.6, odds=0.2),
        uneven=maybe(HICCUPS, odds=0.3),
    )  # fmt: skip
    cost = replace(
        facts.cost, speed=maybe(replace(speed, bounded=maybe(True, False, 0.2)), odds=0.9),
        machine=maybe(facts.cost.machine, odds=0.9), run_units=chance.choice([1, 1, 6]),
    )  # fmt: skip
    low = chance.uniform(0.3, 0.95)
    test = maybe(Estimate(low + 0.01, low, low + 0.02, ("r" * 32,), 10_000), odds=0.9)
    scores: dict[str, VendorScore] = {"vendor_1": score(chance.randint(3000, 9900))} if chance.random() < 0.4 else {}
    serving = maybe(
        (Timing(1, 0.004, chance.choice([0.006, 0.4]), 200, chance.choice([0.004, 0.01])), ADAPTED.serving[1]),
        (),
        odds=0.8,
    )
    network = replace(
        ADAPTED, test=mean_accuracy([chance.uniform(0.3, 0.99)], ("a" * 32,), 10_000), serving=serving,
        device=maybe("cpu", "cuda", odds=0.9),
    )  # fmt: skip
    study = replace(facts.study, adapted=maybe(network))
    return replace(facts, study=study, scenario=scenario, cost=cost, test=test, scores=scores)


def even(chance: random.Random, facts: Facts) -> Facts:
    """The facts with a vendor that clears every bar, and costs about as much as building."""
    s, ours = facts.scenario, ways_of(facts)[0].option.total(facts.scenario.months)
    usd = ours * chance.uniform(0.8, 1.2) / (s.images_per_month * s.months / 1000)
    by_call = replace(PRICES["azure-prediction"], usd=usd, retires="")
    measured = {item.key: item for item in PUBLISHED.accuracies}["gpt-4o"]
    vendors = (Vendor(name="even", per_call=by_call, accuracy=measured, p95_ms=900),)
    return replace(facts, scenario=replace(s, vendors=vendors, downloads=()))


def moved(facts: Facts, values: dict[str, float]) -> Facts:
    """The facts under the values of the sliders, as the report would have them."""
    machine, share, hours = facts.cost.machine, values["vendors"], values.get("vendor_hours", 1.0)

    def dearer(vendor: Vendor) -> Vendor:
        names = ("training", "per_call", "endpoint", "tokens", "batch", "storage")
        prices: dict[str, Any] = {name: price.scaled(share) for name in names if (price := getattr(vendor, name))}
        people = {name: hours * getattr(vendor, name) for name in ("integration_hours", "migration_hours")}
        return replace(vendor, **people, **prices)

    own = ("compute", "vendors", "vendor_hours", "adapting_hours")
    fields: dict[str, Any] = {name: value for name, value in values.items() if name not in own}
    adapting = values.get("adapting_hours", 1.0)
    downloads = tuple(replace(d, hours=adapting * d.hours) for d in facts.scenario.downloads)
    vendors = tuple(map(dearer, facts.scenario.vendors))
    scenario = replace(facts.scenario, **fields, vendors=vendors, downloads=downloads)
    cost = facts.cost if machine is None else replace(facts.cost, machine=replace(machine, usd=values["compute"]))
    bar = replace(facts.bar, rework=0.0, start=0.0, target=values["accuracy_bar"])
    return replace(facts, scenario=scenario, cost=cost, bar=bar)


def test_it_decides_as_the_report_does_wherever_the_sliders_are(page: Page, demo: Facts) -> None:
    chance, cases, wanted = random.Random(0), list[Any](), list[tuple[str, int, list[str], dict[str, Any]]]()
    for number in range(DRAWN):
        close = number % 10 == 0
        facts = even(chance, demo) if close else draw(chance, demo)
        values = {}
        for slider in what_if.sliders(facts):
            far = slider.low + (slider.high - slider.low) * chance.random() ** (1 if slider.step else 3)
            values[slider.name] = slider.value if close else chance.choice([slider.value, far])
        after, known_only = moved(facts, values), chance.random() < 0.2
        cases.append([what_if.model_of(facts), {**values, "known_only": known_only}])
        verdict, months = verdict_of(after), after.scenario.months
        if known_only:
            verdict = judge([way for way in verdict.ways if not way.unknown], months)
        ways = {
            way.title: [[c.bar for c in way.misses], [c.bar for c in way.unknown], way.option.total(months)]
            for way in ways_of(after)
        }
        wanted.append((verdict.headline, verdict.decided_by, sorted(way.title for way in verdict.named), ways))
    script = """(cases) => cases.map(([model, values]) => {
      const found = decide(model, values);
      const ways = found.ways.map((way) => [way.title, [way.misses, way.unknown, way.total]]);
      return [found.headline, found.rule, found.named.map((way) => way.title).sort(), Object.fromEntries(ways)];
    })"""
    for case, ours, theirs in zip(cases, page.evaluate(script, cases), wanted, strict=True):
        theirs_close = {title: [*standings, pytest.approx(usd)] for title, (*standings, usd) in theirs[3].items()}
        assert ours == [*theirs[:3], theirs_close], json.dumps(case)
    assert {rule for _, rule, *_ in wanted} == set(range(7))
    assert len({headline for headline, *_ in wanted}) >= 12


def test_a_slider_moves_the_verdict_at_once_and_the_button_moves_it_back(page: Page) -> None:
    answer, before = page.locator(".answer"), "Not yet: measure GPT-6 Luna."
    assert answer.inner_text() == before
    assert page.get_by_role("button").is_disabled()
    page.get_by_label("Images a month").fill("8")  # of the power of ten
    assert page.get_by_label("Images a month").get_attribute("aria-valuetext") == "100,000,000"
    assert answer.inner_text() == "Adapt and test ViT-B/16."
    assert (
        page.locator(".rule")
        .inner_text()
        .startswith("Rule 2 of 7 decides: the cheapest way that may win is a download")
    )
    page.get_by_label("Images a month").press("End")
    assert page.get_by_label("Images a month").get_attribute("aria-valuetext") == "250,000,000"
    page.get_by_label("An hour of our compute").fill("-0.098")  # of the power of ten
    assert page.get_by_label("An hour of our compute").get_attribute("aria-valuetext") == "$0.80"
    page.get_by_label("Horizon").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Horizon").get_attribute("aria-valuetext") == "3.5 years"
    page.get_by_label("Horizon").fill("0.5")
    assert page.get_by_label("Horizon").get_attribute("aria-valuetext") == "6 months"
    page.get_by_label("Horizon").fill("1")
    assert page.get_by_label("Horizon").get_attribute("aria-valuetext") == "1 year"
    page.get_by_role("button").click()
    assert answer.inner_text() == before
    page.get_by_label("Hours with vendors").fill("0.5")  # of the power of ten
    assert page.get_by_label("Hours with vendors").get_attribute("aria-valuetext") == "320 %"
    assert answer.inner_text() == "Adapt and test ViT-B/16."
    page.get_by_role("button").click()
    page.get_by_label("Only what is known to clear every bar").check()
    assert answer.inner_text() == "Build."
    page.get_by_role("button").click()
    assert answer.inner_text() == before
    assert page.get_by_label("Images a month").get_attribute("aria-valuetext") == "250,000"


def test_bars_end_at_three_times_the_cost_of_the_answer(page: Page) -> None:
    page.get_by_label("Hours to build").press("End")
    width = "bar => parseFloat(bar.style.width)"
    assert page.locator(".ways .named .bar").evaluate(width) == pytest.approx(100 / 3, abs=0.01)
    building = page.get_by_role("row", name="Building").locator(".bar")
    assert building.get_attribute("class") == "bar cut"
    assert building.evaluate(width) == 100
    page.get_by_role("button").click()


def test_the_sliders_start_at_the_assumptions_to_the_last_digit(page: Page, demo: Facts, tmp_path: Path) -> None:
    exact = with_scenario(demo, horizon_years=1.8225, latency_bar_ms=1003.9, images_per_month=12_345_678)
    path = tmp_path / "what-if.html"
    path.write_bytes(what_if.render(replace(exact, bar=replace(demo.bar, target=0.957199))))
    page.goto(path.as_uri())
    shown = [page.get_by_label(name).get_attribute("aria-valuetext") for name in ("Accuracy bar", "Horizon")]
    assert shown == ["95.7199 %", "1.8225 years"]
    shown = [page.get_by_label(name).get_attribute("aria-valuetext") for name in ("Latency bar", "Images a month")]
    assert shown == ["1.0039 s", "12,345,678"]


def test_what_a_name_holds_is_no_part_of_the_page(page: Page, demo: Facts, tmp_path: Path) -> None:
    vendor = replace(demo.scenario.vendors[0], name="</script><b>&lt;")
    path = tmp_path / "what-if.html"
    path.write_bytes(what_if.render(replace(demo, scenario=replace(demo.scenario, vendors=(vendor,)))))
    page.goto(path.as_uri())
    assert page.locator(".answer").inner_text() == "Not yet: measure </script><b>&lt;."
