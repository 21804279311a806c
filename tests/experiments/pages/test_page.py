"""Rules that every page keeps in HTML and Markdown."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from experiments.comparison.page import write_runs
from experiments.pages.blocks import Cell, Code, Heading, Link, Page, Pairs, Row, Section, Table
from experiments.pages.page import References, render_page
from experiments.pages.text import CitedText
from experiments.reading.published import Dated
from tests.experiments.conftest import COMMANDS, Pages
from tests.experiments.fake_store import Fake, Trial
from tests.experiments.support import prose, tables_are_even, write_page

FIGURES = {
    "demo": [
        "ways", "tornado", "cost_curves", "benchmarks", "classes", "confusion", "reliability",
        "losses", "accuracies", "learning_rate", "history", "architectures", "front",
    ],
    "systems": ["five_conv", "three_conv", "block_cnn", "dynamic_conv", "custom_resnet"],
    "runs": ["classes", "loss_curves", "accuracy_curves"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_the_page_stands_alone_and_its_links_lead_somewhere(pages: Pages, name: str) -> None:
    page = pages(name)
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page.prose)) <= {"data:"}
    assert "url(" not in page.prose
    assert "<script src" not in page.html
    assert '<link rel="stylesheet' not in page.html
    links = set(re.findall(r'href="#([\w-]+)"', page.prose))
    assert links
    assert links <= set(re.findall(r'id="([\w-]+)"', page.prose))


@pytest.mark.parametrize("name", FIGURES)
def test_plotly_is_embedded_once_and_every_figure_has_its_place(pages: Pages, name: str) -> None:
    page = pages(name)
    assert page.html.count("plotly.js v") == 1
    assert re.findall(r'id="plot-(\w+)"', page.html) == FIGURES[name]
    assert list(page.drawn) == FIGURES[name]
    assert re.findall(rf"\[Open the figure\]\({page.name}\.html#figure-(\w+)\)", page.markdown) == FIGURES[name]
    assert all(f'id="figure-{figure}"' in page.prose for figure in FIGURES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_rows_of_markdown_tables_have_as_many_cells_as_their_heads(pages: Pages, name: str) -> None:
    tables_are_even(pages(name).markdown)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_the_same_input_gives_the_same_bytes(
    pages: Pages, request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    page = pages(name)
    write_page(request.getfixturevalue("rivals" if name == "runs" else "store"), tmp_path, *COMMANDS[name])
    one, two = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")} for out in (page.folder, tmp_path))
    assert one == two


def test_photos_lie_beside_the_markdown(pages: Pages) -> None:
    page = pages("demo")
    photos = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.markdown)
    assert photos == [f"figures/{name}.png" for name in ("samples", "prediction", "mistakes")]
    assert all((page.folder / photo).read_bytes().startswith(b"\x89PNG") for photo in photos)


@pytest.mark.slow
def test_names_cannot_break_the_page(fresh_store: Fake, tmp_path: Path) -> None:
    for name in ("<b>x</b>", "a/b", "c|d"):
        fresh_store.add(name=name, trials=(Trial(),), champion=())
    arguments = ["<b>x</b>", "a/b/trial-0", "c|d"]
    _, written = write_runs(arguments, None, store=fresh_store.place, results=tmp_path, out=tmp_path)
    html, markdown = (path.read_text() for path in written)
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>x</b>" not in prose(html)
    assert "| c\\|d |" in markdown
    assert "'c|d'" in markdown  # in the command, which is no table
    tables_are_even(markdown)


def as_markdown(*blocks: CitedText | Code | Heading | Link | Pairs | Table) -> str:
    page = Page("p", "Title", "Heading", CitedText("Subject."), [Section("Section", blocks)])
    return render_page(page, References({}, datetime.date(2026, 1, 1), {}, []))["p.md"].decode()


def test_only_what_is_cited_is_listed_in_the_order_of_the_page() -> None:
    entries = {
        name: Dated(name=name.upper(), source="its page", date="2026-01-01") for name in ("one", "two", "three", "four")
    }
    texts = (CitedText("First.", ("source/three",)), CitedText("Then.", ("source/four", "source/three", "source/one")))
    page = Page("p", "Title", "Heading", CitedText("Subject."), [Section("Section", texts)])
    files = render_page(page, References(entries, datetime.date(2026, 1, 1), {}, []))
    markdown, html = files["p.md"].decode(), files["p.html"].decode()
    assert "First. <sub>[1]</sub>" in markdown
    assert "Then. <sub>[1] [2] [3]</sub>" in markdown
    assert re.findall(r"ONE|TWO|THREE|FOUR", markdown) == ["THREE", "ONE", "FOUR"]
    assert "TWO" not in html
    anchors = re.findall(r'id="(source-\d)"', html)
    assert anchors == ["source-1", "source-2", "source-3"]
    assert set(re.findall(r'href="#(source-\d)"', html)) == set(anchors)


def test_names_are_no_markdown() -> None:
    picture, shown = "![x](http://evil/p.png)", r"!\[x\](http://evil/p.png)"
    table = Table((picture, "b"), [Row.of(Cell(picture, note=picture, judged=picture), r"a\|b")])
    markdown = as_markdown(
        CitedText(f"{picture} is like fast_resnet, _x_, *y*, <i>z</i> and `_code_`, not a`b."),
        Heading(picture),
        Link(picture, "b.md"),
        Pairs.of({picture: picture}, "<b>"),
        table,
    )
    assert picture not in markdown
    assert rf"{shown} is like fast_resnet, \_x\_, \*y\*, &lt;i>z&lt;/i> and `_code_`, not a\`b." in markdown
    assert f"### {shown}\n" in markdown
    assert f"[{shown}](b.md)" in markdown
    assert f"| {shown} | b |" in markdown
    assert rf"| {shown} ({shown}); {shown} | a\\\|b |" in markdown
    assert f"- {shown}: {shown}\n" in markdown
    assert "<summary>&lt;b&gt;</summary>" in markdown


@pytest.mark.parametrize(("code", "fence"), [("x = 1", "```"), ("# ```\n# ````\nx = 1", "`````")])
def test_the_fences_of_code_are_longer_than_those_in_it(code: str, fence: str) -> None:
    assert f"\n{fence}\n{code}\n{fence}\n" in as_markdown(Code(code))
