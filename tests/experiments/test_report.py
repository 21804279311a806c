"""The report as a whole: sections from one table, the same bytes for the same facts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Number, Row, Section, Table
from experiments.pages.plots import canvas
from experiments.pages.text import CitedText
from experiments.report import SECTIONS, render


def toy_section(facts: Facts) -> Section:
    text = CitedText("Toys are cheap.", (f"run/{facts.run_id}",))
    table = Table(("Toy", "Price"), [Row.of("ball", "$3")], numbers=(1,))
    figure = canvas(height=200)
    figure.add_scatter(x=[1, 2], y=[3, 4], name="price")
    return Section(
        "Toys",
        (text, table, Figure("toys", "Price of toys", CitedText("Prices rise."), figure)),
        recommendation={"learning": (CitedText("Toys teach."),)},
        numbers=(Number("toys.price", 3, "USD", (f"run/{facts.run_id}",)),),
    )


@pytest.mark.slow
def test_a_section_takes_one_module_and_one_entry_of_the_table(demo: Facts) -> None:
    files = render(demo, {**SECTIONS, "toys": toy_section})
    html, markdown = files["report.html"].decode(), files["report.md"].decode()
    document = json.loads(files["report.json"])
    for page in (html, markdown):
        assert "Toys are cheap." in page
        assert "Toys teach." in page
        assert "Prices rise." in page
    assert f'<a href="#run-{demo.run_id[:8]}"' in html
    assert 'id="plot-toys"' in html
    assert "| ball | $3 |" in markdown
    assert "(report.html#figure-toys)" in markdown
    assert document["numbers"]["toys.price"] == {"value": 3, "unit": "USD", "from": [f"run/{demo.run_id}"]}
    assert document["figures"]["toys"]["series"] == [{"name": "price", "x": [1, 2], "y": [3, 4]}]


@pytest.mark.slow
def test_lost_artifacts_are_named_at_the_top(demo: Facts) -> None:
    lost = replace(demo.study.artifacts, missing=("test/confusion.json of final 0/0",))
    markdown = render(replace(demo, study=replace(demo.study, artifacts=lost)))["report.md"].decode()
    said = (
        "The store has lost test/confusion.json of final 0/0: what follows from them is said to be unknown, but was "
        "measured."
    )
    assert said in markdown.partition("\n## ")[0]
    assert said not in render(demo)["report.md"].decode()


@pytest.mark.slow
def test_no_two_sections_give_a_number_or_a_figure_of_the_same_name(demo: Facts) -> None:
    sections = [build(demo) for build in SECTIONS.values()]
    for names in (
        [number.name for section in sections for number in section.numbers],
        [picture.name for section in sections for picture in section.pictures],
    ):
        assert len(names) == len(set(names))
