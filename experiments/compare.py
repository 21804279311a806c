"""The build-vs-buy report of a study, from what its runs left in MLflow.

    python experiments/compare.py [--store DIR] [--tracking-uri URI] [--study NAME] [--out DIR]

writes report.html (one file, opens offline) and report.md with its pictures. The same store gives the same
bytes.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from experiments import captions, figures, static_figures, words
from experiments.measures import Measures, best_so_far, measure
from experiments.published import (
    DEFAULT_PATH,
    Accuracy,
    Bar,
    Dated,
    FreshTestSet,
    Price,
    Published,
    PublishedError,
    load_published,
)
from experiments.results import Reader, Study
from experiments.verdict import decide, pruning_sentence
from experiments.words import Sentence
from sweeps.command_line import USAGE, OneLineParser
from sweeps.store import DEFAULT_STORE, Store, StoreError

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True, slots=True)
class ReportPaths:
    html: Path
    markdown: Path


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure or a photograph of the report, with its caption; photographs have no plotly figure."""

    name: str
    title: str
    caption: Sentence
    png: bytes
    figure: go.Figure | None = None

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """(name, colour, shape) of the figure's marks; one kind of mark needs no legend."""
        marks = figures.legend(self.figure) if self.figure is not None else []
        return marks if len(marks) > 1 else []

    @property
    def file(self) -> str:
        return f"figures/{self.name}.png"

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def write_report(
    study: str | None = None,
    *,
    store: Path = DEFAULT_STORE,
    tracking_uri: str | None = None,
    out: Path | None = None,
    published: Path = DEFAULT_PATH,
) -> ReportPaths:
    """Write report.html, report.md and its pictures, by default to reports/<study>/ in the store.

    Without a name, the most recent study is reported. Nothing is written if anything is wrong with the input.

    Raises:
        StoreError: there is no such store or study.
        PublishedError: the file of published figures breaks a rule.
    """
    outside = load_published(published)
    place = Store.locate(store, tracking_uri=tracking_uri)
    read = Reader(place).read(study)
    files = render(read, outside)
    out = out or place.report(read.name)
    try:
        for name, content in files.items():
            _write(out / name, content)
    except OSError as error:
        raise StoreError(f"--out must be a folder that can be written to, but: {error}") from error
    return ReportPaths(html=out / "report.html", markdown=out / "report.md")


def render(study: Study, published: Published) -> dict[str, bytes]:
    """The report's files by name; a pure function of the study and the published figures."""
    m = measure(study, published)
    pictures = draw(study, m)
    references = References(study, m)
    context: dict[str, Any] = {
        "m": m,
        "study": study,
        "verdict": decide(m),
        "looks": captions.looks_sentence(m),
        "pruning": pruning_sentence(m),
        "pictures": pictures,
        "candidates": candidates(study),
        "facts_of_runs": facts_of_runs(study),
        "commands": commands(study),
        "references": references,
        "figure_of": figure_of,
        "words": words,
    }
    html = _environment(references.html, autoescape=True).get_template("report.html.j2")
    markdown = _environment(references.markdown, autoescape=False).get_template("report.md.j2")
    drawn = ",".join(f'"{p.name}":{p.figure.to_json()}' for p in pictures.values() if p.figure is not None)
    text = html.render(
        context,
        plotly_js=Markup(get_plotlyjs()),
        figures_json=Markup(f"{{{drawn}}}".replace("</", "<\\/")),
        tones={"ink": figures.INK, "muted": figures.MUTED, "grid": figures.GRID},
    )
    files = {"report.html": text.encode(), "report.md": _tidy(markdown.render(context)).encode()}
    return files | {picture.file: picture.png for picture in pictures.values()}


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


