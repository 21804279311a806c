"""What a page is made of: sections of blocks, each with the sources of its numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import plotly.graph_objects as go

from experiments.pages import plots
from experiments.pages.text import CitedText


@dataclass(frozen=True, slots=True)
class Number:
    """A figure of `report.json` under a stable name; None: not measured, or there is none."""

    name: str
    value: float | int | str | None
    unit: str  # share | seconds | FLOPs | USD | ...
    sources: tuple[str, ...]


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
        note: smaller, below the text.
        sources: links after the text, as in `CitedText`.
        style: "", "hash" (monospace), "plain" (not bold in a highlighted row) or "missing".
        judged: smaller still, below the note.
        worse: `judged` is highlighted.
        colour: of a dot before the text.
        span: columns that it takes.
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
class Column:
    """A column of a table: its title, and whether it holds numbers (set to the right)."""

    title: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        style: "", "ours" (highlighted), "sum" (bold), "decided" or "after" (of the rules).
    """

    cells: tuple[Cell, ...]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        style: "cards" (on a phone, a card a row), "cards tight" (a line a row), "cards sides" (narrow columns of
            numbers), "rules", or "" (a table that fits a phone as it is).
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    style: str = "cards"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labels and values in two columns, without a head."""

    rows: tuple[tuple[Cell, Cell], ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """A block that opens with a click on its title."""

    title: str
    block: Pairs


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
        """Where the picture lies beside the Markdown page."""
        return f"figures/{self.name}.png"

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two figures, side by side where the window is wide enough."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """The list of all published figures that the page may cite."""


@dataclass(frozen=True, slots=True)
class RunsCited:
    """The list of the runs that the page cites. It must be the last block, as those after it are not in it."""


Block = (
    CitedText
    | Heading
    | Missing
    | Code
    | Lead
    | Bullets
    | Table
    | Pairs
    | Folded
    | Figure
    | Photo
    | SideBySide
    | Sources
    | RunsCited
)


@dataclass(frozen=True, slots=True)
class Section:
    """One subject of a page.

    Attributes:
        title: "" for a section without a heading, as the first of a page.
        recommendation: sentences for the recommendation, by its heads (see `sections.recommendation`).
        numbers: for `report.json`.
    """

    title: str
    blocks: tuple[Block, ...]
    recommendation: Mapping[str, tuple[CitedText, ...]] = field(default_factory=lambda: MappingProxyType({}))
    numbers: tuple[Number, ...] = ()

    @property
    def pictures(self) -> tuple[Figure | Photo, ...]:
        """Its figures and photos, in order."""
        found: list[Figure | Photo] = []
        for block in self.blocks:
            if isinstance(block, SideBySide):
                found += block.figures
            elif isinstance(block, Figure | Photo):
                found.append(block)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        name: of its files, without the ending.
        title: of the window.
        heading: the line at the top.
        subject: below the heading: what the page is about and of when.
        state: a warning below it, such as a study that has not ended.
        footer: small print at the end.
    """

    name: str
    title: str
    heading: str
    subject: CitedText
    sections: Sequence[Section]
    state: str = ""
    footer: str = ""
