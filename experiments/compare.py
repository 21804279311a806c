"""Write the build-vs-buy report of a study, the page of the published systems, or runs side by side.

    python experiments/compare.py [--store DIR] [--tracking-uri URI] [--study NAME] [--scenario FILE ...]
                                  [--results DIR] [--out DIR]
    python experiments/compare.py systems
    python experiments/compare.py --runs A B ... [--baseline X]
    python experiments/compare.py --prices

Each writes an HTML file that opens offline and a Markdown file; the report has its numbers as JSON too. The same input
gives the same bytes.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # a short command that makes little garbage need not go through its memory for it

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from cifar_core.errors import UserError
from experiments.comparison.page import show, write_runs
from experiments.comparison.scenarios import write_scenarios
from experiments.pages.text import listed
from experiments.reading.named_runs import LETTERS
from experiments.reading.published import Published, load_published
from experiments.reading.results import RESULTS
from experiments.reading.scenario import DEFAULT_SCENARIO
from experiments.report import write_report
from experiments.systems.page import write_systems
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of
from sweeps.console import answer_console, print_table

# What writes no report of a study, and what it cannot go with, by their names among the options.
_ALONE: Mapping[str, Sequence[str]] = {
    "what": ("study", "scenario", "tracking_uri"),
    "runs": ("what", "study", "scenario"),
    "prices": ("what", "study", "scenario", "runs"),
}


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="compare.py",
        description="Write the build-vs-buy report of a study, the page of the published systems, or any runs side by "
        "side.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("systems",),
        help="the published systems beside their reproductions, not a study",
    )
    add_store(parser)
    parser.add_argument("--study", metavar="NAME", help="the study to report (default: the most recent one)")
    parser.add_argument(
        "--scenario",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="volume, bars, horizon, people and vendors (default: experiments/data/scenario.toml, to be copied); "
        "several are set side by side",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="RUN",
        help="set these side by side: studies, STUDY/KEY (such as quick-full/trial-3), results of reproduce.py, "
        f"champion, or ids ({LETTERS} letters will do) or names of runs",
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="with --runs: mark what is significantly worse than this one; the exit code stays 0",
    )
    parser.add_argument(
        "--prices",
        action="store_true",
        help="list the published figures that are older than a year or undated, and write nothing",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="what experiments/reproduce.py wrote (default: experiments/data/results)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: reports/STUDY in the store, reports/systems or reports/runs)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    for name, others in _ALONE.items():
        given = [_shown(other) for other in others if getattr(options, other)]
        if getattr(options, name) and given:
            rule = f"{_shown(name)} must stand without {listed([_shown(other) for other in others])}"
            raise UserError(f"{rule}, but got {listed(given)}")
    if options.baseline is not None and not options.runs:
        raise UserError(f"--baseline must come with --runs, but got --baseline {options.baseline} alone")
    if options.prices:
        show_old(load_published(), datetime.datetime.now(datetime.UTC).date())
        return 0
    if options.results != RESULTS and not options.results.is_dir():
        raise UserError(f"--results must be an existing folder, but got {options.results}")
    store = store_of(options)
    if options.what:
        paths = write_systems(options.results, out=options.out or store.report(options.what))
    elif options.runs:
        out = options.out or store.report("runs")
        compared, paths = write_runs(options.runs, options.baseline, store=store, results=options.results, out=out)
        show(compared)
    elif options.scenario and len(options.scenario) > 1:
        paths = write_scenarios(options.study, options.scenario, store, out=options.out)
    else:
        scenario = options.scenario[0] if options.scenario else DEFAULT_SCENARIO
        written = write_report(
            options.study,
            store,
            out=options.out,
            results=options.results,
            scenario=scenario,
        )
        paths = written.paths
        print(f"Answer under {'the example scenario' if scenario == DEFAULT_SCENARIO else scenario}: {written.answer}")
        for warning in written.warnings:
            print(warning)
        if written.not_logged:
            print(f"The report is not in MLflow: {written.not_logged}", file=sys.stderr)
    print("Report:", "\n        ".join(map(str, paths)))
    return 0


def _shown(name: str) -> str:
    return "systems" if name == "what" else f"--{name.replace('_', '-')}"


def show_old(published: Published, today: datetime.date) -> None:
    """Print the published figures that are older than a year on that day, or undated."""
    figures = (published.bar, *published.accuracies, published.fresh_test_set, *published.prices)
    old = [(figure, age) for figure in figures if (age := figure.age(today))]
    table = Table.grid(padding=(0, 2))
    for figure, age in old:
        when = "undated" if age == "undated" else f"{figure.when}, {age}"
        table.add_row(figure.name, figure.figure, f"{when}: {figure.source}")
    print_table(answer_console(), table)
    print(f"{len(old)} of {len(figures)} figures of published.toml are older than a year or undated")


main = main_of(_parser, _run, stopped="stopped")

if __name__ == "__main__":
    start(main)
