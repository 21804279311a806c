"""Any runs or studies side by side, as runs.html (one file, opens offline) and runs.md.

python experiments/compare.py --runs A B ... [--baseline X] [--store DIR] [--results DIR] [--out DIR]
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.comparison import figures as run_figures
from experiments.comparison import sentences as run_sentences
from experiments.comparison import static_figures as static_run_figures
from experiments.comparison.differences import Comparison, classes, conditions, parameters
from experiments.comparison.selection import choose
from experiments.pages.page import Picture, References, ReportPaths, render_page, write_files
from experiments.reading.results import RESULTS, load_results
from sweeps.console import answer_console
from sweeps.store import Store


def write_runs(
    names: Sequence[str], baseline: str | None, *, store: Store, results: Path = RESULTS, out: Path
) -> tuple[Comparison, ReportPaths]:
    """Write runs.html, runs.md and its pictures into a folder; nothing if anything is wrong with the names.

    Raises:
        RunsError: the names do not stand for runs that can be set side by side.
        StoreError: there is no such store, or the folder cannot be written to.
        ResultError: a result of a reproduction breaks a rule.
    """
    comparison = choose(names, baseline, store, load_results(results))
    write_files(out, render(comparison, command(names, baseline)))
    return comparison, ReportPaths(html=out / "runs.html", markdown=out / "runs.md")


def render(comparison: Comparison, again: str) -> dict[str, bytes]:
    """The page's files by name; a pure function of the comparison and the command that makes it again."""
    runs = [r for side in comparison.sides for r in side.runs]
    newest = max(r.date for r in runs)
    what = {r.run_id: f"{r.what}, {r.state}" for r in runs}
    context: dict[str, Any] = {
        "comparison": comparison,
        "newest": newest,
        "said": run_sentences,
        "parameters": parameters(comparison.sides),
        "conditions": conditions(comparison.sides),
        "classes": classes(comparison),
        "colours": run_figures.SIDE_COLOURS,
        "command": again,
    }
    return render_page("runs", context, draw(comparison), References({}, newest, what, cited=tuple(what)))


def draw(comparison: Comparison) -> dict[str, Picture]:
    """The pictures that the runs have the data for, by name."""
    pictures = {
        f"{what}_curves": Picture(
            name=f"{what}_curves",
            title=what.capitalize(),
            caption=run_sentences.curves_sentence(comparison, what),
            png=static_run_figures.curves(comparison, what),
            figure=run_figures.curves(comparison, what),
        )
        for what in ("loss", "accuracy")
        if run_figures.lines(comparison, what)
    }
    table = classes(comparison)
    if table.rows:
        pictures["classes"] = Picture(
            name="classes",
            title="Accuracy by class",
            caption=run_sentences.classes_sentence(comparison, table),
            png=static_run_figures.classes(comparison, table),
            figure=run_figures.classes(comparison, table),
        )
    return pictures


def command(names: Sequence[str], baseline: str | None) -> str:
    """The command line that writes this page again."""
    against = ["--baseline", baseline] if baseline is not None else []
    return shlex.join(["python", "experiments/compare.py", "--runs", *names, *against])


def show(comparison: Comparison) -> None:
    """Print the metrics of the sides, and what is worse than the baseline."""
    console = answer_console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("")
    for side in comparison.sides:
        table.add_column(Text(side.name), justify="right")
    for title, cells in run_sentences.rows(comparison):
        table.add_row(title, *(f"{cell.text} (regression)" if cell.regression else cell.text for cell in cells))
    console.print(table)
    console.print(Text(run_sentences.headline(comparison).text), soft_wrap=True)
