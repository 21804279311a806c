"""Parts of a page: sections of blocks, each with the sources of its numbers."""

from __future__ import annotations

import base64
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from experiments.pages import plots
from experiments.pages.text import CitedText
from experiments.stats import Estimate


@dataclass(frozen=True, slots=True)
class Number:
    """A figure of `report.json` under a stable name; None: not measured, or there is none."""

    name: str
    value: float | int | str | None
    unit: str  # share | seconds | FLOPs | USD | ...
    sources: tuple[str, ...]


def numbers_of(name: str, record: object | None, sources: tuple[str, ...], **units: str) -> Iterator[Number]:
    """Fields of a record as numbers `<name>.<field>`, all None without a record; `units` names the fields."""
    for part, unit in units.items():
        yield Number(f"{name}.{part}", None if record is None else getattr(record, part), unit, sources)


def estimate_numbers(name: str, estimate: Estimate, sources: tuple[str, ...]) -> Iterator[Number]:
    """The numbers of an accuracy with its interval, under names that start with `name`."""
    yield from numbers_of(name, estimate, sources, mean="share", low="share", high="share", images="images a run")
    yield Number(f"{name}.runs", len(estimate.run_ids), "runs", sources)


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a part of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a figure, a table or a sentence is not there."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Commands or a file, as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another page in the same folder."""

    text: str
    file: str


@dataclass(frozen=True, slots=True)
class Lead:
    """The question of a page and its answer, in large type."""

    question: str
    because: CitedText
    answer: str = ""
    facts: tuple[tuple[str, CitedText], ...] = ()


@dataclass(frozen=True, slots=True)
class Bullets:
    """An unordered list."""

    items: tuple[CitedText, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        note: smaller text below the text.
        sources: links after the text, as in `CitedText`.
        style: "", "hash" (monospace), "plain" (not bold in a highlighted row) or "missing".
        judged: still smaller text below the note.
        worse: True to highlight `judged`.
        colour: colour of a dot before the text; "" for none.
        span: number of columns that the cell takes.
    """

    text: str
    note: str = ""
    sources: tuple[str, ...] = ()
    style: str = ""
    judged: str = ""
    worse: bool = False
    colour: str = ""
    span: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        style: "", "ours" (highlighted), "sum" (bold), "decided" or "after" (of the rules).
        anchor: HTML id that links on the page point to; "" for none.
    """

    cells: tuple[Cell, ...]
    style: str = ""
    anchor: str = ""

    @classmethod
    def of(cls, *cells: Cell | str, style: str = "", anchor: str = "") -> Row:
        """A row of cells, some of which are plain text."""
        return cls(tuple(Cell(c) if isinstance(c, str) else c for c in cells), style, anchor)


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        titles: titles of the columns.
        numbers: indices of the columns with numbers, which are aligned to the right.
        style: "cards" (on a phone, a card a row), "cards tight" (a line a row), "cards inline" (a line a row, without
            titles), "cards sides" (narrow columns of numbers), "cards even" (columns of equal width), "rules", or ""
            (a table that fits a phone as it is).
    """

    titles: Sequence[str]
    rows: Sequence[Row]
    numbers: Container[int] = ()
    style: str = "cards"

    @classmethod
    def of_numbers(cls, titles: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell]]]) -> Table:
        """A table whose columns hold numbers, the first excepted. Each row is its title and the other cells."""
        return cls(titles, [Row.of(title, *cells) for title, cells in rows], range(1, len(titles)), "cards sides")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labels and values in two columns, without a head; with a title, they open with a click on it."""

    rows: tuple[tuple[Cell, Cell], ...]
    title: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Cell | str], title: str = "") -> Pairs:
        """Values by their labels."""
        return cls(tuple((Cell(label), Cell(v) if isinstance(v, str) else v) for label, v in values.items()), title)


@dataclass(frozen=True, slots=True)
class Figure:
    """A plotly figure with its caption."""

    name: str
    title: str
    caption: CitedText
    figure: go.Figure

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """(name, colour, shape) of the figure's marks; one kind of mark needs no legend."""
        marks = plots.legend(self.figure)
        return marks if len(marks) > 1 else []


@dataclass(frozen=True, slots=True)
class Photo:
    """A PNG picture with its caption."""

    name: str
    title: str
    caption: CitedText
    png: bytes

    @property
    def file(self) -> str:
        """Path of the picture beside the Markdown page."""
        return f"figures/{self.name}.png"

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two figures, side by side where the window is wide enough."""

    figures: tuple[Figure, ...]


Block = CitedText | Heading | Missing | Code | Link | Lead | Bullets | Table | Pairs | Figure | Photo | SideBySide


@dataclass(frozen=True, slots=True)
class Section:
    """One subject of a page.

    Attributes:
        title: heading; "" for none, as in the first section of a page.
        recommendation: sentences for the recommendation, by its heads (see `decision.recommendation`).
        numbers: numbers for `report.json`.
    """

    title: str
    blocks: tuple[Block, ...]
    recommendation: Mapping[str, tuple[CitedText, ...]] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()

    @property
    def pictures(self) -> tuple[Figure | Photo, ...]:
        """Figures and photos of the section, in order."""
        found: list[Figure | Photo] = []
        for block in self.blocks:
            if isinstance(block, SideBySide):
                found += block.figures
            elif isinstance(block, Figure | Photo):
                found.append(block)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. It ends with the list of all its published figures and of the runs that it cites.

    Attributes:
        name: name of the files, without suffix.
        title: title of the browser window.
        heading: line at the top.
        subject: what the page is about, and when that was made; stands below the heading.
        state: warning below the subject, such as that the study has not ended.
        footer: small print at the end.
        folded: True if sections with a title open by a click on it; the others make a first screen, in two columns.
    """

    name: str
    title: str
    heading: str
    subject: CitedText
    sections: Sequence[Section]
    state: str = ""
    footer: str = ""
    folded: bool = False
