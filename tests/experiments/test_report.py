"""The report as a whole: sections from one table, the same bytes for the same facts."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Number, Row, Section, Table
from experiments.pages.plots import canvas
from experiments.pages.text import CitedText
from experiments.reading.published import load_published
from experiments.reading.scenario import load_scenario
from experiments.report import SECTIONS, render
from tests.experiments.support import gathered


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
    assert [name for name in document["numbers"] if re.fullmatch(r"[\w./-]+", name) is None] == []
    assert document["numbers"]["toys.price"] == {"value": 3, "unit": "USD", "from": [f"run/{demo.run_id}"]}
    assert document["figures"]["toys"]["series"] == [{"name": "price", "x": [1, 2], "y": [3, 4]}]


@pytest.mark.slow
def test_final_runs_are_listed_as_such(demo: Facts) -> None:
    page = render(demo, {})["report.md"].decode()
    assert "final of trial 3, seed 0, complete" in page
    assert "confirmation of trial 3" not in page


@pytest.mark.slow
def test_the_first_lines_say_under_which_scenario(demo: Facts) -> None:
    for facts, words in (
        (demo, "UTC; example scenario: replace it with yours (`--scenario mine.toml`)"),
        (replace(demo, scenario=replace(demo.scenario, file="ours.toml", is_example=False)), "UTC; scenario ours.toml"),
    ):
        assert words in render(facts, {})["report.md"].decode()


@pytest.mark.slow
def test_a_study_that_is_running_is_not_said_to_have_ended(demo: Facts) -> None:
    for state, words in (("finished", f"{demo.as_of}, when the study ended"), ("running", f"{demo.as_of}, a double")):
        page = render(replace(demo, study=replace(demo.study, state=state)), {})["report.md"].decode()
        assert f"figures that were more than a year old on {words}" in page


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


@pytest.mark.slow
def test_nothing_is_said_of_cifar10_where_the_data_are_others(demo: Facts) -> None:
    own = replace(CIFAR10, name="flowers", groups=(), side=48, sha256="ab" * 32)
    published = load_published()
    files = render(gathered(replace(demo.study, data_set=own), published, load_scenario(published)))
    for name in ("report.html", "report.md"):
        page = re.sub("</?span[^>]*>", "", files[name].decode())
        assert "Build or buy: an image classifier for flowers" in page
        assert "Training images of 48 x 48 pixels" in page
        assert "how to reproduce the study" in page
        assert "--images DIR --size 48" in page
        for foreign in (
            "CIFAR",
            "airbench",
            "ImageNet",
            "on the same 10,000",
            "animal",
            "vehicle",
            "five_conv, as",
            "a start",
        ):
            assert foreign not in page, foreign
    document = json.loads(files["report.json"])
    assert not [name for name in document["numbers"] if name.startswith(("published.", "fresh.", "group."))]
    assert [name for name in document["numbers"] if name.startswith("bar.")] == ["bar.target"]
    assert "is a start" not in files["report.md"].decode()