class References:
    """Numbers the outside sources, keeps the runs that were cited, and prints the traces of a sentence."""

    def __init__(self, study: Study, m: Measures) -> None:
        published = m.published
        entries: dict[str, Dated] = {"bar": published.bar}
        entries |= {a.key: a for a in published.accuracies} | {"fresh": published.fresh_test_set}
        entries |= {p.key: p for p in published.prices}
        self._numbers = {key: number for number, key in enumerate(entries, start=1)}
        self._marks = {
            key: {"": "", "undated": "\N{DOUBLE DAGGER}"}.get(e.age(m.as_of), "\N{DAGGER}")
            for key, e in entries.items()
        }
        self.sources = [
            {
                "number": self._numbers[key],
                "mark": self._marks[key],
                "what": getattr(entry, "name", {"bar": "The bar", "fresh": "Fresh test images"}.get(key, key)),
                "figure": figure_of(entry),
                "note": getattr(entry, "note", ""),
                "source": entry.source,
                "date": entry.date or "undated",
                "age": entry.age(m.as_of),
            }
            for key, entry in entries.items()
        ]
        self._study = study
        self._together = list(m.subject_runs)
        self._cited: dict[str, None] = dict.fromkeys((m.run_id, *m.subject_runs))

    def number(self, key: str) -> str:
        """A source's number in the list, with its mark of age."""
        return f"{self._numbers[key]}{self._marks[key]}"

    def plain(self, key: str) -> int:
        """A source's number in the list."""
        return self._numbers[key]

    def html(self, sentence: Sentence) -> Markup:
        runs, sources = self._split(sentence)
        link = Markup('<a href="#run-{0}" title="{1}">{0}</a>{2}')
        links = [link.format(short, whole, more) for short, whole, more in self._short(runs)]
        links += [Markup('<a href="#source-{}">[{}]</a>').format(self._numbers[k], self.number(k)) for k in sources]
        cite = Markup(' <span class="cite">{}</span>').format(Markup(" ").join(links)) if links else Markup("")
        return Markup(escape(sentence.text).replace(" %", "\N{NO-BREAK SPACE}%")) + cite

    def markdown(self, sentence: Sentence) -> str:
        runs, sources = self._split(sentence)
        marks = [f"`{short}`{more}" for short, _, more in self._short(runs)]
        marks += [f"[{self.number(key)}]" for key in sources]
        return f"{sentence.text} <sub>{' '.join(marks)}</sub>" if marks else sentence.text

    def _short(self, runs: list[str]) -> list[tuple[str, str, str]]:
        """(short id, whole ids, "+n") of runs; the champion's are named by the first of them."""
        if len(runs) > 1 and runs == self._together:
            return [(runs[0][:8], " ".join(runs), f" +{len(runs) - 1}")]
        return [(run_id[:8], run_id, "") for run_id in runs]

    def cite_run(self, run_id: str) -> str:
        """A run's short id; the run will be in the list."""
        self._cited[run_id] = None
        return run_id[:8]

    def runs(self) -> list[dict[str, str]]:
        """The runs cited so far: short id, whole id, and what they are."""
        what = {self._study.run_id: "the study"}
        for row in self._study.attempts.itertuples(index=False):
            stage = "search trial" if row[self._column("tags.stage")] == "search" else "confirmation of trial"
            number = row.trial if stage == "search trial" else row.source_trial
            seed = f", seed {row.seed:g}" if stage != "search trial" and row.seed == row.seed else ""
            what[row.run_id] = f"{stage} {number:g}{seed}, {row.state}"
        return [{"short": r[:8], "id": r, "what": what.get(r, "a run")} for r in self._cited]

    def _column(self, name: str) -> int:
        return int(self._study.attempts.columns.get_loc(name))

    def _split(self, sentence: Sentence) -> tuple[list[str], list[str]]:
        runs = list(dict.fromkeys(t.removeprefix("run/") for t in sentence.traces if t.startswith("run/")))
        sources = [t.removeprefix("source/") for t in sentence.traces if t.startswith("source/")]
        self._cited |= dict.fromkeys(runs)
        return runs, sorted(dict.fromkeys(sources), key=self._numbers.__getitem__)


def figure_of(entry: Dated) -> str:
    """A published figure with its unit."""
    match entry:
        case Accuracy(accuracy=low) if entry.best > low:
            return f"{100 * low:.1f} to {100 * entry.best:.1f} %"
        case Accuracy():
            return words.percent(entry.accuracy, 2 if entry.group == "system" else 1)
        case Price(role="prediction"):
            return f"{words.money(entry.usd)} per 1,000 images"
        case Price():
            return f"{words.rate(entry.usd)} an hour"
        case Bar():
            return words.percent(entry.target, 0)
        case FreshTestSet(points_lower=(low, high)):
            return f"{low:g} to {high:g} points lower"
    return ""


def _environment(cite: Callable[[Sentence], str], *, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cite"] = cite
    return environment


def _tidy(text: str) -> str:
    """Markdown without the runs of blank lines that a template leaves."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)  # a reader sees the old report or the new one, never half of one
    finally:
        scratch.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="compare.py", description="Write the build-vs-buy report of a study.")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="the store (default: mlruns)")
    parser.add_argument("--tracking-uri", metavar="URI", help="read runs from here instead of the store's own database")
    parser.add_argument("--study", metavar="NAME", help="the study to report (default: the most recent one)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: DIR/reports/STUDY in the store)"
    )
    options = parser.parse_args(arguments)
    try:
        paths = write_report(options.study, store=options.store, tracking_uri=options.tracking_uri, out=options.out)
    except (StoreError, PublishedError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    print(f"Report: {paths.html}")
    print(f"        {paths.markdown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
