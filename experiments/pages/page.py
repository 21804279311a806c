"""Render pages to HTML and Markdown, and write them."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from cifar_core.errors import cause, printable
from cifar_core.files import write_atomically
from experiments.pages import plots
from experiments.pages.blocks import Cell, Figure, Page, Photo, Row, Table
from experiments.reading.published import Dated
from sweeps.store import StoreError
from sweeps.words import escape_markdown

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class References:
    """Numbers the published figures and lists the runs that a page cites, and renders the sources of a text.

    Attributes:
        entries: published figures that can be cited, by key.
        as_of: day for which the age of the figures is given.
        what: descriptions of runs, by run id.
        cited: ids of the runs in the list: those given at the start, and each that a text cites.
        together: ids of runs; where all of them are cited, only the first is shown, as "1a2b3c4d +2".
        numbers: numbers of the published figures cited so far, by key, in the order of the page.
    """

    entries: Mapping[str, Dated]
    as_of: datetime.date
    what: Mapping[str, str]
    cited: list[str]
    together: Sequence[str] = ()
    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, key: str) -> str:
        """Number of a published figure, with a dagger if it was old and a double dagger if it is undated."""
        marks = {"": "", "undated": "\N{DOUBLE DAGGER}"}
        return f"{self.numbers[key]}{marks.get(self.entries[key].age(self.as_of), chr(0x2020))}"

    def split(self, sources: Sequence[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
        """(short id, whole ids, "+n") of the runs among `sources`, and the keys of the published figures, by number.

        The runs are in the list of cited runs from now on, and the figures have numbers.
        """
        runs = list(dict.fromkeys(s.removeprefix("run/") for s in sources if s.startswith("run/")))
        keys = {s.removeprefix("source/") for s in sources if s.startswith("source/")}
        for key in self.entries:
            if key in keys:
                self.numbers.setdefault(key, len(self.numbers) + 1)
        self.cited.extend(run_id for run_id in runs if run_id not in self.cited)
        if len(runs) > 1 and runs == list(self.together):
            short = [(runs[0][:8], " ".join(runs), f" +{len(runs) - 1}")]
        else:
            short = [(run_id[:8], run_id, "") for run_id in runs]
        return short, sorted(keys, key=self.numbers.__getitem__)

    def figures(self) -> Table:
        """The published figures cited so far."""
        rows = []
        for key in self.numbers:
            entry = self.entries[key]
            age = entry.age(self.as_of)
            name, when = Cell(entry.name, entry.note), Cell(entry.when, age if age != entry.when else "")
            anchor = f"source-{self.numbers[key]}"
            rows.append(Row.of(self.mark(key), name, entry.figure, entry.source, when, anchor=anchor))
        return Table(("", "Figure", "Value", "Source", "Date"), rows, numbers=(0, 2, 4), style="cards inline")

    def runs(self) -> Table:
        """The runs cited so far."""
        rows = [
            Row.of(f"`{run_id[:8]}`", f"`{run_id}`", self.what.get(run_id, "a run"), anchor=f"run-{run_id[:8]}")
            for run_id in self.cited
        ]
        return Table(("Cited as", "MLflow run", "Description"), rows)


def render_page(page: Page, references: References) -> dict[str, bytes]:
    """The files of a page by name: `name`.html, `name`.md and the photos that the latter shows.

    Both come from the template `page.j2`, with the macros of their format.
    """
    pictures = [picture for section in page.sections for picture in section.pictures]
    figures = [p for p in pictures if isinstance(p, Figure)]
    drawn = ",".join(f'"{f.name}":{f.figure.to_json()}' for f in figures)
    html = render_html(
        "base.html.j2",
        references,
        page=page,
        plotly_js=Markup(get_plotlyjs()) if figures else "",
        figures_json=Markup(f"{{{drawn}}}".replace("</", "<\\/")),
        tones={"ink": plots.INK, "muted": plots.MUTED, "grid": plots.GRID, "paper": plots.PAPER},
    )
    markdown = _environment(_markdown, references, autoescape=False).get_template("page.j2")
    plain = markdown.render(page=page, format="md", references=references)
    files = {f"{page.name}.html": html, f"{page.name}.md": _tidy(plain).encode()}
    return files | {photo.file: photo.png for photo in pictures if isinstance(photo, Photo)}


def render_html(template: str, references: References, **values: Any) -> bytes:
    """An HTML file from a template, in which the filter `cite` gives a text with its sources."""
    found = _environment(_html, references, autoescape=True).get_template(template)
    return found.render(format="html", references=references, **values).encode()


def write_files(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder, each at once.

    Returns:
        the paths of the page's own files, without its photos.

    Raises:
        StoreError: the folder cannot be written to.
    """
    try:
        for name, content in files.items():
            write_atomically(out / name, content)
    except OSError as error:
        raise StoreError(
            f"--out must be a folder that can be written to, but {printable(out)} gave: {cause(error)}"
        ) from error
    return [out / name for name in files if "/" not in name]


def finite(value: Any) -> Any:
    """The value, with None for infinity and NaN, which JSON has not."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _html(text: str, sources: Sequence[str], references: References) -> Markup:
    """Escaped text, code between backticks, and links to the sources."""
    runs, keys = references.split(sources)
    links = [Markup('<a href="#run-{0}" title="{1}">{0}</a>{2}').format(*run) for run in runs]
    links += [Markup('<a href="#source-{}">[{}]</a>').format(references.numbers[k], references.mark(k)) for k in keys]
    cite = Markup('<span class="cite">{}</span>').format(Markup(" ").join(links)) if links else Markup("")
    together = re.sub(
        r"(?<=\bp) < | (?=%)", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text
    )  # no break in them
    code = re.sub("`([^`]*)`", lambda m: f"<code>{_code(Markup(m[1]))}</code>", str(escape(together)))
    coded = Markup(code)
    return coded + (" " if coded and cite else "") + cite


def _code(text: str) -> Markup:
    """Escaped code, whose options do not break at their hyphens."""
    return Markup(re.sub(r"--[\w-]+", r'<span class="option">\g<0></span>', str(escape(text))))


def _markdown(text: str, sources: Sequence[str], references: References) -> str:
    """Escaped text, code between backticks, and marks of the sources."""
    parts = re.split("(`[^`]+`)", text)
    text = "".join(part if place % 2 else escape_markdown(part) for place, part in enumerate(parts))
    runs, keys = references.split(sources)
    marks = [f"`{short}`{more}" for short, _, more in runs] + [f"[{references.mark(key)}]" for key in keys]
    return f"{text} <sub>{' '.join(marks)}</sub>" if text and marks else text or " ".join(marks)


def _environment(
    cite: Callable[[str, Sequence[str], References], str], references: References, *, autoescape: bool
) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def cited(value: Any) -> str:
        """A text with its sources: a `CitedText`, a `Cell` or a string."""
        return cite(value, (), references) if isinstance(value, str) else cite(value.text, value.sources, references)

    environment.filters["cite"] = cited
    environment.filters["code"] = _code
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["in_table"] = lambda text: text.replace("|", "\\|")  # a bar would end the cell
    environment.filters["fence"] = lambda text: "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return environment


def _tidy(text: str) -> str:
    """Markdown without the runs of blank lines that a template leaves."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
