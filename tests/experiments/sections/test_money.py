"""Sentences, tables and numbers about costs, on both sides of the rule that picks each."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from experiments.decision.assumptions import stated_assumptions
from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Missing, Table
from experiments.pages.text import CitedText
from experiments.reading.scenario import Vendor
from experiments.reading.study import HttpSpeed
from experiments.sections.money import section
from tests.experiments.decision.test_verdict import under, vendor
from tests.experiments.support import (
    ADAPTED,
    gathered,
    said,
    with_artifacts,
    with_scenario,
    with_study,
    with_test,
)

START = vendor(0.5, integration_hours=10)


def text(facts: Facts, head: str = "cost") -> str:
    return said(section(facts), head)


def tables(facts: Facts) -> list[list[list[str]]]:
    """The cells of the table of what was spent, and of the table of options."""
    found = [block for block in section(facts).blocks if isinstance(block, Table)]
    return [[[cell.text for cell in row.cells] for row in table.rows] for table in found]


@pytest.mark.parametrize(
    "words",
    [
        "21 min 30 s of wall time and 1.01 PFLOP of training, $0.029 at $0.0816 an hour for AWS m7g.large (2 vCPU), "
        "assumed to be as fast as the processor of 2 cores of the study.",
        "People cost $9,600 (84 h to build and 12 h a year, at $80.00), which the scenario assumes and nobody",
        "Energy was not measured",
        "one image is labelled in 4 ms (95 % of them within 6 ms); batches of 256 at 1,600 images a second",
        "Compute paid by the second, with 2 copies on one machine, each assumed as fast, costs $0.000045 for 1,000",
        "Vendors priced by the image, for the first 1,000 that are paid: GPT-6 Luna $0.016; Claude Haiku 5.5 $0.017; ",
        "so 1 machine is kept on for 250,000 images a month, busy at most 60 % of the time: $59.57 a month",
        "Over 3 years building costs $11,745: people $9,600, the study $0.029, retraining $0.065, serving $2,144.",
        "The others: GPT-6 Luna $3,346; Claude Haiku 5.5 $3,356; Gemini 3.1 Flash-Lite $5,855; ViT-B/16 at least",
    ],
)
def test_costs_are_stated(demo: Facts, words: str) -> None:
    assert words in text(demo)


def test_a_speed_that_was_not_timed_is_bounded(demo: Facts) -> None:
    stated = text(gathered(with_artifacts(demo, serving={}).study, demo.published, demo.scenario))
    assert "the speed of labelling was not measured" in stated
    assert "so an answer takes at most 656 ms" in stated
    assert "at most $0.0074 for 1,000 images one by one and at most $0.000015 in batches" in stated


def test_the_speed_over_http_stands_beside_that_in_the_process(demo: Facts) -> None:
    assert "over HTTP" not in text(demo)
    [run_id, *_] = demo.study.artifacts.serving
    served = with_artifacts(demo, http={run_id: HttpSpeed(0.02, 0.03, 4, 100.0, 64, 400.0)})
    assert "batches of 256 at 1,600 images a second; over HTTP in 20 ms (95 % within 30 ms)" in text(served)
    _, spent = tables(served)
    assert [row[:2] for row in spent[-2:]] == [
        ["a million predictions over HTTP, one a request, 4 clients at once", "2 h 47 min"],
        ["a million predictions over HTTP, 64 a request", "41 min 40 s"],
    ]
    numbers = {number.name: number.value for number in section(served).numbers}
    assert (numbers["serving.http_latency95"], numbers["serving.http_images_per_second"]) == (0.03, 400)


def test_lines_that_leave_the_figure_are_named(demo: Facts) -> None:
    caption = section(demo).pictures[0].caption.text
    assert caption.endswith(
        " Cut at the top: Google Vertex AutoML ($38,415) and AWS Rekognition Custom Labels ($107,053)."
    )
    assert "Cut" not in section(with_scenario(demo, vendors=demo.scenario.vendors[:2])).pictures[0].caption.text


def test_the_scenario_picks_the_sentence(demo: Facts) -> None:
    waits = text(with_scenario(demo, latency_bar_ms=None))
    assert "The scenario lets images wait" in waits
    assert "kept on for" not in waits
    assert "No vendor is priced by the image" in text(with_scenario(demo, vendors=demo.scenario.vendors[4:]))


def test_a_price_by_the_image_is_that_of_a_paid_image_without_machines(demo: Facts) -> None:
    call, endpoint, token = (demo.published.role(role)[0] for role in ("prediction", "endpoint", "token"))
    free = Vendor(name="Free", per_call=replace(call, usd=1.5, free=1000, steps=((5e6, 1.0),)))
    kept = Vendor(name="Kept", per_call=replace(call, usd=2.0, free=0, steps=()), endpoint=endpoint)
    both = replace(free, name="Both", tokens=replace(token, usd=10.0, usd_output=0), image_tokens=40)
    node = Vendor(name="Node", endpoint=endpoint, batch=endpoint)
    facts = with_scenario(demo, vendors=(free, kept, both, node))
    frees = "$1.50 (1,000 a month are free)"
    stated = f"the first 1,000 that are paid: Free {frees}; Kept $2.00; Both {frees} and $1.00."
    assert stated in text(facts)
    assert stated in text(with_scenario(facts, latency_bar_ms=None))


def test_of_a_vendor_with_several_prices_the_endpoint_alone_bills_while_idle(demo: Facts) -> None:
    call, endpoint = (demo.published.role(role)[0] for role in ("prediction", "endpoint"))
    both = Vendor(name="Both", per_call=replace(call, usd=2.0, free=0, steps=()), endpoint=replace(endpoint, usd=0.1))
    facts = with_scenario(demo, vendors=(both,))
    assert "Endpoints that bill while idle, a month: Both $73.00." in text(facts)
    twice = with_scenario(facts, vendors=(replace(both, images_per_second=0.06),))  # 157,680 a month
    assert "Endpoints that bill while idle, a month: Both $146." in text(twice)


def test_prices_of_labelling_in_batches_are_cited_where_images_can_wait(demo: Facts) -> None:
    def cited(facts: Facts) -> set[str]:
        [serving] = [said for said in section(facts).recommendation["cost"] if said.text.startswith("Serving: ")]
        return {source for source in serving.sources if "gemini" in source}

    assert cited(demo) == {"source/gemini-3.1-flash-lite"}
    assert cited(with_scenario(demo, latency_bar_ms=None)) == {"source/gemini-3.1-flash-lite-batch"}


def test_what_two_scenarios_differ_in_is_stated_to_the_last_digit(demo: Facts) -> None:
    stated = stated_assumptions(with_scenario(demo, images_per_month=1_004_999))
    assert stated["Images a month"] == "1,004,999"
    moved = stated_assumptions(replace(demo, bar=replace(demo.bar, target=0.70004)))
    assert moved["Accuracy bar"].startswith("70.004 % of")
    vertex = next(v for v in demo.scenario.vendors if v.batch and v.batch.role == "endpoint")
    waits = with_scenario(demo, latency_bar_ms=None, vendors=(replace(vertex, images_per_second=50),))
    assert " an hour for 50 images a second" in stated_assumptions(waits)[vertex.name]


def test_unknown_costs_are_stated(empty: Facts) -> None:
    stated = text(empty)
    assert "The duration of the study was not recorded, so building has no price yet." in stated
    assert "no run of the recipe has finished" in stated
    assert "no network was timed" in stated
    assert "The cost of building is not known yet: the duration of the study was not" in stated
    options, spent = tables(empty)
    assert [row[3] for row in spent] == ["no price", "no price"]
    assert options[1][0] == "GPT-6 Luna"
    (missing,) = (block for block in section(empty).blocks if isinstance(block, Missing))
    assert missing.text == "The cost of building is not known yet: the duration of the study was not recorded."
    assert "Without building, which has no line: the duration of the study" in section(empty).pictures[0].caption.text


def test_the_tables_have_building_first_and_then_the_cheapest_vendor(demo: Facts) -> None:
    options, spent = tables(demo)
    assert [(row[0], row[-1]) for row in options] == [
        ("building", "$11,745"),
        ("GPT-6 Luna", "$3,346"),
        ("Claude Haiku 5.5", "$3,356"),
        ("Gemini 3.1 Flash-Lite", "$5,855"),
        ("ViT-B/16", "at least $9,824"),
        ("Azure Custom Vision until it ends, in 22.3 months", "$13,912"),
        ("Google Vertex AutoML", "$38,415"),
        ("AWS Rekognition Custom Labels", "$107,053"),
    ]
    assert options[5][-2] == "$779"  # 50,000 stored images
    assert spent[0] == ["the whole study", "21 min 30 s", "1.01 PFLOP", "$0.029", ""]


def test_the_figure_has_a_line_for_each_option(demo: Facts) -> None:
    (figure,) = section(demo).pictures
    assert isinstance(figure, Figure)
    names = ["building, $11,745", "ViT-B/16, at least $9,824", "GPT-6 Luna, $3,346"]
    assert [trace.name for trace in figure.figure.data][:3] == names
    assert figure.figure.data[0].y == pytest.approx((6720.03, 11744.54))
    azure = next(trace for trace in figure.figure.data if trace.name.startswith("Azure"))
    assert azure.x[-1] == pytest.approx(22.2, abs=0.1)  # it ends within the horizon
    assert figure.figure.layout.yaxis.range[1] == pytest.approx(1.05 * 3 * 11744.54, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Cheapest so far, of building and calls: calls for the first 18.6 months, then building."),
        ({"engineering_hours": 0}, "At any time, building has cost less than calls."),
        ({"images_per_month": 1000}, "At any time, calls has cost less than building."),
        (
            {"engineering_hours": 0, "maintenance_hours_per_year": 0, "images_per_month": 1000, "vendors": (START,)},
            "of building and calls: building for the first 13.5 months, then calls.",
        ),
        ({"horizon_years": 0.001}, "At any time, calls has cost less than building."),
    ],
)
def test_it_is_said_from_when_to_when_each_is_cheaper(demo: Facts, changes: dict[str, Any], words: str) -> None:
    facts = with_scenario(under(demo, vendor()), **changes)
    assert words in section(facts).pictures[0].caption.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "these cost least over 3 years, AMONG: calls up to 163,000, building above."),
        (
            {"engineering_hours": 0, "maintenance_hours_per_year": 0},
            "these cost least over 3 years, AMONG: calls up to 29,800, building above.",
        ),
        ({"vendors": (vendor(500.0),)}, "building costs least over 3 years, AMONG."),
        (
            {"latency_bar_ms": 8, "vendors": (vendor(p95_ms=5),)},  # which a busy machine misses
            "these cost least over 3 years, AMONG: calls up to 163,000, building up to 123,000,000, calls above.",
        ),
    ],
)
def test_the_cheapest_way_is_stated_by_volume(demo: Facts, changes: dict[str, Any], words: str) -> None:
    texts = [
        b.text for b in section(with_scenario(under(demo, vendor()), **changes)).blocks if isinstance(b, CitedText)
    ]
    [stated] = [text for text in texts if text.startswith("From 1,000 to")]
    among = "of the ways that miss no bar and have a price"
    assert stated == f"From 1,000 to 1 billion images a month, {words.replace('AMONG', among)}"


@pytest.mark.parametrize(
    ("images", "span", "words"),
    [
        (1e13, "1,000 to 10,000", "building above."),
        (120, "120 to 1", "building above."),
        (250_000, "1,000 to 1", "building above."),
    ],
)
def test_the_volumes_reach_to_that_of_the_scenario(demo: Facts, images: float, span: str, words: str) -> None:
    made = section(under(demo, vendor(), images_per_month=images))
    [stated] = [b.text for b in made.blocks if isinstance(b, CitedText) and b.text.startswith("From ")]
    assert stated.startswith(f"From {span} billion images a month, ")
    assert stated.endswith(words)
    [*_, end] = [number.value for number in made.numbers if re.fullmatch(r"cheapest.\d+.up_to", number.name)]
    assert end == max(1e9, images)


@pytest.mark.parametrize("images", [1, 250_000])
def test_a_machine_that_is_cheapest_when_it_is_nearly_full_is_found_at_any_volume(demo: Facts, images: float) -> None:
    full, price = 1_234_567, replace(demo.published.role("endpoint")[0], usd=0.99 * 1_234_567 / 500 / 730)
    kept = Vendor(name="kept", endpoint=price, images_per_second=full / 3600 / 730)
    facts = under(with_test(demo, 0.5), vendor(), kept, images_per_month=images)
    [stated] = [b.text for b in section(facts).blocks if isinstance(b, CitedText) and b.text.startswith("From ")]
    assert ": calls up to 1,220,000, kept up to 1,230,000, calls up to 2,440,000, kept up to 2,470,000, " in stated


def test_a_volume_at_which_every_way_misses_a_bar_has_none(demo: Facts) -> None:
    facts = with_study(with_scenario(under(demo, vendor(p95_ms=9)), latency_bar_ms=8), adapted=ADAPTED)
    texts = [block.text for block in section(facts).blocks if isinstance(block, CitedText)]
    assert any(text.endswith("have a price: building up to 123,000,000, none above.") for text in texts)
    names = {number.name: number.value for number in section(facts).numbers}
    assert (names["cheapest.0.name"], names["cheapest.1.name"]) == ("building", None)


def test_vendors_take_their_colours_in_turn(demo: Facts) -> None:
    again = tuple(replace(v, name=f"{v.name} again") for v in demo.scenario.vendors)
    (figure,) = section(with_scenario(demo, vendors=(*demo.scenario.vendors, *again))).pictures
    assert isinstance(figure, Figure)
    colours = [trace.line.color for trace in figure.figure.data]
    assert len(set(colours[:10])) == 10
    assert colours[10:12] == colours[1:3]


def test_services_that_can_be_trained_are_named(demo: Facts) -> None:
    stated = text(demo, "customisation")
    custom = "AWS Rekognition Custom Labels, Azure Custom Vision and Google Vertex AutoML"
    assert f"Of the services priced here, {custom} can be trained on these ten classes; " in stated
    assert "; AWS Rekognition and Google Vision labels return labels of their own." in stated
