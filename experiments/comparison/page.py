"""The comparison page: runs or studies side by side, as runs.html (one file, opens offline) and runs.md.

python experiments/compare.py --runs A B ... [--baseline X] [--store DIR] [--results DIR] [--out DIR]
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import rich.table
from rich.console import Console
from rich.text import Text

from cifar_core.data.data_set import CIFAR10
from experiments.comparison import classes, curves, outcome, settings
from experiments.comparison.differences import Comparison
from experiments.comparison.selection import choose
from experiments.pages.blocks import Code, Page, Section
from experiments.pages.page import References, render_page, write_files
from experiments.pages.text import MEASURES, CitedText
from experiments.reading.results import RESULTS, load_results, recipes_in
from sweeps.console import answer_console
from sweeps.snapshot import readable
from sweeps.store import DEFAULT_STORE, Store

_NO_LIMIT = 100_000  # columns
_UNRECORDED = "data that is not recorded"
SECTIONS = (outcome.lead, outcome.metrics, outcome.images, classes.section, settings.section, curves.section)


def write_runs(
    names: Sequence[str], baseline: str | None, *, store: Store, results: Path, out: Path
) -> tuple[Comparison, list[Path]]:
    """Write runs.html and runs.md into a folder; nothing if a name is wrong.

    Raises:
        UserError: the names do not stand for runs that can be compared, there is no such store, the result of a
            reproduction breaks a rule, or the folder cannot be written to.
    """
    with readable(store) as source:
        comparison = choose(names, baseline, source, load_results(results, recipes_in(results)))
    return comparison, write_files(out, render(comparison, command(names, baseline, store, results)))


def render(comparison: Comparison, command: str) -> dict[str, bytes]:
    """The page's files by name: a pure function of the comparison and the command that writes the page."""
    runs = [r for group in comparison.groups for r in group.runs]
    newest = max(r.date for r in runs)
    what = {r.run_id: f"{r.description}, {r.state}" for r in runs}
    data = {r.conditions.get("data", CIFAR10.name) if "data_sha256" in r.conditions else _UNRECORDED for r in runs}
    page = Page(
        name="runs",
        title=f"Side by side: {', '.join(group.name for group in comparison.groups)}",
        heading="Runs side by side",
        subject=CitedText(f"{', '.join(sorted(data))}, newest run of {newest}"),
        sections=[*(section(comparison) for section in SECTIONS), Section("Command", (Code(command),))],
        footer=MEASURES,
    )
    return render_page(page, References({}, newest, what, cited=list(what)))


def command(names: Sequence[str], baseline: str | None, store: Store, results: Path) -> str:
    """The command line that writes this page again; STORE and RESULTS stand for other folders than the default."""
    against = ["--baseline", baseline] if baseline is not None else []
    where = [] if store.root == DEFAULT_STORE else ["--store", "STORE"]
    where += ["--tracking-uri", "URI"] if store.mlflow_file is None else []
    where += [] if results == RESULTS else ["--results", "RESULTS"]
    return shlex.join(["python", "experiments/compare.py", "--runs", *names, *against, *where])


def show(comparison: Comparison) -> None:
    """Print the metrics of the groups, as many side by side as there is room for, and the answer in a sentence."""
    console, left = answer_console(), list(range(len(comparison.groups)))
    wide = console.options.update(width=_NO_LIMIT)
    while left:
        for count in range(len(left), 0, -1):
            table = _table(comparison, left[:count], console)
            if console.measure(table, options=wide).maximum <= console.width:
                break
        console.print(table)
        left = left[count:]
    console.print(Text(outcome.headline(comparison).text))


def _table(comparison: Comparison, shown: Sequence[int], console: Console) -> rich.table.Table:
    """Return the metrics of some of the groups, by their places."""
    table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", max_width=console.width // 3)
    for place in shown:
        name = comparison.groups[place].name
        narrow = name.replace("/", "/\n") if console.is_terminal else name
        table.add_column(Text(narrow), justify="right", overflow="fold")
    for title, cells in outcome.metric_rows(comparison):
        here = [cells[place] for place in shown]
        table.add_row(title, *(f"{cell.text} (regression)" if cell.worse else cell.text for cell in here))
    return table
