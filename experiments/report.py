"""The build-vs-buy report of a study: from its runs in MLflow to files, and back into MLflow as artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.decision import recommendation, what_if
from experiments.decision.facts import Facts
from experiments.decision.load_facts import load_facts
from experiments.decision.verdict import verdict_of
from experiments.labels import section as labels
from experiments.pages.blocks import Figure, Lead, Page, Photo, Section
from experiments.pages.page import References, finite, render_page, write_files
from experiments.pages.text import MEASURES, CitedText
from experiments.reading.published import Dated
from experiments.reading.results import RESULTS, load_results
from experiments.reading.scenario import DEFAULT_SCENARIO, Scenario
from experiments.reading.study import Study
from experiments.reading.study_reader import StudyReader
from experiments.sections import (
    accuracy,
    adapting,
    calibration,
    classes,
    examples,
    importance,
    money,
    rerun,
    search,
    selection,
    sensitivity,
    training,
    verdict,
)
from experiments.systems import section as systems
from sweeps.snapshot import readable
from sweeps.store import Store
from sweeps.words import counted, shortened

ARTIFACTS = "report"  # the folder of the study's own run that the files are logged to
SCHEMA = 1

SECTIONS: Mapping[str, Callable[[Facts], Section]] = {
    "verdict": verdict.section,
    "sensitivity": sensitivity.section,
    "money": money.section,
    "accuracy": accuracy.section,
    "adapting": adapting.section,
    "selection": selection.section,
    "labels": labels.section,
    "classes": classes.section,
    "calibration": calibration.section,
    "examples": examples.section,
    "training": training.section,
    "search": search.section,
    "importance": importance.section,
    "systems": systems.section,
    "rerun": rerun.section,
}
"""The sections of the report, in order. The recommendation, which collects from all of them, follows the second."""

ABOUT_CIFAR10 = ("systems",)  # left out for other data


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report that was written.

    Attributes:
        paths: paths of report.html, report.md, what-if.html and report.json.
        answer: headline of the verdict.
        warnings: what the report cannot cover, a sentence each.
        not_logged: why the files are not in MLflow too; empty if they are.
    """

    paths: list[Path]
    answer: str
    warnings: list[str]
    not_logged: str


def write_report(
    study: str | None,
    store: Store,
    *,
    out: Path | None = None,
    results: Path = RESULTS,
    scenario: Path = DEFAULT_SCENARIO,
) -> WrittenReport:
    """Write report.html, report.md, what-if.html and report.json, by default to reports/<study>/ in the store.

    The files are logged to the study's own run too. Nothing is written if anything is wrong with the input.

    Args:
        study: name of the study; None takes the most recent one.
        results: folder that `reproduce.py` writes to; it may be empty or missing.

    Raises:
        UserError: there is no such store or study, or a file of figures, scenario or results breaks a rule.
    """
    reproduced = load_results(results)
    with readable(store) as place:
        reader = StudyReader(place)
        [facts] = load_facts(reader, study, [scenario], reproduced)
        files = render(facts)
        out = out or place.report(facts.study.name)
        paths, headline = write_files(out, files), verdict_of(facts).headline
        not_logged = reader.log(facts.run_id, out, sorted(files), ARTIFACTS)
        return WrittenReport(paths, headline, list(_warnings(facts.study)), not_logged)


def render(facts: Facts, builders: Mapping[str, Callable[[Facts], Section]] = SECTIONS) -> dict[str, bytes]:
    """The report's files by name: a pure function of the facts."""
    sections = [build(facts) for name, build in builders.items() if facts.is_cifar10 or name not in ABOUT_CIFAR10]
    study = facts.study
    times = f"{study.start:%Y-%m-%d %H:%M} to {study.end:%Y-%m-%d %H:%M} UTC"
    ended = "" if study.state == "running" else ", when the study ended"
    page = Page(
        name="report",
        title=f"Build or buy: {study.name}",
        heading=f"Build or buy: an image classifier for {study.data_set.name}",
        subject=CitedText(f"Study {study.name}, {times}; {_under(facts.scenario)}", (f"run/{study.run_id}",)),
        state=" ".join(_warnings(study)),
        folded=True,
        sections=[*sections[:2], recommendation.section(facts, sections), *sections[2:]],
        footer=f"{MEASURES} A dagger (†) marks figures that were more than a year old on {facts.as_of}{ended}, "
        "a double dagger (‡) figures whose source gives no date. Prices are in US dollars.",
    )
    files = render_page(page, references_of(facts))
    return {**files, verdict.WHAT_IF: what_if.render(facts), "report.json": numbers_json(facts, page.sections)}


