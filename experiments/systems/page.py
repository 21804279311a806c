"""The published systems beside their reproductions, as systems.html (one file, opens offline) and systems.md.

python experiments/compare.py systems [--results DIR] [--store DIR] [--out DIR]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.pages.page import Picture, References, ReportPaths, render_page, write_files
from experiments.reading.published import DEFAULT_PATH, load_published
from experiments.reading.results import RESULTS, ResultError, load_recipes, load_results
from experiments.sections import figures, static_figures
from experiments.systems import sentences as system_sentences
from experiments.systems.reproduction import System, newest, side_by_side


def write_systems(results: Path = RESULTS, *, out: Path, published: Path = DEFAULT_PATH) -> ReportPaths:
    """Write systems.html, systems.md and its pictures into a folder.

    Raises:
        ResultError: there is no result, or one breaks a rule.
        PublishedError: the published figures do.
        StoreError: the folder cannot be written to.
    """
    outside = load_published(published)
    runs = load_results(results)
    if not runs:
        raise ResultError(f"no results in {results}: python experiments/reproduce.py NAME makes some")
    write_files(out, render(side_by_side(outside, runs, load_recipes())))
    return ReportPaths(html=out / "systems.html", markdown=out / "systems.md")


def render(systems: Sequence[System]) -> dict[str, bytes]:
    """The page's files by name; a pure function of the systems, at least one of which has a run."""
    date = newest(systems)
    assert date is not None
    what = system_sentences.what_runs_are(systems)
    references = References({s.name: s.published for s in systems}, date, what, cited=tuple(what))
    context: dict[str, Any] = {"systems": systems, "date": date, "said": system_sentences}
    return render_page("systems", context, draw(systems), references)


def draw(systems: Sequence[System]) -> dict[str, Picture]:
    """The curves of each system that has come to the end of an epoch, by its name."""
    return {
        s.name: Picture(
            name=s.name,
            title=f"{s.name}: ours over the published curves",
            caption=system_sentences.sights(s),
            png=static_figures.overlay(s.overlay),
            figure=figures.overlay(s.overlay),
        )
        for s in systems
        if s.overlay.accuracies or s.overlay.losses
    }
