"""What the report and the page of the systems share: pictures, references, and turning templates into files."""

from __future__ import annotations

import base64
import datetime
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from experiments.pages import plots
from experiments.pages import text as words
from experiments.pages.text import CitedText
from experiments.reading.published import Accuracy, Bar, Dated, FreshTestSet, Price
from sweeps.store import StoreError

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where a page was written to."""

    html: Path
    markdown: Path
    numbers: Path | None = None  # every number of it, as JSON
    not_logged: str = ""  # why it is not in MLflow as well, if it should be


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure or a photograph of a page, with its caption; photographs have no plotly figure."""

    name: str
    title: str
    caption: CitedText
    png: bytes
    figure: go.Figure | None = None

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """(name, colour, shape) of the figure's marks; one kind of mark needs no legend."""
        marks = plots.legend(self.figure) if self.figure is not None else []
        return marks if len(marks) > 1 else []

    @property
    def file(self) -> str:
        return f"figures/{self.name}.png"

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class References:
    """Numbers the outside sources, keeps the runs that were cited, and prints the traces of a sentence.

    Args:
        entries: published figures by key, in the order of their numbers.
        as_of: the day that their age is counted from.
        what: run id -> what that run is.
        together: runs that are named by the first of them where they are cited as one.
        cited: runs that are listed in any case, before those that a sentence cites.
    """

    def __init__(
        self,
        entries: Mapping[str, Dated],
        as_of: datetime.date,
        what: Mapping[str, str],
        *,
        together: Sequence[str] = (),
        cited: Sequence[str] = (),
    ) -> None:
        self._numbers = {key: number for number, key in enumerate(entries, start=1)}
        self._marks = {
            key: {"": "", "undated": "\N{DOUBLE DAGGER}"}.get(e.age(as_of), "\N{DAGGER}") for key, e in entries.items()
        }
        self.sources = [
            {
                "number": self._numbers[key],
                "mark": self._marks[key],
                "what": getattr(
                    entry,
                    "name",
                    {"bar": "The bar", "fresh": "Fresh test images", "scenario": "The scenario"}.get(key, key),
                ),
                "figure": figure_of(entry),
                "note": getattr(entry, "note", ""),
                "source": entry.source,
                "date": entry.when,
                "age": entry.age(as_of),
            }
            for key, entry in entries.items()
        ]
        self._what = what
        self._together = list(together)
        self._cited: dict[str, None] = dict.fromkeys(cited)

    def number(self, key: str) -> str:
        """A source's number in the list, with its mark of age."""
        return f"{self._numbers[key]}{self._marks[key]}"

    def plain(self, key: str) -> int:
        """A source's number in the list."""
        return self._numbers[key]

    def html(self, sentence: CitedText) -> Markup:
        runs, sources = self._split(sentence)
        link = Markup('<a href="#run-{0}" title="{1}">{0}</a>{2}')
        links = [link.format(short, whole, more) for short, whole, more in self._short(runs)]
        links += [Markup('<a href="#source-{}">[{}]</a>').format(self._numbers[k], self.number(k)) for k in sources]
        cite = Markup(' <span class="cite">{}</span>').format(Markup(" ").join(links)) if links else Markup("")
        return Markup(escape(sentence.text).replace(" %", "\N{NO-BREAK SPACE}%")) + cite

    def markdown(self, sentence: CitedText) -> str:
        runs, sources = self._split(sentence)
        marks = [f"`{short}`{more}" for short, _, more in self._short(runs)]
        marks += [f"[{self.number(key)}]" for key in sources]
        return f"{sentence.text} <sub>{' '.join(marks)}</sub>" if marks else sentence.text

    def _short(self, runs: list[str]) -> list[tuple[str, str, str]]:
        """(short id, whole ids, "+n") of runs."""
        if len(runs) > 1 and runs == self._together:
            return [(runs[0][:8], " ".join(runs), f" +{len(runs) - 1}")]
        return [(run_id[:8], run_id, "") for run_id in runs]

    def cite_run(self, run_id: str) -> str:
        """A run's short id; the run will be in the list."""
        self._cited[run_id] = None
        return run_id[:8]

    def runs(self) -> list[dict[str, str]]:
        """The runs cited so far: short id, whole id, and what they are."""
        return [{"short": r[:8], "id": r, "what": self._what.get(r, "a run")} for r in self._cited]

    def _split(self, sentence: CitedText) -> tuple[list[str], list[str]]:
        runs = list(dict.fromkeys(t.removeprefix("run/") for t in sentence.sources if t.startswith("run/")))
        sources = [t.removeprefix("source/") for t in sentence.sources if t.startswith("source/")]
        self._cited |= dict.fromkeys(runs)
        return runs, sorted(dict.fromkeys(sources), key=self._numbers.__getitem__)


def figure_of(entry: Dated) -> str:
    """A published figure with its unit."""
    match entry:
        case Accuracy(accuracy=low) if entry.best > low:
            return f"{100 * low:.1f} to {100 * entry.best:.1f} %"
        case Accuracy():
            return entry.stated
        case Price(role="prediction"):
            return f"{words.money(entry.usd)} per 1,000 images"
        case Price():
            return f"{words.rate(entry.usd)} an hour"
        case Bar():
            return words.short_percent(entry.target)
        case FreshTestSet(points_lower=(low, high)):
            return f"{low:g} to {high:g} points lower"
    return ""


def render_page(
    name: str, context: Mapping[str, Any], pictures: Mapping[str, Picture], references: References
) -> dict[str, bytes]:
    """`name`.html, `name`.md and the pictures by file name, from the templates `name`.html.j2 and `name`.md.j2."""
    shared = {**context, "pictures": pictures, "references": references, "figure_of": figure_of, "words": words}
    html = _environment(references.html, autoescape=True).get_template(f"{name}.html.j2")
    markdown = _environment(references.markdown, autoescape=False).get_template(f"{name}.md.j2")
    drawn = ",".join(f'"{p.name}":{p.figure.to_json()}' for p in pictures.values() if p.figure is not None)
    text = html.render(
        shared,
        plotly_js=Markup(get_plotlyjs()),
        figures_json=Markup(f"{{{drawn}}}".replace("</", "<\\/")),
        tones={"ink": plots.INK, "muted": plots.MUTED, "grid": plots.GRID},
    )
    files = {f"{name}.html": text.encode(), f"{name}.md": _tidy(markdown.render(shared)).encode()}
    return files | {picture.file: picture.png for picture in pictures.values()}


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into a folder, each at once.

    Raises:
        StoreError: the folder cannot be written to.
    """
    try:
        for name, content in files.items():
            _write(out / name, content)
    except OSError as error:
        raise StoreError(f"--out must be a folder that can be written to, but: {error}") from error


def _environment(cite: Callable[[CitedText], str], *, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cite"] = cite
    environment.filters["in_table"] = _in_table
    return environment


def _in_table(text: str) -> str:
    """For a Markdown table, in which a bar would end the cell."""
    return text.replace("|", "\\|")


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
