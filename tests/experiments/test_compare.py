"""The command `compare.py`, and the whole report that it writes."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from experiments import compare
from experiments.decision.facts import Facts
from experiments.decision.recommendation import HEADS
from experiments.pages.text import money, total
from experiments.reading.published import rate
from experiments.reading.scenario import DEFAULT_SCENARIO
from experiments.reading.study_reader import StudyReader
from experiments.report import SECTIONS, write_report
from sweeps import snapshot
from tests.conftest import Refused
from tests.experiments.conftest import Pages
from tests.experiments.fake_store import Fake, Trial
from tests.experiments.support import WrittenPage, tables_are_even, write_page


@pytest.fixture(scope="module")
def report(pages: Pages) -> WrittenPage:
    return pages("demo")


@pytest.fixture(scope="module")
def document(report: WrittenPage) -> Any:
    return json.loads((report.folder / "report.json").read_text())


@pytest.mark.slow
def test_both_formats_have_every_section_and_head_and_the_answer_first(demo: Facts, report: WrittenPage) -> None:
    titles = [build(demo).title for build in SECTIONS.values()]
    for text in (report.prose, report.markdown):
        assert all(title in text for title in [*titles, *HEADS.values(), "Sources and runs"])
        answer, accuracy = text.index("Not yet: measure GPT-6 Luna."), text.index("92.30 %")
        assert answer < accuracy < text.index("The recommendation, under four heads")


@pytest.mark.parametrize(
    "words",
    [
        "84.52",  # five_conv as published
        "The sealed test set was used 2 times for this study",
        "Test image 4242: taken for a dog with probability 0.71, but it is a cat.",
        "2 complete, 3 pruned, 1 failed (loss is not finite); 6 planned",
        "models:/m-",
        'model = "fast_resnet"',
        "older than a year",
        "undated",
    ],
)
def test_both_formats_state(report: WrittenPage, words: str) -> None:
    assert words in report.prose
    assert words in report.markdown


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ("unconfirmed", "## Not yet: measure "),
        ("unconfirmed", "No recipe was confirmed."),
        ("unconfirmed", "Nothing is known to clear every bar."),
        ("unconfirmed", "No prediction on a test image can be shown yet."),
        ("unconfirmed", "on the validation images"),
        ("interrupted", "This study is interrupted"),
        ("interrupted", "1 complete, 0 pruned, 0 failed, 2 unfinished; 3 planned"),
        ("interrupted", "added up over its runs"),
    ],
)
def test_a_study_that_is_not_whole_is_reported_as_one(pages: Pages, study: str, words: str) -> None:
    assert words in pages(study).markdown


@pytest.mark.slow
def test_a_study_without_any_finished_trial_is_reported(fresh_store: Fake) -> None:
    trials = Trial(state="failed"), Trial(state="running")
    fresh_store.add(name="a/b <i>", trials=trials, champion=(), state="running")
    html, *_ = write_report(None, fresh_store.place).paths
    assert html.parent == fresh_store.folder / "reports" / "a=2Fb=20=3Ci=3E"
    text = html.read_text()
    assert "No trial has finished, so no network was measured. 1 trial failed (loss is not finite): <code>err" in text
    assert "There are no curves to show yet." in text
    assert "a/b &lt;i&gt;" in text
    assert "a/b <i>" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "nope"], r"--study must be one of demo, interrupted, unconfirmed, but got 'nope'"),
        (["--store", "nowhere"], r"a store must hold a study, but there is no .*nowhere/mlflow\.db: 'make study' "),
        (["--tracking-uri", "ftp://example"], r"the MLflow store must answer, but ftp://example gave: "),
        (["--scenario", "none.toml"], r"none\.toml must be a readable TOML file, but: No such file or directory$"),
        (["--scenario", "bad.toml"], r"bad\.toml: images_per_month must be greater than 0, but got -1"),
        (["--scenario", "gpu.toml"], r"gpu\.toml: compute must be a machine with cpu, as study 'demo' ran on it, but "),
        (
            ["--out", "bad.toml"],
            r"--out must be a folder that can be written to, but bad\.toml gave: File exists$",
        ),
        (["system"], r"argument what: invalid choice: 'system'"),
        (
            ["systems", "--scenario", "mine.toml"],
            r"systems must stand without --study, --scenario and --tracking-uri, but got --scenario$",
        ),
        (
            ["systems", "--prices"],
            r"--prices must stand without systems, --study, --scenario and --runs, but got systems$",
        ),
        (["systems", "--results", "."], r"no results in \.: python experiments/reproduce\.py NAME makes some"),
        (["systems", "--results", "none"], r"--results must be an existing folder, but got none$"),
        (["--runs", "demo", "interrupted", "--results", "bad.toml"], r"--results must be .*, but got bad\.toml$"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    store: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = DEFAULT_SCENARIO.read_text()
    Path("bad.toml").write_text(shipped.replace("images_per_month = 250_000", "images_per_month = -1"))
    Path("gpu.toml").write_text('compute = "aws-h100"\n' + shipped)
    assert re.match(message, refused(compare.main, "--store", str(store.folder), "--out", "out", *arguments))
    assert {path.name for path in tmp_path.iterdir()} == {"bad.toml", "gpu.toml"}


def test_old_prices_are_listed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare.main(["--prices"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == lines
    listed = [" ".join(line.split()) for line in lines]
    assert "Azure Custom Vision $2.00 per 1,000 images 2023, older than a year: Nyckel's comparison" in listed
    assert "Google Vertex AutoML, online node $1.38 an hour undated: Google's pricing page" not in listed
    assert "Google Vertex AutoML, online node $1.375 an hour undated: Google's pricing page" in listed
    assert re.match(rf"{len(lines)} of \d+ figures of published\.toml are older than a year or undated$", last)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert compare.main(["--prices"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.slow
def test_a_scenario_of_ones_own_changes_the_answer_and_bars_in_it_break_no_table(store: Fake, tmp_path: Path) -> None:
    mine = tmp_path / "mine|ours.toml"
    text = DEFAULT_SCENARIO.read_text().replace("images_per_month = 250_000", "images_per_month = 1_000")
    mine.write_text(text.replace('name = "Azure', 'name = "A|Z, Azure'))
    _, markdown, *_ = write_report("demo", store.place, scenario=mine, out=tmp_path / "out").paths
    text = markdown.read_text()
    assert "## Not yet: measure GPT-6 Luna." in text
    assert "| Images a month | 1,000 |" in text
    assert "python experiments/compare.py --study demo --scenario 'mine|ours.toml' --store STORE\n" in text
    assert "A\\|Z, Azure" in text
    tables_are_even(text)


def test_every_share_and_sum_of_the_report_is_in_the_json(report: WrittenPage, document: Any) -> None:
    """Shares and sums of money, as they are printed; differences in points and years are not checked."""
    values = [n["value"] for n in document["numbers"].values() if isinstance(n["value"], int | float)]
    values += [1000 * n["value"] for name, n in document["numbers"].items() if ".per_1000" in name]  # as of a million
    shares = {f"{100 * v:.{digits}f}" for v in values for digits in (0, 1, 2)} | {"95", "10"}  # intervals, CLOSE
    texts = " ".join(str(n["value"]) for n in document["numbers"].values() if isinstance(n["value"], str))
    sums = {word(v) for v in values for word in (money, total, rate)} | set(re.findall(r"\$[\d.,]*\d", texts))
    text = report.markdown
    prose = text[: text.index("## The published systems")] + text[text.index("## The weights") :]
    prose = prose[: prose.index("## Sources and runs")]
    prose = re.sub(r"\(as their cards say.*?%\)|\(\d[\d,]+ weights.*?\)", "", prose)
    assert [n for n in re.findall(r"(\d[\d.]*) %", prose) if n not in shares] == []
    assert [s for s in re.findall(r"\$\d[\d.,]*\d|\$\d", prose) if s not in sums] == []


def test_the_json_names_where_each_number_comes_from(document: Any) -> None:
    run = f"run/{document['study']['run']}"
    assert document["verdict"]["answer"] == "Not yet"
    assert document["verdict"]["headline"] == "Not yet: measure GPT-6 Luna"
    assert document["numbers"]["cost.study.usd"]["from"] == [run, "source/aws-m7g"]
    assert all(re.match(r"(run|source)/", t) for n in document["numbers"].values() for t in n["from"])
    assert all(n["from"] for name, n in document["numbers"].items() if n["value"] is not None)
    assert document["figures"]["tornado"]["series"][0]["name"] == "halved"


@pytest.mark.slow
def test_the_files_lie_in_mlflow(fresh_store: Fake, tmp_path: Path) -> None:
    parent = fresh_store.add()
    out = write_page(fresh_store, tmp_path / "out").folder
    logged = {file.path for file in fresh_store.client.list_artifacts(parent, "report")}
    names = ("report.html", "report.md", "report.json", "what-if.html", "figures")
    assert logged == {f"report/{name}" for name in names}
    reader = StudyReader(fresh_store.place)
    for path in out.rglob("*.*"):
        assert path.read_bytes() == reader.artifact(parent, f"report/{path.relative_to(out)}")


@pytest.mark.slow
def test_a_store_that_cannot_be_written_to_gets_its_report_all_the_same(
    store: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only\nfor you")

    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", refuse)
    out = tmp_path / "out"
    assert compare.main(["--store", str(store.folder), "--study", "interrupted", "--out", str(out)]) == 0
    assert (out / "report.html").exists()
    assert capsys.readouterr().err == "The report is not in MLflow: read-only\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("metrics", ["--study", "demo"]),
        ("latest_metrics", ["--study", "demo"]),
        ("metrics", ["--runs", "demo/trial-0", "demo/trial-3"]),
    ],
)
def test_a_store_that_stops_answering_is_one_line(
    store: Fake, tmp_path: Path, refused: Refused, table: str, wanted: list[str]
) -> None:
    shutil.copytree(store.folder, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as database:
        database.execute(f"DROP TABLE {table}")
    said = refused(compare.main, "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), *wanted)
    assert re.fullmatch(rf"the MLflow store must answer, but sqlite:\S+ gave: .* no such \w+: {table}.*", said)


@pytest.mark.slow
def test_a_store_of_another_user_is_read_and_left_as_it_is(
    store: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store.folder, tmp_path / "store")
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    monkeypatch.setattr(snapshot, "_writable", lambda path: False)
    out = tmp_path / "out"
    assert compare.main(["--store", str(tmp_path / "store"), "--study", "demo", "--out", str(out)]) == 0
    assert capsys.readouterr().err == f"The report is not in MLflow: the store {tmp_path}/store cannot be written to\n"
    runs = ["--runs", "demo/trial-0", "demo/trial-3"]
    assert compare.main(["--store", str(tmp_path / "store"), *runs, "--out", str(out)]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_report_of_a_copy_is_the_same_and_lies_in_the_copy(store: Fake, tmp_path: Path) -> None:
    for name in ("first", "copy"):
        shutil.copytree(store.folder if name == "first" else tmp_path / "first", tmp_path / name)
        # Another process each time, as MLflow remembers in a process where the artifacts of a run are.
        command = [sys.executable, compare.__file__, "--study", "demo", "--store", str(tmp_path / name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        reports = tmp_path / name / "reports" / "demo"
        names = ("report.html", "report.md", "what-if.html", "report.json")
        answer, *paths = done.stdout.splitlines()
        assert answer.startswith("Answer under the example scenario: Not yet: ")
        assert " ".join(paths).split() == ["Report:", *(str(reports / name) for name in names)]
        assert done.stderr == ""
        artifacts = sorted((tmp_path / name / "artifacts" / "demo").rglob("report.html"))
        assert [path.read_bytes() for path in artifacts] == [
            (tmp_path / name / "reports/demo/report.html").read_bytes()
        ]
        if name == "first":
            before = {path: path.stat().st_mtime_ns for path in (tmp_path / name).rglob("*") if path.is_file()}
    for report in ("report.html", "report.json"):
        first, copy = (tmp_path / name / "reports" / "demo" / report for name in ("first", "copy"))
        assert first.read_bytes() == copy.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*") if path.is_file()} == before
