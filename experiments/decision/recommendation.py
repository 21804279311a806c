"""Recommendation of the report: what the other sections conclude, by head, and the rules of the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.decision.facts import Facts
from experiments.decision.verdict import CLOSE, verdict_of
from experiments.pages.blocks import Block, Heading, Row, Section, Table
from experiments.pages.text import CitedText
from sweeps.words import percent

HEADS: Mapping[str, str] = {
    "performance": "Performance against the bar",
    "customisation": "Customisation",
    "cost": "Cost of building, retraining and serving, against buying",
    "learning": "Learning and improvement",
}
"""The keys of `Section.recommendation`, in order, and the title of each."""


def section(facts: Facts, sections: Sequence[Section]) -> Section:
    """Collect the sentences of all sections, in their order.

    Raises:
        KeyError: a section has a sentence for a head that is not in `HEADS`.
    """
    texts: dict[str, list[CitedText]] = {head: [] for head in HEADS}
    for part in sections:
        for head, sentences in part.recommendation.items():
            texts[head] += sentences
    blocks: list[Block] = []
    for head, title in HEADS.items():
        blocks += [Heading(title), *texts[head]]
    intro = (
        "The first rule that holds decides. A way may win if no bar is known to be missed, at least one is unknown, "
        f"and it costs over {percent(CLOSE, 0)} less than every way known to clear all bars. Measurements come from "
        "the runs, prices from the sources below, and the rest from the scenario."
    )
    blocks += [Heading("The rules it follows"), CitedText(intro), _rules(facts)]
    return Section("The recommendation, under four heads", tuple(blocks))


def _rules(facts: Facts) -> Table:
    verdict, rows = verdict_of(facts), []
    first = verdict.decided_by
    for index, rule in enumerate(verdict.rules):
        condition = f"{rule.condition} \N{LEFTWARDS ARROW} decides" if index == first else rule.condition
        rows.append(Row.of(f"{index + 1}", condition, rule.answer, style="decided" if index == first else "after"))
    return Table(("", "If", "then"), rows, numbers=(), style="rules")
