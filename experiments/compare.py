"""The build-vs-buy report of a study, from what its runs left in MLflow.

    python experiments/compare.py [--store DIR] [--tracking-uri URI] [--study NAME] [--results DIR] [--out DIR]

writes report.html (one file, opens offline) and report.md with its pictures. The same store and results give the same
bytes. `compare.py systems` writes systems.html and systems.md, see `systems_page.py`; `compare.py --runs A B ...`
writes runs.html and runs.md, see `runs_page.py`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_core.recipe import RecipeError
from experiments import captions, figures, static_figures, system_sentences, words
from experiments.measures import Measures, best_so_far, measure
from experiments.page import Picture, References, ReportPaths, render_page, write_files
from experiments.published import DEFAULT_PATH, Dated, Published, PublishedError, load_published
from experiments.reproductions import RESULTS, ResultError, load_recipes, load_results
from experiments.results import Reader, Study
from experiments.run_choice import LETTERS, RunsError
from experiments.runs_page import show, write_runs
from experiments.systems import System, side_by_side
from experiments.systems_page import write_systems
from experiments.verdict import decide, pruning_sentence
from experiments.words import Sentence
from sweeps.command_line import USAGE, OneLineParser
from sweeps.store import DEFAULT_STORE, Store, StoreError


def write_report(
    study: str | None = None,
    *,
    store: Path = DEFAULT_STORE,
    tracking_uri: str | None = None,
    out: Path | None = None,
    published: Path = DEFAULT_PATH,
    results: Path = RESULTS,
) -> ReportPaths:
    """Write report.html, report.md and its pictures, by default to reports/<study>/ in the store.

    Without a name, the most recent study is reported. Nothing is written if anything is wrong with the input.

    Args:
        results: the folder that `reproduce.py` writes to; it may be empty or missing.

    Raises:
        StoreError: there is no such store or study.
        PublishedError: the published figures break a rule.
        ResultError: a result of a reproduction does.
    """
    outside = load_published(published)
    systems = side_by_side(outside, load_results(results), load_recipes())
    place = Store.locate(store, tracking_uri=tracking_uri)
    read = Reader(place).read(study)
    out = out or place.report(read.name)
    write_files(out, render(read, outside, systems))
    return ReportPaths(html=out / "report.html", markdown=out / "report.md")


def render(study: Study, published: Published, systems: Sequence[System]) -> dict[str, bytes]:
    """The report's files by name; a pure function of the study, the published figures and the reproductions."""
    m = measure(study, published)
    pictures = draw(study, m)
    references = references_of(study, m, systems)
    context: dict[str, Any] = {
        "m": m,
        "study": study,
        "verdict": decide(m),
        "looks": captions.looks_sentence(m),
        "pruning": pruning_sentence(m),
        "systems": systems,
        "said": system_sentences,
        "candidates": candidates(study),
        "facts_of_runs": facts_of_runs(study),
        "commands": commands(study),
    }
    return render_page("report", context, pictures, references)


def references_of(study: Study, m: Measures, systems: Sequence[System]) -> References:
    """All sources in the order of their file; the study and its subject lead the list of runs."""
    published = m.published
    entries: dict[str, Dated] = {"bar": published.bar}
    entries |= {a.key: a for a in published.accuracies} | {"fresh": published.fresh_test_set}
    entries |= {p.key: p for p in published.prices}
    what = {study.run_id: "the study", **system_sentences.what_runs_are(systems)}
    for row in study.attempts.to_dict("records"):
        stage = "search trial" if row["tags.stage"] == "search" else "confirmation of trial"
        number = row["trial"] if stage == "search trial" else row["source_trial"]
        seed = f", seed {row['seed']:g}" if stage != "search trial" and row["seed"] == row["seed"] else ""
        what[row["run_id"]] = f"{stage} {number:g}{seed}, {row['state']}"
    subject = m.subject_runs
    return References(entries, m.as_of, what, together=subject, cited=(m.run_id, *subject))


def draw(study: Study, m: Measures) -> dict[str, Picture]:
    """The pictures that the store has the data for, by name, in the order of the report."""
    curves, trials = study.curves, best_so_far(study.search)
    keys = set(curves["key"])
    shown = [*m.published.group("benchmark"), *m.published.group("system")]
    label = f"this study ({m.model or 'champion'})"
    # name: title, whether there is data, and the arguments of that function in both figure modules
    plots: Mapping[str, tuple[str, bool, tuple[Any, ...]]] = {
        "benchmarks": ("Test accuracy beside published figures", True, (shown, m.test, label, m.bar)),
        "losses": ("Loss", bool(keys & {"train/loss", "val/loss"}), (curves,)),
        "accuracies": ("Accuracy", bool(keys & {"train/accuracy", "val/accuracy"}), (curves,)),
        "learning_rate": ("Learning rate", "lr" in keys, (curves,)),
        "classes": ("Accuracy by class", len(m.classes) > 1, (m.classes, m.bar)),
        "confusion": ("What is taken for what", m.confusion is not None, (m.confusion,)),
        "history": ("Best so far", len(trials) > 0, (trials,)),
        "architectures": ("Accuracy by architecture", len(trials) > 0, (trials, m.search.architectures)),
    }
    pictures = {
        name: Picture(
            name=name,
            title=title,
            caption=captions.caption(m, name, curves),
            png=getattr(static_figures, name)(*arguments),
            figure=getattr(figures, name)(*arguments),
        )
        for name, (title, there, arguments) in plots.items()
        if there
    }
    return pictures | _photographs(study, m)


