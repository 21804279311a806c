"""Every page that this project writes, in a real browser: drawn, legible, and complete without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.experiments.conftest import Pages

pytestmark = pytest.mark.slow

PHONE, DESK, PAPER = 390, 1280, 673  # pixels; A4 less the margins of the style sheet
PRINT_ZOOM = 0.8  # of figures
SMALLEST = 11  # pixels of a letter's height
CONTRAST, MARK_CONTRAST = 4.5, 3.0  # WCAG 2.2, 1.4.3 of text, and 1.4.11 of marks, whose colours some labels have


@dataclass(slots=True)
class Visit:
    """A page that is open, and what it has done since it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def to(cls, browser: Browser, path: Path) -> Visit:
        visit = cls(browser.new_page(viewport={"width": DESK, "height": 900}, color_scheme="light"))
        visit.page.route(re.compile(r"^(https?|wss?):"), lambda route: route.abort())  # asked for, but never sent
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda said: visit.complaints.append(said.text) if _is_bad(said.type) else None)
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(path.as_uri())
        visit.ask("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        return visit

    def show(self, width: int, *, scheme: Any = "light", media: Any = "screen") -> None:
        """Lay the page out anew, and wait until its figures have followed."""
        self.page.emulate_media(color_scheme=scheme, media=media)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.wait_for_function(_FIGURES_FIT, timeout=30_000)

    @property
    def figures(self) -> int:
        return int(self.ask("() => document.querySelectorAll('.plot').length"))

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    @property
    def from_elsewhere(self) -> list[str]:
        return [url for url in self.requests if url.partition(":")[0] not in ("file", "data", "blob")]


def _is_bad(kind: str) -> bool:
    return kind in ("error", "warning", "assert")


_FIGURES_FIT = """() => [...document.querySelectorAll(".plot")].every((plot) => {
  const svg = plot.querySelector("svg.main-svg");
  return svg && Math.abs(svg.getBoundingClientRect().width - plot.getBoundingClientRect().width) < 2;
})"""

# The names of figures between whose axes (in plotly's layers of marks) nothing is drawn that takes up room.
_EMPTY_FIGURES = """() => [...document.querySelectorAll(".plot")].filter((plot) => {
  const marks = plot.querySelectorAll("svg.main-svg .mlayer :is(path, image, rect)");
  return ![...marks].some((mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height > 0; });
}).map((plot) => plot.id)"""

# Tables that are in no scroll box, and whatever reaches beyond the page but lies in none.
_OUTSIDE = """() => [
  ...[...document.querySelectorAll("table")].filter((table) => !table.closest(".scroll")),
  ...[...document.querySelectorAll("main *")].filter((element) =>
    !element.parentElement.closest(".scroll, pre, .plot") && element.getBoundingClientRect().right > innerWidth + 1),
].map((element) => element.outerHTML.slice(0, 80))"""

_SCROLLED = """() => [...document.querySelectorAll(".scroll")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => box.innerText.slice(0, 80))"""

_TOO_WIDE_FOR_PAPER = """() => [...document.querySelectorAll("main table, main pre, main figure")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.innerText.slice(0, 80))"""

# Every text that is to be seen: what it says, its size in pixels, and its contrast with what is behind it.
_TEXTS = """() => {
  const colour = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const opaque = (parts) => parts.length === 3 || parts[3] > 0.99;
  const luminance = (parts) => {
    const [r, g, b] = parts.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const parts = colour(getComputedStyle(at).backgroundColor);
      if (parts.length && opaque(parts)) return parts;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const style = getComputedStyle(element);
    if (!range.getClientRects().length || style.visibility === "hidden") continue;
    const drawn = Boolean(element.closest("svg"));
    const [a, b] = [colour(drawn ? style.fill : style.color), behind(element)].map(luminance).sort((x, y) => y - x);
    found.push({
      text: node.data.trim().slice(0, 60), size: parseFloat(style.fontSize), contrast: (a + 0.05) / (b + 0.05), drawn,
    });
  }
  return found;
}"""


@pytest.fixture(scope="module", params=["demo", "demo/what-if", "interrupted", "systems", "all kinds of runs"])
def visit(request: pytest.FixtureRequest, browser: Browser, pages: Pages) -> Iterator[Visit]:
    command, _, beside = request.param.partition("/")
    page = pages(command)
    found = Visit.to(browser, page.folder / f"{beside or page.name}.html")
    yield found
    found.page.close()


def test_the_page_is_drawn_without_complaint_and_loads_nothing_from_elsewhere(visit: Visit) -> None:
    visit.show(DESK)
    assert visit.figures or "/what-if" in visit.page.url
    assert visit.ask(_EMPTY_FIGURES) == []
    assert visit.ask("() => [...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert visit.ask(_SCROLLED) == []
    assert visit.complaints == []
    assert visit.requests
    assert visit.from_elsewhere == []


def test_no_table_leaves_a_column_after_a_row_or_two(visit: Visit) -> None:
    visit.show(DESK)
    tables = visit.ask("""() => [...document.querySelectorAll(".columns table")]
        .map((table) => [...table.rows].map((row) => Math.round(row.getBoundingClientRect().left)))""")
    assert [rows for rows in tables if rows[0] != rows[min(3, len(rows) - 1)]] == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_the_screen_and_is_large_enough_to_read(visit: Visit, width: int) -> None:
    visit.show(width)
    assert visit.ask("() => document.scrollingElement.scrollWidth") <= width
    assert visit.ask(_OUTSIDE) == []
    texts = visit.ask(_TEXTS)
    assert len(texts) > 40
    assert [text for text in texts if text["size"] < SMALLEST - 0.01] == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_sheet_of_pictures_is_shown_as_large_as_its_labels_need(visit: Visit, width: int) -> None:
    """A sheet of eight pictures of 48 pixels is 1,224 pixels wide, with letters of 12 pixels."""
    visit.show(width)
    shares = visit.ask("""() => [...document.querySelectorAll(".photo:not(#figure-prediction) img")].map((sheet) => {
      sheet.style.width = "1224px";
      const share = sheet.clientWidth / 1224;
      sheet.style.width = "";
      return share;
    })""")
    assert [share for share in shares if share < SMALLEST / 12] == []


def test_a_figure_that_has_not_followed_a_narrower_screen_scrolls_alone(visit: Visit) -> None:
    if not visit.figures:
        return
    visit.show(DESK)
    visit.page.set_viewport_size({"width": PHONE, "height": 900})
    visit.ask("() => { document.querySelector('.plot > *').style.width = '900px'; }")
    assert visit.ask("() => document.scrollingElement.scrollWidth") <= PHONE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_legible_in_both_schemes(visit: Visit, scheme: str) -> None:
    visit.show(DESK, scheme=scheme)
    paper = visit.ask("() => getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 128) == (scheme == "dark")
    for _ in range(50):  # figures follow a change of the scheme, but not at once
        faint = [t for t in visit.ask(_TEXTS) if t["contrast"] < (MARK_CONTRAST if t["drawn"] else CONTRAST)]
        if not faint:
            break
        visit.page.wait_for_timeout(100)
    assert faint == []


def test_the_page_can_be_printed(visit: Visit) -> None:
    visit.show(DESK)
    visit.ask("() => dispatchEvent(new Event('beforeprint'))")
    drawn = set(visit.ask("() => [...document.querySelectorAll('svg.main-svg')].map((svg) => svg.clientWidth)"))
    assert drawn == ({(PAPER - 1) / PRINT_ZOOM} if visit.figures else set())
    visit.ask("() => dispatchEvent(new Event('afterprint'))")
    visit.show(PAPER, media="print")
    assert visit.ask(_TOO_WIDE_FOR_PAPER) == []
    commands = visit.page.locator(".first > pre").all()
    assert commands or not visit.page.url.endswith("report.html")
    assert all(each.is_visible() for each in commands)
    pdf = visit.page.pdf(format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > (1 if visit.figures else 0)
    visit.show(DESK)
    assert visit.ask(_EMPTY_FIGURES) == []
    assert visit.complaints == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("report", "Move the assumptions, and see the answer change (what-if.html, beside this file)"),
        ("what-if", "The report (report.html, beside this file) has the sources"),
    ],
)
def test_a_link_to_a_file_beside_is_its_name_where_mlflow_shows_the_page(
    browser: Browser, pages: Pages, name: str, said: str
) -> None:
    page = browser.new_page()
    page.evaluate(
        """(html) => {
          const frame = document.body.appendChild(document.createElement("iframe"));
          frame.src = URL.createObjectURL(new Blob([html], { type: "text/html" }));
        }""",
        (pages("demo").folder / f"{name}.html").read_text(),
    )  # as MLflow's page of an artifact does
    expect(page.frame_locator("iframe").locator("body")).to_contain_text(said)
    page.close()


def test_the_checks_find_what_is_wrong_with_a_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><body><main><p style='font-size: 9px'>small</p><p style='color: #999'>faint</p>"
        "<table><tr><td><div style='width: 3000px'>wide</div></td></tr></table>"
        "<div class='scroll' style='overflow: auto'><table><tr><td><div style='width: 4000px'>wider</div></table></div>"
        "<div class='plot' id='plot-empty' style='width: 100px'><svg class='main-svg' width='100'></svg></div>"
        "<img src='https://example.invalid/picture.png'><script>nowhere()</script></main></body>"
    )
    bad = Visit.to(browser, path)
    bad.show(DESK)
    assert bad.from_elsewhere == ["https://example.invalid/picture.png"]
    assert any("nowhere is not defined" in said for said in bad.complaints)
    assert bad.ask(_EMPTY_FIGURES) == ["plot-empty"]
    assert bad.ask("() => document.scrollingElement.scrollWidth") > DESK
    assert [element[:4] for element in bad.ask(_OUTSIDE)] == ["<tab", "<tab", "<tbo", "<tr>", "<td>", "<div"]
    assert bad.ask(_SCROLLED) == ["wider"]
    assert len(bad.ask(_TOO_WIDE_FOR_PAPER)) == 2
    texts = {text["text"]: text for text in bad.ask(_TEXTS)}
    assert texts["small"]["size"] == 9
    assert texts["faint"]["contrast"] == pytest.approx(2.85, abs=0.01)
    assert texts["wide"]["contrast"] == 21
    bad.page.close()
