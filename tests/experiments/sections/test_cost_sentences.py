"""Each sentence about money is held against numbers on both sides of the rule that picks it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.decision.measures import Measures
from experiments.sections.cost_sentences import bill, costs

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


def said(m: Measures) -> str:
    return " ".join(sentence.text for sentence in costs(m))


@pytest.mark.parametrize(
    "words",
    [
        "21 min 30 s of wall time and 1.01 PFLOP of training, $0.029 at $0.0816 an hour for AWS m7g.large (2 vCPU), "
        "taken to be as fast as the processor of 2 cores it was measured on.",
        "People come to $9,600 (120 h at $80.00), which the scenario assumes and nobody measured.",
        "Energy was not measured",
        "one image is labelled in 4 ms (95 % of them within 6 ms); batches of 256 at 1,600 images a second",
        "Vendors priced by the image, for 1,000: Azure Custom Vision $2.00.",
        "so 1 machine kept on for 250,000 images a month: $59.57 a month, used or idle",
        "Against Azure Custom Vision, what building costs at the start has come back after 21.6 months.",
        "Break-even with Azure Custom Vision: 161,000 images a month",
        "Break-even with Google Vertex AutoML: building costs no more at any volume that one machine carries",
    ],
)
def test_the_money_is_told(demo: Measures, words: str) -> None:
    assert words in said(demo)


def test_what_was_not_timed_is_bounded_and_said_to_be(fresh_store: Fake) -> None:
    fresh_store.add(omit=("test/serving.json",))
    text = said(fresh_store.measures("demo"))
    assert "how fast the network labels was not measured" in text
    assert "so an answer takes at most 656 ms" in text
    assert "at most $0.015 for 1,000 images one by one and at most $0.000029 in batches" in text


def test_a_scenario_that_lets_images_wait_keeps_no_machine_on(demo: Measures) -> None:
    text = said(replace(demo, scenario=replace(demo.scenario, latency_bar_ms=None)))
    assert "The scenario lets images wait" in text
    assert "kept on" not in text


def test_a_start_that_never_comes_back_is_said(demo: Measures) -> None:
    small = replace(demo, scenario=replace(demo.scenario, images_per_month=1000))
    assert "what building costs at the start never comes back" in said(small)
    free = replace(demo, scenario=replace(demo.scenario, engineering_hours=0))
    assert "building costs no more from the first day" in said(free)


def test_unmeasured_costs_are_said_to_be_unknown(fresh_store: Fake) -> None:
    fresh_store.add(trials=(), champion=(), state="interrupted")
    m = fresh_store.measures("demo")
    text = said(m)
    assert "How long the study took was not recorded" in text
    assert "no run of the recipe has finished" in text
    assert "no network was timed" in text
    assert "Neither what building would cost nor a break-even can be said yet: how long the study took" in text
    table = bill(m)
    assert [row.usd for row in table.spent] == ["no price", "no price"]
    assert not any(row.ours for row in table.ways)
    assert table.why_not == "how long the study took was not recorded"


def test_the_bill_has_building_first_and_then_the_cheapest(demo: Measures) -> None:
    table = bill(demo)
    assert [row.name for row in table.ways] == [
        "building", "Azure Custom Vision", "Google Vertex AutoML", "AWS Rekognition Custom Labels",
    ]  # fmt: skip
    assert (table.ways[0].total, table.ways[1].break_even, table.ways[2].break_even) == ("$11,745", "161,000", "any")
    assert [row.energy for row in table.spent] == ["not measured"] * 4