def _photographs(study: Study, m: Measures) -> dict[str, Picture]:
    shown = study.exhibits
    pictures = {}
    if shown.samples:
        text = "Training images of 32 x 32 pixels with their labels: what the network gets to see."
        pictures["samples"] = Picture("samples", "Training images", Sentence(text, (f"run/{m.run_id}",)), shown.samples)
    if shown.prediction_picture and shown.prediction:
        said = prediction_sentence(shown.prediction, shown.prediction_run)
        pictures["prediction"] = Picture("prediction", "One prediction", said, shown.prediction_picture)
    if shown.mistakes:
        split = "test" if m.has_champion else "validation"
        text = f"The {split} images it was surest of and got wrong: its answer and, in brackets, the truth."
        said = Sentence(text, (f"run/{shown.mistakes_run}",))
        pictures["mistakes"] = Picture("mistakes", "Most confident mistakes", said, shown.mistakes)
    return pictures


def prediction_sentence(prediction: Mapping[str, Any], run_id: str) -> Sentence:
    """What one test image is, and what the network took it for."""
    true, predicted = str(prediction.get("true")), str(prediction.get("predicted"))
    right = "which is right" if true == predicted else f"but it is {words.article(true)}"
    probability = prediction.get("probability")
    sure = f" with probability {probability:.2f}" if isinstance(probability, int | float) else ""
    text = f"Test image {prediction.get('index')}: taken for {words.article(predicted)}{sure}, {right}."
    return Sentence(text, (f"run/{run_id}",))


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


def commands(study: Study) -> str:
    """The command lines that run the study and write this report again."""
    commit = study.tags.get("git_commit")
    given = {"study": study.name, **study.params}
    if given.get("preset", "").startswith("epochs-"):  # how a sweep with --epochs names its budget
        given["epochs"] = given.pop("preset").removeprefix("epochs-")
    names = ("study", "trials", "preset", "epochs", "space", "seed")
    options = [(f"--{name}", given[name]) for name in names if name in given]
    sweep = " ".join(f"{option} {shlex.quote(value)}" for option, value in options)
    lines = [f"git checkout {commit}"] if commit and re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    lines += [
        f"python sweeps/run_study.py {sweep}",
        f"python experiments/compare.py --study {shlex.quote(study.name)}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="compare.py",
        description="Write the build-vs-buy report of a study, the page of the published systems, or any runs side by "
        "side.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("systems",),
        help="the published systems beside their reproductions, not a study",
    )
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="the store (default: mlruns)")
    parser.add_argument("--tracking-uri", metavar="URI", help="read runs from here instead of the store's own database")
    parser.add_argument("--study", metavar="NAME", help="the study to report (default: the most recent one)")
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="RUN",
        help="set these side by side: studies, STUDY/KEY (as demo/trial-3), results of reproduce.py, or ids of runs "
        f"({LETTERS} letters will do)",
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="with --runs: mark what is significantly worse than this one; the exit code stays 0",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="what experiments/reproduce.py wrote (default: experiments/results)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: reports/STUDY in the store, reports/systems or reports/runs)",
    )
    options = parser.parse_args(arguments)
    if options.what and (options.study or options.tracking_uri):
        parser.error("--study and --tracking-uri go with the report of a study, not with systems")
    if options.runs and (options.what or options.study):
        parser.error("--runs makes a page of its own, and cannot go with --study or systems")
    if options.baseline is not None and not options.runs:
        parser.error("--baseline goes with --runs")
    try:
        if options.what:
            paths = write_systems(options.results, out=options.out or Store.locate(options.store).report(options.what))
        elif options.runs:
            place = Store.locate(options.store, tracking_uri=options.tracking_uri)
            out = options.out or place.report("runs")
            compared, paths = write_runs(options.runs, options.baseline, store=place, results=options.results, out=out)
            show(compared)
        else:
            paths = write_report(
                options.study,
                store=options.store,
                tracking_uri=options.tracking_uri,
                out=options.out,
                results=options.results,
            )
    except (StoreError, PublishedError, ResultError, RecipeError, RunsError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    print(f"Report: {paths.html}")
    print(f"        {paths.markdown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
