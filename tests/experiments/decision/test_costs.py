"""Costs beside those that tests/experiments/test_same_answers.py holds."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.decision.costs import Option, adapt, adapt_measured, build, buy, cheapest_by_volume
from experiments.reading.published import Price
from experiments.reading.scenario import Scenario, Vendor
from tests.experiments.decision.test_machines import COST, PUBLISHED, SCENARIO
from tests.experiments.support import known

TODAY = datetime.date(2026, 11, 18)
PRICES = {price.key: price for price in PUBLISHED.prices}
LUNA, _, GEMINI, AZURE, VERTEX, _ = SCENARIO.vendors
AT_ONCE, WAITING = SCENARIO, replace(SCENARIO, latency_bar_ms=None)


def test_nine_million_images_by_the_token() -> None:
    luna, gemini = (buy(vendor, COST, AT_ONCE, TODAY) for vendor in (LUNA, GEMINI))
    assert 36 * luna.serving == pytest.approx(9e6 * (137 * 0.10 + 5 * 0.50) / 1e6)
    assert 36 * gemini.serving == pytest.approx(9e6 * (1150 * 0.25 + 5 * 1.50) / 1e6)
    assert buy(GEMINI, COST, WAITING, TODAY).serving == pytest.approx(gemini.serving / 2)  # batches cost half
    assert (luna.training, luna.retraining) == (0, 0)


def test_people_integrate_and_migrate() -> None:
    luna = buy(LUNA, COST, AT_ONCE, TODAY)
    assert luna.people == 16 * 80
    assert 36 * luna.upkeep == pytest.approx(3 * 8 * 80)


def test_a_service_is_charged_until_it_ends_and_its_storage_with_it() -> None:
    azure = buy(AZURE, replace(COST, labels=50_000), AT_ONCE, TODAY)
    assert azure.ends == pytest.approx(22.2, abs=0.1)
    assert azure.storage == pytest.approx(35)
    assert azure.total(36) == pytest.approx(azure.once + azure.ends * azure.month)
    assert azure.total(12) == pytest.approx(azure.once + 12 * azure.month)
    assert buy(AZURE, replace(COST, labels=500), AT_ONCE, TODAY).storage == pytest.approx(0.35)
    assert buy(replace(AZURE, stored_images=100.0), COST, AT_ONCE, TODAY).storage == pytest.approx(0.07)
    assert buy(AZURE, COST, AT_ONCE, datetime.date(2029, 1, 1)).ends == 0
    sooner = replace(AZURE, training=replace(known(AZURE.training), retires="2027-01-01"))
    assert buy(sooner, COST, AT_ONCE, TODAY).ends == pytest.approx(44 * 12 / 365)  # without one of its services


def test_an_endpoint_carries_a_stated_number_of_images() -> None:
    one = buy(VERTEX, COST, AT_ONCE, TODAY).serving
    assert one == pytest.approx(730 * 1.375)
    full = 5 * 3600 * 730.0
    assert buy(VERTEX, COST, replace(AT_ONCE, images_per_month=full), TODAY).serving == pytest.approx(one)
    assert buy(VERTEX, COST, replace(AT_ONCE, images_per_month=full + 1), TODAY).serving == pytest.approx(2 * one)


def test_what_can_wait_is_paid_by_the_hours_it_takes() -> None:
    assert build(COST, WAITING).serving == pytest.approx(250_000 / (2 * 2000) / 3600 * 0.0816)
    assert buy(VERTEX, COST, WAITING, TODAY).serving == pytest.approx(250_000 / 5 / 3600 * 2.222)


@pytest.mark.parametrize(
    ("key", "images", "usd"),
    [
        ("vision-prediction", 1000, 0),
        ("vision-prediction", 2000, 1.5),
        ("vision-prediction", 5_001_000, 4999 * 1.5 + 1.0),
        ("rekognition-prediction", 1_001_000, 1000.8),
    ],
)
def test_free_images_and_steps_of_a_price(key: str, images: float, usd: float) -> None:
    assert PRICES[key].tariff.month(images) == pytest.approx(usd)


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_price_with_steps_never_falls_as_images_rise(one: float, other: float) -> None:
    few, many = sorted((one, other))
    for price in (PRICES["vision-prediction"], PRICES["rekognition-prediction"], PRICES["azure-prediction"]):
        assert price.tariff.month(few) <= price.tariff.month(many) * (1 + 1e-9)
        assert price.scaled(2).tariff.month(many) == pytest.approx(2 * price.tariff.month(many))


def test_hours_of_maintenance_grow_with_the_horizon() -> None:
    ten = replace(SCENARIO, horizon_years=30)
    ours = build(COST, ten)
    assert ours.people == 84 * 80
    assert ours.total(ten.months) > 84 * 80 + 30 * 12 * 80


def test_a_download_costs_at_least_its_people_and_a_machine() -> None:
    vit = adapt(SCENARIO.downloads[0], COST, AT_ONCE)
    assert vit.unpriced == "its compute was not measured"
    assert vit.total(36) == pytest.approx(60 * 80 + 36 * 80 + 36 * 730 * 0.0816)
    assert adapt(SCENARIO.downloads[0], COST, WAITING).serving == 0


def test_adapting_here_takes_the_people_of_the_quickest_download() -> None:
    [download, *_] = SCENARIO.downloads
    quick = replace(SCENARIO, downloads=(download, replace(download, name="quick", hours=10.0)))
    assert adapt_measured("ours", COST, quick).people == 10 * 80


def test_each_stretch_of_volume_has_its_cheapest_way() -> None:
    # A second machine makes the first way dearer again: its step lies above the other's line.
    def totals(images: float) -> dict[str, float]:
        return {"steps": 100.0 * -(-images // 100_000), "line": 0.0013 * images}

    found = cheapest_by_volume(totals, 250_000)
    assert (found[0].start, found[-1].end) == (1e3, 1e9)
    far, few = (cheapest_by_volume(totals, images) for images in (2e9, 10.0))
    assert (far[0].start, far[-1].end) == (1e3, 2e9)
    assert (few[0].start, few[-1].end) == (10.0, 1e9)
    for one in found:
        middle = (one.start * one.end) ** 0.5
        at = totals(middle)
        assert min(at, key=at.__getitem__) == one.name
    assert [one.name for one in found[:4]] == ["line", "steps", "line", "steps"]
    assert found[0].end == pytest.approx(100 / 0.0013, rel=1e-3)
    assert all(earlier.end == later.start for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("images", [1e-15, 1.0, 20.0, 250_000.0, 3e9, 1e13])
def test_the_stretches_of_volume_are_the_same_wherever_the_search_begins(images: float) -> None:
    # The machine is cheaper than the line just before it is full, and again once two of them are.
    def totals(images: float) -> dict[str, float]:
        machines = max(1, math.ceil(images / 1_234_567))
        return {"machine": 100.0 * machines, "line": 0.000083 * images if images < 2.4e6 else 1e9}

    found = cheapest_by_volume(totals, images, [1_234_567.0, math.inf])
    assert [one.name for one in found] == ["line", "machine", "line", "machine"]
    ends = [100 / 0.000083, 1_234_567, 2.4e6]
    assert [one.end for one in found] == pytest.approx([*ends, max(1e9, images)], rel=1e-6)
    assert (found[0].start, found[-1].end) == (min(1e3, images), max(1e9, images))


def test_two_changes_between_two_steps_of_the_search_are_both_found() -> None:
    def totals(images: float) -> dict[str, float]:
        return {"a": images > 1.02e6, "b": abs(images - 1.03e6) > 1e4, "c": images <= 1.04e6}

    found = cheapest_by_volume(totals, 250_000)
    assert [one.name for one in found] == ["a", "b", "c"]
    assert [one.end for one in found] == pytest.approx([1.02e6, 1.04e6, 1e9])


def test_a_vendor_by_the_call_alone_needs_no_training() -> None:
    untrained = Vendor(name="calls", per_call=PRICES["azure-prediction"])
    assert buy(untrained, COST, SCENARIO, TODAY).total(12) == pytest.approx(12 * 500)
    assert isinstance(known(untrained.per_call), Price)


def test_whoever_trains_buys_the_labels_that_are_not_at_hand() -> None:
    cost, bought = replace(COST, labels=50_000), replace(AT_ONCE, usd_per_label=0.05, labels_at_hand=10_000.0)
    ways: tuple[Callable[[Scenario], Option], ...] = (
        lambda scenario: build(cost, scenario),
        lambda scenario: adapt(scenario.downloads[0], cost, scenario),
        lambda scenario: buy(AZURE, cost, scenario, TODAY),
        lambda scenario: buy(replace(AZURE, stored_images=30_000.0), cost, scenario, TODAY),
        lambda scenario: buy(LUNA, cost, scenario, TODAY),
    )
    extra = [way(bought).total(36) - way(AT_ONCE).total(36) for way in ways]
    # 40,000 labels, or 20,000 where fewer images are stored; a model that is asked needs none.
    assert extra == pytest.approx([2000, 2000, 2000, 1000, 0])
    enough = replace(bought, labels_at_hand=60_000.0)
    assert [way(enough).labels for way in ways] == [0, 0, 0, 0, 0]
    assert [way(replace(AT_ONCE, usd_per_label=9.0)).labels for way in ways] == [0, 0, 0, 0, 0]  # all are at hand
