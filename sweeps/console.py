"""What a sweep shows: a live view on a terminal, and lines that a log can keep anywhere else."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REDRAWS_PER_SECOND = 4
STATUS_SECONDS = 30.0
PROGRESS_SECONDS = 5.0
MAX_COLUMNS = 100
"""On a wider terminal the view would fall apart into a left and a right half."""
LINES_BESIDE_TRIALS = 7
"""Lines of the view that are not a running trial, and the one that the cursor stands on."""


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A training run that a worker is busy with."""

    label: str
    """`trial 7` or `confirm 1/2`."""
    model: str
    epoch: float
    epochs: float
    accuracy: float | None
    """The last validation accuracy, in [0, 1]; None before the first validation."""
    seconds: float
    """Since this run began."""


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """All that there is to see of a sweep at one moment."""

    study: str
    stage: str
    """`search`, `confirm` or `test`."""
    total: int
    """Runs that this stage is to have."""
    complete: int
    pruned: int
    failed: int
    running: tuple[RunningTrial, ...]
    best: str | None
    """The best so far, as `best_trial` words it."""
    seconds_left: float | None
    """An estimate for the whole sweep; None while there is nothing to base it on."""
    seconds: float
    """Since the sweep began."""

    @property
    def done(self) -> int:
        """Runs of this stage that have ended, whichever way."""
        return self.complete + self.pruned + self.failed


def answer_console() -> Console:
    """Standard output, for the one answer of a command that holds no sweep."""
    here = sys.stdout.isatty()  # rich's own test takes FORCE_COLOR for a terminal
    columns = None if here else 100_000  # in a file a line is a line, however long it is
    return Console(force_terminal=here, width=columns, markup=False, emoji=False, highlight=False)


