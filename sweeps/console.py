"""Output of a sweep: a live view on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.words import about, clock_time, percent, waiting_workers

if TYPE_CHECKING:  # at run time this module stays free of torch
    from sweeps.progress import SweepRun, SweepView

REDRAWS_PER_SECOND = 4
STATUS_SECONDS = 30.0
PROGRESS_SECONDS = 5.0
NARROW_COLUMNS, MAX_COLUMNS = 100, 150  # beyond the first, running trials show their recipes and earlier accuracies
_ACCURACIES = 4  # of a running trial
LINES_BESIDE_TRIALS = 8  # lines of the view that are not a running trial, and the line of the cursor


def answer_console() -> Console:
    """Return a console for a command that prints one answer and exits."""
    here = sys.stdout.isatty()  # rich also counts FORCE_COLOR as a terminal
    columns = None if here else 100_000  # do not wrap lines in a file
    return Console(force_terminal=here, width=columns, markup=False, emoji=False, highlight=False)


def print_table(console: Console, table: Table) -> None:
    """Print a table without the spaces that rich puts at the ends of its lines."""
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        print(line.rstrip())


class SweepConsole:
    """Shows a sweep; as a context manager it restores the terminal whatever happens.

    Args:
        file: where to write; standard output by default.
        force_terminal: True for the live view, False for plain lines; by default whatever `file` supports.
        clock: the time in seconds, from the same origin as the times of a view.
    """

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        force_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = sys.stdout if file is None else file
        self._clock = clock
        self._progress: _Progress | None = None
        self._view: SweepView | None = None
        self._written: SweepView | None = None
        self._line_at = 0.0
        if isinstance(self._file, io.TextIOWrapper):
            # A terminal that lacks a character must not end the sweep.
            self._file.reconfigure(errors="replace")
        if force_terminal is None:
            # rich also counts FORCE_COLOR, which build servers set, as a terminal.
            force_terminal = self._file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._console = Console(
            file=self._file, force_terminal=force_terminal, markup=False, emoji=False, highlight=False
        )
        self._live: Live | None = None
        if force_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._picture,
                refresh_per_second=REDRAWS_PER_SECOND,
                vertical_overflow="crop",
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._view is not None and self._view is not self._written:
            self._write_status(self._view)

    def say(self, text: str) -> None:
        """Print a line that stays, above the live view if there is one."""
        if self._live is not None:
            self._console.print(Text(text))
        else:
            print(text, file=self._file, flush=True)

    def plan(self, rows: Mapping[str, str]) -> None:
        """Print a table of two aligned columns."""
        self._end_progress()
        if self._live is not None:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")  # a path is there to be copied, so it must be whole
            for name, value in rows.items():
                grid.add_row(Text(f"  {name}"), Text(value))
            self._console.print(grid)
        else:
            width = max(map(len, rows), default=0)
            for name, value in rows.items():
                self.say(f"  {name:<{width}}  {value}")

    def progress(self, what: str, done: float, total: float | None, unit: str = "bytes") -> None:
        """Show the progress of a download or a long pass: `done` of `total`, None for an unknown total."""
        before, now = self._progress, _Progress(what=what, done=done, total=total, unit=unit)
        if before is not None and before.what != what:
            self._end_progress()
            before = None
        self._progress = now
        if self._live is not None:
            return
        ended = done == total and not (before is not None and before.done == done)
        if before is None or ended or self._clock() - self._line_at >= PROGRESS_SECONDS:
            self._line_at = self._clock()
            self.say(now.line())

    def update(self, view: SweepView) -> None:
        """Show `view` at the next redraw; without a live view, print a line now and then."""
        self._end_progress()
        self._view = view
        if self._live is None:
            fresh = self._written is None or self._written.stage.name != view.stage.name
            if fresh or self._clock() - self._line_at >= STATUS_SECONDS:
                self._write_status(view)

    def _write_status(self, view: SweepView) -> None:
        self._written, self._line_at = view, self._clock()
        self.say(status_line(view))

    def _end_progress(self) -> None:
        """Turn the bar into a line that stays."""
        ended, self._progress = self._progress, None
        if ended is not None and self._live is not None:
            self.say(ended.line())

    def _picture(self) -> RenderableType:
        """Return the live view; the redrawing thread calls this, so that clocks tick between two updates."""
        wide = self._console.size.width >= MAX_COLUMNS
        parts: list[RenderableType] = []
        if self._progress is not None:
            parts.append(self._progress.bar())
        if self._view is not None:
            room = max(1, self._console.size.height - LINES_BESIDE_TRIALS)
            parts.append(_live_view(self._view, self._clock(), room, wide=wide))
        return Constrain(Group(*parts), MAX_COLUMNS if wide else NARROW_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class _Progress:
    what: str
    done: float
    total: float | None
    unit: str

    def size(self) -> str:
        unit = "MB" if self.unit == "bytes" else self.unit
        done, total = (f"{n / 1e6:.1f}" if self.unit == "bytes" else f"{n:,}" for n in (self.done, self.total or 0))
        if self.total:
            return f"{done} of {total} {unit}"
        return f"{done} {unit}" if self.done else ""

    def line(self) -> str:
        share = f"{percent(self.done / self.total, 0)}, " if self.total else ""
        return f"{self.what}: {share}{self.size()}" if self.size() else self.what

    def bar(self) -> RenderableType:
        if not self.total:
            return Text(self.line(), no_wrap=True, overflow="ellipsis")
        return _spread(Text(self.what), _bar(self.done, self.total), Text(self.size()))


def _live_view(view: SweepView, now: float, room: int, *, wide: bool) -> RenderableType:
    """Picture of `view` at the time `now`, with at most `room` running trials; with more of each if it is wide."""
    stage, times = view.stage, clock_time(now - view.start_time)
    if view.seconds_left is not None:
        times += f", {about(max(0.0, view.seconds_left - (now - view.at)))} left"
    counts = Text.assemble(
        f"{stage.ended}/{stage.total} done, {stage.counts['pruned']} pruned, ",
        (f"{stage.counts['failed']} failed", "red" if stage.counts["failed"] else ""),
    )
    parts: list[RenderableType] = [
        Text(),
        _spread(Text(view.study, style="bold"), None, Text(times)),
        _spread(Text(stage.name), _bar(stage.ended, stage.total), counts),
        Text(f"best: {view.best or 'none yet'}", no_wrap=True, overflow="ellipsis"),
    ]
    if view.running:
        parts.append(_trial_table(view.running[:room], now, wide))
    if len(view.running) > room:
        parts.append(Text(f"and {len(view.running) - room} more", style="dim"))
    if view.pending_workers:
        parts.append(Text(waiting_workers(view.pending_workers), style="dim"))
    return Group(*parts)


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(completed=done, total=total, complete_style="cyan", finished_style="cyan")


def _spread(left: Text, middle: ProgressBar | None, right: Text) -> Table:
    """One line over the full width; the bar, or `left` without a bar, takes the space that is left."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=None if middle else 1)
    if middle is None:
        grid.add_column(no_wrap=True)
        grid.add_row(left, right)
    else:
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(left, middle, right)
    return grid


