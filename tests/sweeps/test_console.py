"""The terminal view of a sweep: what it says, how often, how wide, and that it gives the terminal back."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule
from sweeps.console import SweepConsole, _live_view, status_line
from sweeps.executors.protocol import TrainJob
from sweeps.progress import StageProgress, SweepRun, SweepView
from tests.sweeps.support import point


def run(title: str, model: str, accuracy: float | None, began: float = 1120.0) -> SweepRun:
    known = () if accuracy is None else (0.1, 0.2, 0.3, 0.4, accuracy)
    job = TrainJob(key=title, recipe=Recipe(model=model, epochs=12.4), schedule=EvalSchedule())
    return SweepRun(title, job, point=point(1, epoch=10.26), accuracies=known, start_time=began)


TRIAL = run("confirm 1/2", "vision_transformer", 0.6131)
STAGE = StageProgress("search", total=50, counts=Counter(complete=4, pruned=7, failed=1))
VIEW = SweepView(
    study="first-study",
    stage=STAGE,
    running=(run("trial 13", "five_conv", None), TRIAL),
    best="62.4 % validation accuracy, trial 12, fast_resnet",
    start_time=1000.0,
    at=1192.0,
    seconds_left=540,
)
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@dataclass
class Screen:
    """The output of a console, and a clock that a test sets."""

    file: io.StringIO = field(default_factory=io.StringIO)
    now: float = VIEW.at

    @property
    def text(self) -> str:
        return self.file.getvalue()

    def lines(self) -> SweepConsole:
        return SweepConsole(file=self.file, clock=lambda: self.now)

    def live(self) -> SweepConsole:
        return SweepConsole(file=self.file, force_terminal=True, clock=lambda: self.now)


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def picture(view: SweepView, width: int, age: float = 0.0, room: int = 10) -> list[str]:
    """Lines of the live view as a terminal of `width` columns shows them, without colours."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(_live_view(view, view.at + age, room, wide=False))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def words(text: str) -> str:
    """`text` without escape sequences and with single spaces."""
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", text).split())


class TestStatusLine:
    def test_status_line(self) -> None:
        assert status_line(VIEW) == (
            "[ 3m12s] search: 12/50 done (7 pruned, 1 failed), 2 running, "
            "best 62.4 % validation accuracy, trial 12, fast_resnet, about 9 min left"
        )

        view = replace(VIEW, stage=StageProgress("search", 50), best=None, seconds_left=None, running=(), at=1003.0)
        assert status_line(view) == "[    3s] search: 0/50 done (0 pruned, 0 failed), 0 running"


class TestPicture:
    def test_eighty_columns(self) -> None:
        assert picture(VIEW, 80) == [
            "",
            "first-study                                              3m12s, about 9 min left",
            "search  ━━━━━━━━━╸                                12/50 done, 7 pruned, 1 failed",
            "best: 62.4 % validation accuracy, trial 12, fast_resnet",
            "running      model                   epoch  accuracy   time",
            "trial 13     five_conv           10.3/12.4         -  1m12s",
            "confirm 1/2  vision_transformer  10.3/12.4    61.3 %  1m12s",
        ]

    def test_a_cluster(self) -> None:
        view = replace(VIEW, running=(replace(TRIAL, node="10.0.0.7"),), pending_workers=3)
        assert picture(view, 80)[-3:] == [
            "running      model                   epoch  accuracy   time  node",
            "confirm 1/2  vision_transformer  10.3/12.4    61.3 %  1m12s  10.0.0.7",
            "3 workers wait for resources",
        ]
        assert ", 1 running, 3 workers wait for resources, best " in status_line(view)

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_never_wraps(self, width: int) -> None:
        stage = replace(STAGE, total=1000, counts=STAGE.counts + Counter(complete=896))
        view = replace(VIEW, study="a-very-long-name-" * 9, best="99.9 % of everything " * 9, stage=stage)
        lines = picture(view, width)
        assert len(lines) == len(picture(VIEW, 80))
        assert max(map(cell_len, lines)) <= width
        assert lines[1].endswith("…  3m12s, about 9 min left")
        assert lines[2].startswith("search  ━")
        assert lines[2].endswith("  908/1000 done, 7 pruned, 1 failed")

    def test_times_advance_between_two_updates(self) -> None:
        text = "\n".join(picture(VIEW, 80, age=60))
        assert "4m12s, about 8 min left" in text
        assert text.count("2m12s") == 2

    def test_no_more_trials_than_there_is_room_for(self) -> None:
        lines = picture(replace(VIEW, running=(TRIAL,) * 9), 80, room=3)
        assert sum("confirm" in line for line in lines) == 3
        assert lines[-1] == "and 6 more"

    def test_before_the_first_trial(self) -> None:
        lines = picture(replace(VIEW, stage=StageProgress("search"), running=(), best=None, seconds_left=None), 60)
        assert lines[1].endswith(" 3m12s")
        assert lines[3:] == ["best: none yet"]

    @pytest.mark.parametrize(("columns", "wide"), [(100, False), (149, False), (150, True), (300, True)])
    def test_a_wide_terminal_shows_recipes_and_earlier_accuracies(
        self, screen: Screen, monkeypatch: pytest.MonkeyPatch, columns: int, wide: bool
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        with screen.live() as console:
            console.update(VIEW)
        shown = words(screen.text)
        assert ("optimizer rate batch width" in shown) == wide
        assert ("20.0 %, 30.0 %, 40.0 %, 61.3 %" in shown) == wide
        assert "61.3 %" in shown
        widest = max(cell_len(line) for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.text).splitlines())
        assert widest <= (150 if wide else 100)

    def test_names_are_shown_as_they_are(self) -> None:
        trial = run("trial 1", "[red]:car:", None)
        text = "\n".join(picture(replace(VIEW, study="[bold]x", running=(trial,)), 80))
        assert "[bold]x" in text
        assert "[red]:car:" in text


