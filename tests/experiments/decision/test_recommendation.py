from __future__ import annotations

import pytest

from experiments.decision.facts import Facts
from experiments.decision.recommendation import HEADS, section
from experiments.pages.blocks import Heading, Section, Table
from experiments.pages.text import CitedText


def test_sentences_are_collected_by_head_in_the_order_of_the_sections(demo: Facts) -> None:
    one, two, three = (CitedText(text, ("source/bar",)) for text in ("one", "two", "three"))
    parts = [Section("a", (), {"cost": (one,)}), Section("b", (), {"learning": (three,), "cost": (two,)})]
    blocks = section(demo, parts).blocks
    heads = [block.text for block in blocks if isinstance(block, Heading)]
    assert heads == [*HEADS.values(), "The rules it follows"]
    at = blocks.index(Heading(HEADS["cost"]))
    assert blocks[at + 1 : at + 5] == (one, two, Heading(HEADS["learning"]), three)


def test_a_head_that_does_not_exist_is_refused(demo: Facts) -> None:
    with pytest.raises(KeyError, match="costs"):
        section(demo, [Section("a", (), {"costs": ()})])


def test_the_rule_that_decides_is_marked(demo: Facts) -> None:
    table = section(demo, ()).blocks[-1]
    assert isinstance(table, Table)
    decided = [row for row in table.rows if row.style == "decided"]
    assert [[cell.text for cell in row.cells] for row in decided] == [
        ["3", "the cheapest way that may win is not yet known to clear the bars ← decides", "Not yet"],
    ]
    assert len(table.rows) == 7