def _under(scenario: Scenario) -> str:
    if scenario.is_example:
        return "example scenario: replace it with yours (`--scenario mine.toml`)"
    return f"scenario {scenario.file}"


def _warnings(study: Study) -> Iterator[str]:
    if study.state != "finished":
        yield f"This study is {study.state}: the report covers its runs so far."
    if study.subject.empty:
        yield "No trial has finished, so no network was measured."
        if failed := (study.search["state"] == "failed").sum():
            runs = "its run" if failed == 1 else "their runs"
            why = search.failure(study)
            yield f"{counted(failed, 'trial')} failed{why}: `error.txt` of {runs} in MLflow may say more."
    if study.artifacts.missing:
        lost = shortened(study.artifacts.missing)
        yield f"The store has lost {lost}: what follows from them is said to be unknown, but was measured."


def references_of(facts: Facts) -> References:
    """All published figures that may be cited; the study and the network it is about lead the list of runs."""
    study, published = facts.study, facts.published
    entries: dict[str, Dated] = {"bar": facts.bar}
    entries |= {a.key: a for a in published.accuracies}
    entries |= {"fresh": published.fresh_test_set} if facts.is_cifar10 else {}
    entries |= {p.key: p for p in published.prices}
    if facts.cost.machine is not None:
        entries.setdefault(facts.cost.machine.key, facts.cost.machine)
    entries |= {score.key: score.entry for score in facts.scores.values()}
    entries["scenario"] = facts.scenario.entry
    what = {study.run_id: "the study"}
    what |= {r.run_id: f"{r.name}, seed {r.seed}, reproduced" for r in facts.results}
    what |= labels.described(facts.label_curve)
    for row in study.attempts.to_dict("records"):
        if row["tags.stage"] == "search":
            what[row["run_id"]] = f"search trial {row['trial']:g}, {row['state']}"
        else:
            seed = f", seed {row['seed']:g}" if row["seed"] == row["seed"] else ""
            kind = "final" if row["tags.stage"] == "final" else "confirmation"
            what[row["run_id"]] = f"{kind} of trial {row['source_trial']:g}{seed}, {row['state']}"
    if study.adapted is not None:
        what[study.adapted.run_id] = f"adapted {study.adapted.backbone} of {study.adapted.study}"
    subject = facts.subject_runs
    return References(entries, facts.as_of, what, together=subject, cited=[study.run_id, *subject])


def numbers_json(facts: Facts, sections: Sequence[Section]) -> bytes:
    """report.json: the verdict, every number with its unit and sources, and the series of every figure."""
    study, decided = facts.study, verdict_of(facts)
    lead = next((block for section in sections for block in section.blocks if isinstance(block, Lead)), None)
    pictures = [picture for section in sections for picture in section.pictures]
    document = {
        "schema": SCHEMA,
        "study": {
            "name": study.name,
            "run": study.run_id,
            "state": study.state,
            "as_of": facts.as_of.isoformat(),
        },
        "verdict": {
            "answer": decided.answer,
            "headline": decided.headline,
            "because": _cited(lead.because) if lead else None,
            "facts": [_cited(text) for _, text in lead.facts] if lead else [],
            "rules": [{"if": r.condition, "then": r.answer, "holds": r.holds} for r in decided.rules],
            "decided_by": decided.decided_by + 1,
        },
        "numbers": {
            number.name: {"value": finite(number.value), "unit": number.unit, "from": list(number.sources)}
            for section in sections
            for number in section.numbers
        },
        "figures": {picture.name: _picture(picture) for picture in pictures},
    }
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _picture(picture: Figure | Photo) -> dict[str, Any]:
    series = []
    for trace in picture.figure.data if isinstance(picture, Figure) else ():
        drawn = trace.to_plotly_json()
        series.append({key: drawn[key] for key in ("name", "x", "y", "z", "base") if drawn.get(key) is not None})
    return {"title": picture.title, "caption": _cited(picture.caption), "series": series}


def _cited(text: CitedText) -> dict[str, Any]:
    return {"text": text.text, "from": list(text.sources)}
