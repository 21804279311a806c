"""Accuracy against compute and time: our study, Optuna alone on the same trainer and space, and a usual sweep.

python -m experiments.accuracy.searches [--seeds 3] [--only NAME ...] [--jobs N] [--results FILE]

All may spend the training compute that the plan of our study expects; see `contestants.py`. A sweep written the usual
way has 25 minutes. Accuracies are of the 5,000 validation images. Searches that the file holds already are not
repeated; one that was stopped begins again. Seconds compare only between searches that ran side by side with equally
many others.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler, TPESampler
from pydantic.dataclasses import dataclass as validated

from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.files import write_atomically
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from cifar_core.machine import usable_cores
from experiments.accuracy.contestants import SPACE, BestSoFar, SearchBudget, SearchResult, optuna_alone, our_study
from experiments.accuracy.run_file import add, load
from experiments.accuracy.training_runs import machine
from experiments.accuracy.usual_sweep import RESNET, SMALL, usual_sweep
from experiments.pages import plots
from experiments.stats import mean_interval
from sweeps.command_line import OneLineParser, output_file, positive_int, run_command, start
from sweeps.console import SweepConsole
from sweeps.executors.worker_process import exit_with
from sweeps.planning.presets import EIGHTHS
from sweeps.validation import STRICT
from sweeps.words import clock_time, percent

RESULTS = Path(__file__).resolve().parents[1] / "data" / "searches.json"

# 24 trials are what TPE needs to learn from its ten random ones; of the starting network each (26 TFLOP) is 0.9 passes
# over the images. The 8 long ones show how much hangs on that choice.
_hyperband = partial(HyperbandPruner, max_resource=EIGHTHS)
SEARCHES: Mapping[str, Callable[[int, SearchBudget, Hardware], SearchResult]] = {
    "ours": partial(our_study, starts=True),
    "ours, no starts": partial(our_study, starts=False),
    "random": partial(optuna_alone, trials=24, sampler=RandomSampler),
    "TPE": partial(optuna_alone, trials=24, sampler=TPESampler),
    "TPE, 8 long trials": partial(optuna_alone, trials=8, sampler=TPESampler),
    "Hyperband": partial(optuna_alone, trials=24, sampler=TPESampler, pruner=_hyperband),
    "usual": partial(usual_sweep, networks=(SMALL,)),
    "usual, ResNet-18 too": partial(usual_sweep, networks=(SMALL, RESNET)),
}


@validated(config=STRICT, frozen=True, kw_only=True, slots=True)
class SearchRun:
    """A search with one seed; the last point is its answer, judged by all 5,000 validation images."""

    search: str
    seed: int
    planned_flops: float
    space: str  # hash of its content
    trials: int  # started
    points: tuple[BestSoFar, ...]
    tta_accuracy: float | None
    recipe: Mapping[str, Any]
    machine: str

    def is_of(self, search: str, seed: int, budget: SearchBudget) -> bool:
        """Return true if this is the run of that search with this budget."""
        mine = (self.search, self.seed, self.planned_flops, self.space)
        return mine == (search, seed, budget.flops, SPACE.hash)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="searches", description="Compare searches at equal training compute.")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="K", help="runs of each (default: 3)")
    listed = "; ".join(SEARCHES)
    parser.add_argument(
        "--only", nargs="+", choices=list(SEARCHES), default=list(SEARCHES), metavar="NAME", help=listed
    )
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="searches side by side (default: 1)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    shown = f"experiments/data/{RESULTS.name}"
    parser.add_argument("--results", type=output_file, default=RESULTS, metavar="FILE", help=f"default: {shown}")
    options = parser.parse_args(arguments)
    page = options.results.with_suffix(".html")
    if page == options.results:
        parser.error(f"argument --results: must not end in .html, as the figure beside it does, but got {str(page)!r}")

    def run() -> int:
        hardware, budget = Hardware.detect(options.device), SearchBudget()
        wanted = [(search, seed) for seed in range(options.seeds) for search in dict.fromkeys(options.only)]
        with SweepConsole() as console:
            ensure_cifar10(default_data_dir(), console.progress)
            runs = complete(options.results, wanted, budget, hardware, options.jobs, console.say)
        for line in table(runs):
            print(line)
        write_atomically(page, figure(runs).to_html().encode())
        print(f"figure: {page}")
        return 0

    return run_command(parser, run, stopped="stopped; the same command runs the searches that are left")


def complete(
    path: Path,
    wanted: Sequence[tuple[str, int]],
    budget: SearchBudget,
    hardware: Hardware,
    jobs: int,
    say: Callable[[str], None],
) -> list[SearchRun]:
    """Run the searches and seeds that the file does not hold, write each to it, and return all that are wanted.

    An error in one of them is raised when the others have ended and are written.

    Raises:
        InvalidFileError: the file is not what this function writes.
    """
    runs = load(path, SearchRun)
    left = iter([one for one in wanted if not any(run.is_of(*one, budget) for run in runs)])
    errors: list[BaseException] = []
    searches: set[Future[SearchRun]] = set()
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (os.getpid(),)) as pool:
        while True:
            # One that waits in the pool would begin when Ctrl-C ends another.
            for one in itertools.islice(left, jobs - len(searches)):
                searches.add(pool.submit(run_search, *one, budget, hardware, max(1, usable_cores() // jobs)))
            if not searches:
                break
            ended, searches = wait(searches, return_when=FIRST_COMPLETED)
            for search in ended:
                if (error := search.exception()) is not None:
                    errors.append(error)
                    continue
                run = search.result()
                same = partial(SearchRun.is_of, search=run.search, seed=run.seed, budget=budget)
                runs = add(path, run, same)
                end = run.points[-1]
                say(f"{run.search}, seed {run.seed}: {percent(end.accuracy, 2)}, {clock_time(end.seconds)}")
    if errors:
        raise errors[0]
    return [run for run in runs if any(run.is_of(*one, budget) for one in wanted)]


def _begin(parent: int) -> None:
    """Set up a process of the pool: Ctrl-C lets it clean up without a traceback, and it does not outlive `parent`."""
    signal.signal(signal.SIGINT, _quit)
    exit_with(parent)


def _quit(*_: object) -> None:
    sys.exit(128 + signal.SIGINT)


def run_search(search: str, seed: int, budget: SearchBudget, hardware: Hardware, threads: int) -> SearchRun:
    """Run a search with one seed, on so many threads of a CPU."""
    set_up_cpu(threads)
    found = SEARCHES[search](seed, budget, hardware)
    return SearchRun(
        search=search,
        seed=seed,
        planned_flops=budget.flops,
        space=SPACE.hash,
        trials=found.trials,
        points=tuple(found.points),
        tta_accuracy=found.tta_accuracy,
        recipe=found.recipe,
        machine=machine(found.hardware),
    )


def table(runs: Sequence[SearchRun]) -> Iterator[str]:
    """Yield the lines of a Markdown table: means over the seeds, with 95 % intervals of accuracies."""
    yield "| search | seeds | accuracy | with six views | trials | PFLOP | minutes |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for search in SEARCHES:
        if ours := [run for run in runs if run.search == search]:
            ends = [run.points[-1] for run in ours]
            plain = _accuracy([p.accuracy for p in ends])
            augmented = _accuracy([run.tta_accuracy for run in ours if run.tta_accuracy is not None])
            trials, flops = fmean(run.trials for run in ours), fmean(p.flops for p in ends) / 1e15
            minutes = fmean(p.seconds for p in ends) / 60
            yield f"| {search} | {len(ours)} | {plain} | {augmented} | {trials:.0f} | {flops:.2f} | {minutes:.1f} |"


def _accuracy(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = mean_interval(values)
    return percent(fmean(values), 2) + (f" ({100 * low:.2f} to {100 * high:.2f})" if len(values) > 1 else "")


def figure(runs: Sequence[SearchRun]) -> go.Figure:
    """Draw the accuracy of the best network so far, of each run, against compute and against time."""
    drawn = plots.canvas(height=420, columns=2, shared_yaxes=True, horizontal_spacing=0.03, top=60)
    for run in runs:
        accuracies = [plots.pc(point.accuracy) for point in run.points]
        flops, minutes = [p.flops / 1e15 for p in run.points], [p.seconds / 60 for p in run.points]
        colour = plots.PALETTE[list(SEARCHES).index(run.search)]
        hover = f"{run.search}, seed {run.seed}: %{{y:.1f}} %"
        first = run.seed == min(other.seed for other in runs if other.search == run.search)
        for column, x in enumerate((flops, minutes), start=1):
            style: dict[str, Any] = {"name": run.search, "colour": colour, "hover": hover, "legendgroup": run.search}
            style |= {"row": 1, "col": column}
            plots.add_line(drawn, x, accuracies, width=1.2, shape="hv", showlegend=first and column == 1, **style)
            plots.add_points(drawn, x[-1:], accuracies[-1:], size=8, showlegend=False, **style)
    drawn.update_xaxes(title="training PFLOP", col=1).update_xaxes(title="minutes", col=2)
    drawn.update_xaxes(rangemode="tozero")
    drawn.update_yaxes(title="validation accuracy of the best network, %", col=1)
    above = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    return drawn.update_layout(paper_bgcolor="white", showlegend=True, legend=above)


if __name__ == "__main__":
    start(main)
