"""The build-vs-buy report of a study: from its runs in MLflow to files, and back into MLflow as artifacts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.decision.measures import Measures, measure
from experiments.decision.sensitivity import flip_sentences, swings
from experiments.decision.verdict import decide
from experiments.pages import text as words
from experiments.pages.page import References, ReportPaths, render_page, write_files
from experiments.reading.published import DEFAULT_PATH, Dated, Published, load_published
from experiments.reading.results import RESULTS, load_recipes, load_results
from experiments.reading.scenario import DEFAULT_SCENARIO, Scenario, load_scenario
from experiments.reading.studies import Reader, Study
from experiments.sections import captions, cost_sentences
from experiments.sections.heads import heads_of, pruning_sentence
from experiments.sections.report_numbers import numbers_json
from experiments.sections.report_pictures import draw
from experiments.systems import sentences as system_sentences
from experiments.systems.reproduction import System, side_by_side
from sweeps.store import DEFAULT_STORE, Store

ARTIFACTS = "report"  # the folder of the study's own run that the files are logged to


def write_report(
    study: str | None = None,
    *,
    store: Path = DEFAULT_STORE,
    tracking_uri: str | None = None,
    out: Path | None = None,
    published: Path = DEFAULT_PATH,
    results: Path = RESULTS,
    scenario: Path = DEFAULT_SCENARIO,
) -> ReportPaths:
    """Write report.html, report.md, report.json and the pictures, by default to reports/<study>/ in the store.

    They are logged to the study's own run too. Without a name, the most recent study is reported. Nothing is written
    if anything is wrong with the input.

    Args:
        results: the folder that `reproduce.py` writes to; it may be empty or missing.

    Raises:
        StoreError: there is no such store or study.
        PublishedError: the published figures break a rule.
        ScenarioError: the scenario does.
        ResultError: a result of a reproduction does.
    """
    outside = load_published(published)
    assumed = load_scenario(outside, scenario)
    systems = side_by_side(outside, load_results(results), load_recipes())
    place = Store.locate(store, tracking_uri=tracking_uri)
    reader = Reader(place)
    read = reader.read(study)
    out = out or place.report(read.name)
    files = render(read, outside, assumed, systems)
    write_files(out, files)
    return ReportPaths(
        html=out / "report.html",
        markdown=out / "report.md",
        numbers=out / "report.json",
        not_logged=reader.log(read.run_id, out, sorted(files), ARTIFACTS),
    )


def render(study: Study, published: Published, scenario: Scenario, systems: Sequence[System]) -> dict[str, bytes]:
    """The report's files by name; a pure function of the study, the outside figures and the scenario.

    Raises:
        ScenarioError: the scenario prices another device than the study's.
    """
    m = measure(study, published, scenario)
    moved = swings(m)
    pictures = draw(study, m, moved)
    references = references_of(study, m, systems)
    verdict = decide(m)
    context: dict[str, Any] = {
        "m": m,
        "study": study,
        "verdict": verdict,
        "heads": heads_of(m),
        "flips": flip_sentences(m, moved),
        "bill": cost_sentences.bill(m),
        "scenario_rows": scenario_rows(m),
        "looks": captions.looks_sentence(m),
        "pruning": pruning_sentence(m),
        "systems": systems,
        "said": system_sentences,
        "candidates": candidates(study),
        "facts_of_runs": facts_of_runs(study),
        "commands": commands(study, scenario),
    }
    files = render_page("report", context, pictures, references)
    numbers = numbers_json(study, m, verdict, moved, systems, pictures)
    return {**files, "report.json": numbers}


def references_of(study: Study, m: Measures, systems: Sequence[System]) -> References:
    """All sources in the order of their file; the study and its subject lead the list of runs."""
    published = m.published
    entries: dict[str, Dated] = {"bar": m.bar}
    entries |= {a.key: a for a in published.accuracies} | {"fresh": published.fresh_test_set}
    entries |= {p.key: p for p in published.prices}
    if m.cost.machine is not None:
        entries.setdefault(m.cost.machine.key, m.cost.machine)
    entries["scenario"] = m.scenario.entry
    what = {study.run_id: "the study", **system_sentences.what_runs_are(systems)}
    for row in study.attempts.to_dict("records"):
        stage = "search trial" if row["tags.stage"] == "search" else "confirmation of trial"
        number = row["trial"] if stage == "search trial" else row["source_trial"]
        seed = f", seed {row['seed']:g}" if stage != "search trial" and row["seed"] == row["seed"] else ""
        what[row["run_id"]] = f"{stage} {number:g}{seed}, {row['state']}"
    subject = m.subject_runs
    return References(entries, m.as_of, what, together=subject, cited=(m.run_id, *subject))


def scenario_rows(m: Measures) -> list[tuple[str, str]]:
    """The scenario for people, as label and value."""
    s = m.scenario
    machine = m.cost.machine
    waits = "none: images can wait, and compute is paid by the second"
    rows = [
        ("Images a month", words.count(s.images_per_month)),
        ("Accuracy bar", f"{words.short_percent(s.accuracy_bar)} of the test images"),
        ("Latency bar", words.duration(s.latency_bar_ms / 1000) if s.latency_bar_ms is not None else waits),
        ("Horizon", words.years(s.horizon_years)),
        ("People, to build", f"{s.engineering_hours:g} h at {words.rate(s.hourly_rate)}: {words.total(s.people_usd)}"),
        ("Retraining", f"{words.times(s.retraining_per_year)} a year"),
        ("Compute", f"{machine.name}, {words.rate(machine.usd)} an hour" if machine else "no price for this device"),
    ]
    for vendor in s.vendors:
        parts = [f"training {words.money(vendor.training.least_purchase)} at least"]
        if vendor.per_call:
            parts.append(f"{words.money(vendor.per_call.usd)} for 1,000 images")
        if vendor.endpoint:
            hours = vendor.endpoint_hours_per_month
            parts.append(f"{words.rate(vendor.endpoint.usd)} an hour, kept ready {hours:g} h a month")
        rows.append((vendor.name, "; ".join(parts)))
    return rows


def candidates(study: Study) -> list[dict[str, Any]]:
    """The recipes that were trained again: the champion, then by mean validation accuracy."""
    rows = []
    for source, runs in study.confirm.groupby("source_trial", sort=True):
        known = runs[runs["state"] == "complete"]
        accuracies = known["metrics.val/accuracy"].dropna()
        rows.append(
            {
                "trial": int(source),
                "model": next((v for v in runs["params.model"] if v is not None), "unknown"),
                "complete": len(known),
                "runs": len(runs),
                "run_ids": list(runs["run_id"]),
                "accuracy": float(accuracies.mean()) if len(accuracies) else None,
                "champion": bool((known["tags.champion"] == "true").any()),
            }
        )
    return sorted(rows, key=lambda row: (not row["champion"], -(row["accuracy"] or 0), row["trial"]))


def facts_of_runs(study: Study) -> dict[str, str]:
    """What is needed to do it again, as label -> value."""
    tags, subject = study.tags, study.subject
    seeds = [str(seed) for seed in subject["params.seed"] if seed is not None] if "params.seed" in subject else []
    facts = {
        "Commit": tags.get("git_commit"),
        "Data (SHA-256)": tags.get("data_sha256"),
        "Study seed": study.params.get("seed") or tags.get("seed"),
        "Run seeds": words.listed(seeds) or None,
        "Device, precision": ", ".join(v for k in ("device", "precision") if (v := tags.get(k))) or None,
        "Processor": tags.get("cpu"),
        "Workers x threads": f"{tags['workers']} x {tags['threads']}"
        if {"workers", "threads"} <= tags.keys()
        else None,
        "torch": tags.get("torch"),
    }
    return {label: value or "not recorded" for label, value in facts.items()}


def commands(study: Study, scenario: Scenario) -> str:
    """The command lines that run the study and write this report again."""
    commit = study.tags.get("git_commit")
    given = {"study": study.name, **study.params}
    if given.get("preset", "").startswith("epochs-"):  # how a sweep with --epochs names its budget
        given["epochs"] = given.pop("preset").removeprefix("epochs-")
    names = ("study", "trials", "preset", "epochs", "space", "seed")
    options = [(f"--{name}", given[name]) for name in names if name in given]
    sweep = " ".join(f"{option} {shlex.quote(value)}" for option, value in options)
    lines = [f"git checkout {commit}"] if commit and re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    ours = scenario.file == DEFAULT_SCENARIO.name
    given_scenario = "" if ours else f" --scenario {shlex.quote(scenario.file)}"
    lines += [
        f"python sweeps/run_study.py {sweep}",
        f"python experiments/compare.py --study {shlex.quote(study.name)}{given_scenario}",
    ]
    return "\n".join(lines)