def _trial_table(running: tuple[SweepRun, ...], now: float, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("running", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis", min_width=18)
    if wide:
        table.add_column("optimizer", no_wrap=True)
        for name in ("rate", "batch", "width"):
            table.add_column(name, no_wrap=True, justify="right")
    for name in ("epoch", "accuracies" if wide else "accuracy", "time"):
        table.add_column(name, no_wrap=True, justify="right")
    on_nodes = any(run.node for run in running)
    if on_nodes:
        table.add_column("node", no_wrap=True, overflow="ellipsis")
    for run in running:
        recipe = run.job.recipe
        more = [recipe.optimizer, f"{recipe.learning_rate:.2g}", f"{recipe.batch_size}", f"{recipe.width:g}"]
        shown = run.accuracies[-_ACCURACIES:] if wide else run.accuracies[-1:]
        table.add_row(
            Text(run.title),
            Text(recipe.model),
            *(more if wide else ()),
            f"{run.point.epoch if run.point else 0:.1f}/{recipe.epochs:.1f}",
            ", ".join(map(percent, shown)) or "-",
            clock_time(now - run.start_time),
            *([Text(run.node or "")] if on_nodes else []),
        )
    return table


def status_line(view: SweepView) -> str:
    """Return the sweep in one line.

    `[ 3m12s] search: 12/50 done (7 pruned, 0 failed), 2 running, best 62.4 % ..., about 9 min left`
    """
    stage = view.stage
    parts = [
        f"{stage.ended}/{stage.total} done ({stage.counts['pruned']} pruned, {stage.counts['failed']} failed)",
        f"{len(view.running)} running",
    ]
    if view.pending_workers:
        parts.append(waiting_workers(view.pending_workers))
    if view.best is not None:
        parts.append(f"best {view.best}")
    if view.seconds_left is not None:
        parts.append(f"{about(view.seconds_left)} left")
    return f"[{clock_time(view.at - view.start_time):>6}] {stage.name}: {', '.join(parts)}"