class SweepConsole:
    """Writes what a sweep has to say; as a context manager it gives the terminal back whatever happens.

    Args:
        file: where to write; standard output by default.
        force_terminal: True for the live view, False for plain lines; by default what `file` can show.
        clock: seconds from any origin.
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
        self._download: _Download | None = None
        self._view: tuple[SweepView, float] | None = None
        """The latest view, and the clock when it came: one value, as the redrawing thread reads it."""
        self._written: SweepView | None = None
        self._line_at = 0.0
        if isinstance(self._file, io.TextIOWrapper):
            # A sweep must not die of a terminal that cannot show a letter.
            self._file.reconfigure(errors="replace")
        if force_terminal is None:
            # rich's own test also takes FORCE_COLOR, which build servers set, for a terminal.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._view is not None and self._view[0] is not self._written:
            self._write_status(self._view[0])

    def say(self, text: str) -> None:
        """A line that stays: above the live view, or simply the next one."""
        if self._live is not None:
            self._console.print(Text(text))
        else:
            print(text, file=self._file, flush=True)

    def plan(self, rows: Mapping[str, str]) -> None:
        """Names and what they stand for, in two aligned columns."""
        self._settle_download()
        if self._live is not None:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column()
            for name, value in rows.items():
                grid.add_row(Text(f"  {name}"), Text(value))
            self._console.print(grid)
        else:
            width = max(map(len, rows), default=0)
            for name, value in rows.items():
                self.say(f"  {name:<{width}}  {value}")

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How far a download is: `done` of `total` bytes, with None for a total that nobody knows yet."""
        before, now = self._download, _Download(what=what, done=done, total=total)
        if before is not None and before.what != what:
            self._settle_download()
            before = None
        self._download = now
        if self._live is not None:
            return
        ended = done == total and not (before is not None and before.done == done)
        if before is None or ended or self._clock() - self._line_at >= PROGRESS_SECONDS:
            self._line_at = self._clock()
            self.say(now.line())

    def update(self, view: SweepView) -> None:
        """Makes `view` the one to show. Cheap: redraws and lines come at their own pace, not at each call."""
        self._settle_download()
        self._view = view, self._clock()
        if self._live is None:
            fresh = self._written is None or self._written.stage != view.stage
            if fresh or self._clock() - self._line_at >= STATUS_SECONDS:
                self._write_status(view)

    def _write_status(self, view: SweepView) -> None:
        self._written, self._line_at = view, self._clock()
        self.say(status_line(view))

    def _settle_download(self) -> None:
        """Turns the bar of a download into a line that stays."""
        download, self._download = self._download, None
        if download is not None and self._live is not None:
            self.say(download.line())

    def _picture(self) -> RenderableType:
        """What the redrawing thread shows: made anew each time, so that clocks run on between two updates."""
        parts: list[RenderableType] = []
        if self._download is not None:
            parts.append(self._download.bar())
        if self._view is not None:
            view, since = self._view
            room = max(1, self._console.size.height - LINES_BESIDE_TRIALS)
            parts.append(_live_view(view, self._clock() - since, room))
        return Constrain(Group(*parts), MAX_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class _Download:
    what: str
    done: int
    total: int | None

    def size(self) -> str:
        if self.total:
            return f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB"
        return f"{self.done / 1e6:.1f} MB" if self.done else ""

    def line(self) -> str:
        share = f"{percent(self.done / self.total, 0)}, " if self.total else ""
        return f"{self.what}: {share}{self.size()}" if self.size() else self.what

    def bar(self) -> RenderableType:
        if not self.total:
            return Text(self.line(), no_wrap=True, overflow="ellipsis")
        return _spread(Text(self.what), _bar(self.done, self.total), Text(self.size()))


def _live_view(view: SweepView, age: float, room: int) -> RenderableType:
    """The picture of `view`, `age` seconds after it was true, with at most `room` running trials."""
    times = clock_time(view.seconds + age)
    if view.seconds_left is not None:
        times += f", {time_left(max(0.0, view.seconds_left - age))}"
    counts = Text.assemble(
        f"{view.done}/{view.total} done, {view.pruned} pruned, ",
        (f"{view.failed} failed", "red" if view.failed else ""),
    )
    parts: list[RenderableType] = [
        Text(),
        _spread(Text(view.study, style="bold"), None, Text(times)),
        _spread(Text(view.stage), _bar(view.done, view.total), counts),
        Text(f"best: {view.best or 'none yet'}", no_wrap=True, overflow="ellipsis"),
    ]
    if view.running:
        parts.append(_trial_table(view.running[:room], age))
    if len(view.running) > room:
        parts.append(Text(f"and {len(view.running) - room} more", style="dim"))
    return Group(*parts)


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(completed=done, total=total, complete_style="cyan", finished_style="cyan")


def _spread(left: Text, middle: ProgressBar | None, right: Text) -> Table:
    """One line over the full width; the bar, or `left` where there is none, takes what the others leave."""
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


def _trial_table(running: tuple[RunningTrial, ...], age: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("running", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis", min_width=18)
    for name in ("epoch", "accuracy", "time"):
        table.add_column(name, no_wrap=True, justify="right")
    for trial in running:
        table.add_row(
            Text(trial.label),
            Text(trial.model),
            f"{trial.epoch:.1f}/{trial.epochs:.1f}",
            "-" if trial.accuracy is None else percent(trial.accuracy),
            clock_time(trial.seconds + age),
        )
    return table


def status_line(view: SweepView) -> str:
    """The sweep in one line, the same words in the same places each time.

    `[ 3m12s] search: 12/50 done (7 pruned, 0 failed), 2 running, best 62.4 % ..., about 9 min left`
    """
    parts = [
        f"{view.done}/{view.total} done ({view.pruned} pruned, {view.failed} failed)",
        f"{len(view.running)} running",
    ]
    if view.best is not None:
        parts.append(f"best {view.best}")
    if view.seconds_left is not None:
        parts.append(time_left(view.seconds_left))
    return f"[{clock_time(view.seconds):>6}] {view.stage}: {', '.join(parts)}"


def percent(share: float, decimals: int = 1) -> str:
    """`62.4 %`, of a share in [0, 1]."""
    return f"{100 * share:.{decimals}f} %"


def best_trial(accuracy: float, trial: int, model: str) -> str:
    """`62.4 % validation accuracy, trial 12, fast_resnet`."""
    return f"{percent(accuracy)} validation accuracy, trial {trial}, {model}"


def clock_time(seconds: float) -> str:
    """`47s`, `3m12s` or `2h05m`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def time_left(seconds: float) -> str:
    """An estimate in words, no more exact than estimates are."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than 1 min left"
    if minutes < 100:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60:02} min left"
