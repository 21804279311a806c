"""Scenarios side by side: the same study under each, what they assume differently, and what each way costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_core.errors import UserError
from experiments.decision.assumptions import stated_assumptions
from experiments.decision.facts import Facts
from experiments.decision.load_facts import load_facts
from experiments.decision.verdict import Way, verdict_of
from experiments.pages.blocks import Cell, Lead, Page, Row, Section, Table
from experiments.pages.page import References, render_page, write_files
from experiments.pages.text import NOTHING, CitedText, listed
from experiments.reading.study_reader import StudyReader
from sweeps.snapshot import readable
from sweeps.store import Store


def write_scenarios(
    study: str | None, scenarios: Sequence[Path], store: Store, *, out: Path | None = None
) -> list[Path]:
    """Write scenarios.html and scenarios.md, by default to reports/<study>/ in the store.

    Raises:
        UserError: there is no such store or study, or a file breaks a rule or is given twice.
    """
    if twice := next((path for path in scenarios if scenarios.count(path) > 1), None):
        raise UserError(f"--scenario must name different files, but got {twice} more than once")
    with readable(store) as place:
        every = load_facts(StudyReader(place), study, scenarios, results=())
        out = out or place.report(every[0].study.name)
    unique = len({path.name for path in scenarios}) == len(scenarios)
    names = [path.name if unique else str(path) for path in scenarios]
    return write_files(out, render(dict(zip(names, every, strict=True))))


def render(every: Mapping[str, Facts]) -> dict[str, bytes]:
    """The page's files by name.

    Args:
        every: the facts of one study under each scenario, by the scenario's name.
    """
    first = next(iter(every.values()))
    answers = [verdict_of(facts).headline for facts in every.values()]
    same = len(set(answers)) == 1
    text = (
        f"All give the same answer: “{answers[0]}”."
        if same
        else f"They differ: {listed([f'“{answer}”' for answer in dict.fromkeys(answers)])}."
    )
    lead = Lead("What does each scenario make of this study?", CitedText(text, (f"run/{first.run_id}",)))
    titles = ("", *every)
    rows = [Row.of("Answer", *answers, style="ours")]
    rows += [Row.of(name, *values) for name, values in _differences(list(every.values())).items()]
    horizons = {stated_assumptions(facts)["Horizon"] for facts in every.values()}
    costs = f"Cost of every way over {horizons.pop() if len(horizons) == 1 else 'the horizon'}"
    page = Page(
        name="scenarios",
        title=f"Scenarios: {first.study.name}",
        heading="Build or buy, under several scenarios",
        subject=CitedText(f"Study {first.study.name}", (f"run/{first.run_id}",)),
        sections=[
            Section("", (lead, Table(titles, rows, style="cards even"))),
            Section(costs, (Table(titles, _costs(list(every.values())), style="cards even"),)),
        ],
    )
    run = first.study.run_id
    return render_page(page, References({}, first.as_of, {run: "the study"}, cited=[run]))


def _differences(every: Sequence[Facts]) -> dict[str, list[str]]:
    """The assumptions that are not the same in all scenarios, in words."""
    words = [stated_assumptions(facts) for facts in every]
    names = dict.fromkeys(name for found in words for name in found)
    values = {name: [found.get(name, NOTHING) for found in words] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _costs(every: Sequence[Facts]) -> list[Row]:
    """The cost of each way under each scenario that has it, and how it stands against the bars."""
    columns = [_column(facts) for facts in every]
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [Row.of(name, *(column.get(name, Cell(NOTHING)) for column in columns)) for name in names]


def _column(facts: Facts) -> dict[str, Cell]:
    verdict, months = verdict_of(facts), facts.scenario.months
    return {way.title: _cell(way, months, answer=way in verdict.named) for way in verdict.ways}


def _cell(way: Way, months: float, *, answer: bool) -> Cell:
    missed = listed([check.bar for check in way.misses])
    standing = f"misses {missed}" if missed else way.doubts or "clears all bars"
    return Cell(way.option.stated(months), note=standing, judged="in the answer" if answer else "", worse=answer)