class TestPlainLines:
    def test_a_status_line_every_half_minute(self, screen: Screen) -> None:
        with screen.lines() as console:
            for second in range(70):
                screen.now = 1000.0 + second
                console.update(replace(VIEW, at=screen.now))
        times = [line[:8] for line in screen.text.splitlines()]
        assert times == ["[    0s]", "[   30s]", "[ 1m00s]", "[ 1m09s]"]

    def test_a_new_stage_is_told_at_once_and_the_last_state_also_after_an_error(self, screen: Screen) -> None:
        with contextlib.suppress(KeyboardInterrupt), screen.lines() as console:
            console.update(VIEW)
            for complete in (0, 1, 2):
                console.update(replace(VIEW, stage=StageProgress("confirm", 9, counts=Counter(complete=complete))))
            raise KeyboardInterrupt
        said = [line.split()[2:4] for line in screen.text.splitlines()]
        assert said == [["search:", "12/50"], ["confirm:", "0/9"], ["confirm:", "2/9"]]

    def test_plan_is_aligned_and_not_folded(self, screen: Screen) -> None:
        screen.lines().plan({"device": "cpu", "time": "about [21] min " * 10})
        assert screen.text == f"  device  cpu\n  time    {'about [21] min ' * 10}\n"

    def test_a_long_path_is_whole_on_a_terminal(self, screen: Screen) -> None:
        path = f"/{'folder/' * 20}report.html"
        screen.live().plan({"report": path})
        assert path in words(screen.text).replace(" ", "")

    def test_no_escape_sequences_whatever_a_build_server_sets(
        self, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        with screen.lines() as console:
            console.say("one line")
            console.progress("downloading", 1, 2)
            console.update(VIEW)
        assert "\x1b" not in screen.text
        assert screen.text.startswith("one line\ndownloading: 50 %")

    def test_download_in_few_lines(self, screen: Screen) -> None:
        console = screen.lines()
        for tenth_of_second in range(121):
            screen.now = 1000.0 + tenth_of_second / 10
            console.progress("downloading x", tenth_of_second * 1_000_000, 120_000_000)
        console.progress("downloading x", 120_000_000, 120_000_000)
        assert screen.text.splitlines() == [
            "downloading x: 0 %, 0.0 of 120.0 MB",
            "downloading x: 42 %, 50.0 of 120.0 MB",
            "downloading x: 83 %, 100.0 of 120.0 MB",
            "downloading x: 100 %, 120.0 of 120.0 MB",
        ]

    def test_download_of_unknown_size(self, screen: Screen) -> None:
        console = screen.lines()
        console.progress("a file is damaged, fetching it again", 0, None)
        console.progress("downloading x", 2_500_000, None)
        assert screen.text == "a file is damaged, fetching it again\ndownloading x: 2.5 MB\n"

    def test_a_pass_over_images(self, screen: Screen) -> None:
        screen.lines().progress("features", 1_000, 45_000, "images")
        assert screen.text == "features: 2 %, 1,000 of 45,000 images\n"

    def test_letters_that_a_terminal_lacks_do_no_harm(self) -> None:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding="ascii")
        SweepConsole(file=file).say("café")
        assert raw.getvalue() == b"caf?\n"


class TestLiveView:
    def test_the_last_state_stays_and_the_cursor_comes_back(self, screen: Screen) -> None:
        with screen.live() as console:
            console.update(VIEW)
            console.update(replace(VIEW, stage=replace(STAGE, counts=Counter(complete=42, pruned=7, failed=1))))
        after = screen.text.rpartition("50/50 done")[2]
        assert SHOW_CURSOR in after
        assert "\x1b[2K" not in after, "the view must not be erased"

    def test_an_error_gives_the_terminal_back_and_goes_on(self, screen: Screen) -> None:
        before = sys.stdout
        with contextlib.suppress(RuntimeError), screen.live() as console:
            console.update(VIEW)
            raise RuntimeError
        assert sys.stdout is before
        assert screen.text.rindex(SHOW_CURSOR) > screen.text.rindex(HIDE_CURSOR)

    def test_what_is_said_stands_above_the_view(self, screen: Screen) -> None:
        with screen.live() as console:
            console.update(VIEW)
            console.say("trial 4 [pruned] :car:")
        assert "trial 4 [pruned] :car:" in words(screen.text)
        assert screen.text.rindex("first-study") > screen.text.rindex("[pruned]")

    def test_a_thousand_updates_are_few_redraws(self, screen: Screen) -> None:
        with screen.live() as console:
            for _ in range(1000):
                console.update(VIEW)
        assert 1 <= screen.text.count("first-study") <= 10

    def test_download_bar_becomes_a_line_that_stays(self, screen: Screen) -> None:
        with screen.live() as console:
            console.progress("downloading x", 60_000_000, 120_000_000)
            console.progress("downloading x", 120_000_000, 120_000_000)
            console.progress("unpacking x", 1_000_000, 2_000_000)
            console.plan({"device": "cpu"})
        said = words(screen.text)
        assert "downloading x: 100 %, 120.0 of 120.0 MB" in said
        assert said.index("unpacking x: 50 %, 1.0 of 2.0 MB") < said.index("device cpu")

    def test_no_color_is_respected(self, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        with screen.live() as console:
            console.update(VIEW)
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.text)
        assert "1 failed" in screen.text
