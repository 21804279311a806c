"""The comparison page through `compare.py --runs`."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import compare
from experiments.reading.results import load_results
from sweeps.validation import write_json
from tests.conftest import Refused
from tests.experiments.conftest import Pages
from tests.experiments.fake_store import Fake, Trial
from tests.experiments.support import known, write_page


def test_results_of_reproductions_need_no_store(tmp_path: Path) -> None:
    five, three = (next(r for r in load_results() if r.name == name) for name in ("five_conv", "three_conv"))
    half = replace(five, epochs_run=20.0, curve=tuple(p for p in five.curve if p.epoch <= 20))
    (tmp_path / "results").mkdir()
    for result in (half, three):
        write_json(tmp_path / "results" / f"{result.name}-seed0.json", result)
    places = ["--store", str(tmp_path / "nowhere"), "--results", str(tmp_path / "results"), "--out", str(tmp_path)]
    assert compare.main(["--runs", "five_conv-seed0", "three_conv-seed0", *places]) == 0
    text = (tmp_path / "runs.md").read_text()
    worse = 100 * (known(three.test).accuracy - known(five.test).accuracy)
    assert f"three_conv-seed0 is worse than five_conv-seed0 ({worse:.2f} points)" in text
    assert "Answers to single images: not stored for five_conv-seed0." in text
    assert "five_conv-seed0 ran 20 of 40 planned epochs." in text
    assert "three_conv-seed0 was tested with its best weights" in text


def test_a_mistyped_result_where_there_is_no_store(tmp_path: Path, refused: Refused) -> None:
    places = ("--store", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    said = refused(compare.main, "--runs", "fast94-seed0", "fast94-seed00", *places)
    assert said == (
        "--runs and --baseline must name results of reproduce.py where no store can be read, but got 'fast94-seed00'; "
        "did you mean 'fast94-seed0'?"
    )
    said = refused(compare.main, "--runs", "fast94-seed0", "quick-full", *places)
    assert said.startswith("a store must hold a study, but there is no ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--runs good", "--runs must name 2 to 8 runs or studies, but got 1"),
        (
            f"--runs {' '.join(f'{study}/trial-{n}' for study in ('good', 'bad', 'level') for n in range(3))}",
            "but got 9",
        ),
        ("--runs good --baseline good", "--runs must name 2 to 8 runs or studies, but got 1, the baseline"),
        ("--runs good godo", r"must name a study, .*, but got 'godo'; did you mean 'good'\?"),
        ("--runs good xyz", r"but got 'xyz'; known: good, level, bad, twice, again, searched"),
        ("--runs good good/trail-2", r"but got 'good/trail-2'; did you mean 'good/trial-2'\?"),
        ("--runs good abcde", r"a run's id \(4 or more letters of it\) or name, or champion, but got 'abcde'"),
        ("--runs good bad --baseline none", "but got 'none'; known: good, "),
        ("--runs good bad good", "a run must be given once, but 'good' is given twice$"),
        ("--runs twice twice/final-2-1", "but 'twice' and 'twice/final-2-1' both hold "),
        ("--runs good bad/o'clock", r"""but got "bad/o'clock"; known: bad/confirm-2-0, bad/final-2-0, bad/trial-0"""),
        ("--runs good bad --study good", "--runs must stand without systems, --study and --scenario, but got --study$"),
        ("systems --runs good bad", "--runs must stand without systems, --study and --scenario, but got systems$"),
        ("--baseline good", "--baseline must come with --runs, but got --baseline good alone"),
        ("--runs", "argument --runs: expected at least one argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    rivals: Fake, tmp_path: Path, refused: Refused, arguments: str, message: str
) -> None:
    places = ("--store", str(rivals.folder), "--results", str(tmp_path), "--out", str(tmp_path / "out"))
    assert re.search(message, refused(compare.main, *arguments.split(), *places))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_regressions_are_marked(pages: Pages) -> None:
    page = pages("runs")
    told = "Yes, worse than good: bad in test accuracy. No regression was found in level and twice."
    assert all(told in " ".join(text.split()) for text in (page.printed, page.html, page.markdown))
    assert f"Report: {page.folder / 'runs.html'}" in page.printed
    assert page.html.count('<small class="worse">') == 1 + 10  # accuracies, and by class
    assert "**regression: -12.00 points (McNemar, p < 0.001)**" in page.markdown
    assert all({trace["name"] for trace in f["data"]} == {"bad", "good", "level", "twice"} for f in page.drawn.values())


def test_without_a_baseline_nothing_is_called_a_regression(rivals: Fake, tmp_path: Path) -> None:
    text = write_page(rivals, tmp_path, "--runs", "good", "bad").markdown
    assert "On the test images bad is worse than good (-12.00 points)." in text
    assert "regression" not in text
    assert "| bad | 120 | 0 | 800 | 80 | -12.00 | chi-squared, p < 0.001 |" in text
    assert "python experiments/compare.py --runs good bad --store STORE\n" in text


@pytest.mark.slow
def test_the_page_goes_into_the_store_by_default(fresh_store: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fresh_store.add(trials=(Trial(), Trial()), champion=())
    arguments = ["--runs", "demo", "demo/trial-1", "--store", str(fresh_store.folder), "--results", "."]
    assert compare.main(arguments) == 0
    written = fresh_store.folder / "reports" / "runs" / "runs.md"
    assert "compare.py --runs demo demo/trial-1 --store STORE --results RESULTS\n" in written.read_text()
    assert written.with_suffix(".html").is_file()
    assert "demo/trial-1" in capsys.readouterr().out


def test_a_narrow_terminal_shows_as_many_runs_side_by_side_as_fit(
    rivals: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{study}/trial-{number}" for study in ("good", "level") for number in range(3)]
    arguments = ["--runs", *names, "--store", str(rivals.folder), "--out", str(tmp_path)]
    assert compare.main(arguments) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == names, "in a file one table holds all"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert compare.main(arguments) == 0
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]
    heads = [place for place, line in enumerate(lines) if line.split()[:1] in (["good/"], ["level/"])]
    assert len(heads) > 1
    assert " ".join(lines[place + 1] for place in heads).split() == [name.partition("/")[2] for name in names]
    assert max(map(len, itertools.takewhile(lambda line: not line.startswith("Report:"), lines))) <= 60


def test_a_run_that_was_logged_by_hand_is_shown_but_not_judged(fresh_store: Fake, tmp_path: Path) -> None:
    fresh_store.add(trials=(Trial(),), champion=())
    client = fresh_store.client
    run_id = client.create_run(client.create_experiment("by hand"), run_name="mine").info.run_id
    client.log_param(run_id, "epochs", "auto")
    client.log_metric(run_id, "val/accuracy", 0.5)
    client.set_terminated(run_id)
    text = write_page(fresh_store, tmp_path, "--runs", "demo", "mine").markdown
    assert "| 50.00 %; not judged: the data set of mine is not recorded |" in text
    assert "No accuracy of demo can be compared with another: the data set of mine is not recorded." in text
    assert "CIFAR-10, data that is not recorded, newest run of " in text
