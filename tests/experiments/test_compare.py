from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments import compare, report
from experiments.pages.text import money, rate, total
from experiments.reading.published import load_published
from experiments.reading.scenario import DEFAULT_SCENARIO, load_scenario
from experiments.reading.studies import Reader
from experiments.report import write_report
from tests.experiments.markdown import tables_are_even

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake

SECTIONS = (
    "The recommendation, under four heads",
    "Performance against the target",
    "Customisation",
    "Cost of building, retraining and serving, against buying",
    "Learning and improvement",
    "Accuracy, beside what was published",
    "The published systems",
    "The data",
    "What it gets right and wrong",
    "What would change the answer",
    "The money",
    "The sweep",
    "The weights, and how to do it again",
    "Sources",
    "Runs cited",
)


@pytest.fixture(scope="module")
def folder(store: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_report("demo", store=store.folder, results=out / "none", out=out).html.parent


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def prose(html: str) -> str:
    """The page without its scripts and pictures."""
    return re.sub(r'<script>.*?</script>|src="data:[^"]*"', "", html, flags=re.DOTALL)


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "report.md").read_text()


@pytest.mark.parametrize("section", SECTIONS)
def test_both_reports_have_every_section(prose: str, markdown: str, section: str) -> None:
    assert section in prose
    assert section in markdown


def test_the_answer_comes_first(prose: str, markdown: str) -> None:
    for text in (prose, markdown):
        answer, accuracy = text.index("Build."), text.index("Test accuracy is 92.30")
        assert answer < accuracy < text.index("The recommendation, under four heads")


@pytest.mark.parametrize(
    "words",
    [
        "84.52",  # five_conv as published
        "GPipe",
        "cat",
        "looked at 2 times for this study",
        "Test image 4242: taken for a dog with probability 0.71, but it is a cat.",
        "2 complete, 3 pruned, 1 failed; 6 planned",
        "models:/m-",
        'model = "fast_resnet"',
        "0f" * 20,
        "ab" * 32,
        "python sweeps/run_study.py --study demo --trials 6 --preset quick --space default --seed 0",
        "older than a year",
        "undated",
    ],
)
def test_both_reports_state(prose: str, markdown: str, words: str) -> None:
    plain = prose.replace("\N{NO-BREAK SPACE}", " ").replace("&#34;", '"')
    assert words in plain
    assert words in markdown


def test_the_page_loads_nothing_from_anywhere(html: str) -> None:
    page = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) <= {"data:"}
    assert "url(" not in page
    assert "<script src" not in html
    assert '<link rel="stylesheet' not in html


def test_plotly_is_embedded_once_and_every_figure_has_its_place(html: str) -> None:
    assert html.count("plotly.js v") == 1
    places = re.findall(r'id="plot-(\w+)"', html)
    assert places == [
        "cost_curves", "tornado", "benchmarks", "losses", "accuracies", "learning_rate",
        "classes", "confusion", "reliability", "history", "architectures", "front",
    ]  # fmt: skip
    figures = html[html.index("const figures = ") :]
    assert all(f'"{place}":{{"data":' in figures for place in places)


def test_every_link_inside_the_page_leads_somewhere(prose: str) -> None:
    targets = set(re.findall(r'id="([\w-]+)"', prose))
    links = re.findall(r'href="#([\w-]+)"', prose)
    assert links
    assert set(links) <= targets


def test_markdown_pictures_lie_beside_it(folder: Path, markdown: str) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown)
    assert len(pictures) == 15
    assert all((folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_the_same_store_gives_the_same_bytes(store: Fake, folder: Path, tmp_path: Path) -> None:
    write_report("demo", store=store.folder, results=tmp_path / "none", out=tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_without_a_champion_the_report_says_what_it_cannot_say(store: Fake, tmp_path: Path) -> None:
    text = write_report("unconfirmed", store=store.folder, out=tmp_path).markdown.read_text()
    assert "## Not yet." in text
    assert "No recipe was confirmed." in text
    assert "Validation accuracy is 84.00 %, on images that trials were chosen by; no test." in text
    assert "No prediction on a test image can be shown yet." in text
    assert "on the validation images" in text


def test_an_interrupted_study_is_reported_as_one(store: Fake, tmp_path: Path) -> None:
    text = write_report("interrupted", store=store.folder, out=tmp_path).markdown.read_text()
    assert "This study is **interrupted**" in text
    assert "1 complete, 0 pruned, 0 failed, 2 unfinished; 3 planned" in text
    assert "added up over its runs" in text


def test_a_study_without_any_finished_trial_is_reported(fresh_store: Fake) -> None:
    fresh_store.add(name="a/b <i>", trials=(fresh_store.trial(state="running"),), champion=(), state="running")
    paths = write_report(store=fresh_store.folder)
    assert paths.html.parent == fresh_store.folder / "reports" / "a=2Fb=20=3Ci=3E"
    text = paths.html.read_text()
    assert "No trial has finished" in text
    assert "There are no curves to show yet." in text
    assert "a/b &lt;i&gt;" in text
    assert "a/b <i>" not in text


def test_a_study_that_kept_no_artifacts_is_reported(fresh_store: Fake) -> None:
    kept = (
        "pictures/samples.png", "confusion.json", "recipe.toml", "pictures/mistakes.png",
        "test/confusion.json", "test/mistakes.png", "test/prediction.png", "test/prediction.json",
        "test/predictions.csv", "test/serving.json",
    )  # fmt: skip
    fresh_store.add(omit=kept, saved=None, seconds=None)
    text = write_report(store=fresh_store.folder).markdown.read_text()
    assert "The study kept no picture of its training images." in text
    assert "There is no confusion matrix yet." in text
    assert "No recipe was kept." in text
    assert "no single predictions on the test set were kept" in text
    assert "how fast the network labels was not measured" in text
    assert "What pruning saved was not recorded." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "nope"], r"--study must be one of demo, interrupted, unconfirmed, but got 'nope'"),
        (["--store", "nowhere"], r"a store must hold mlflow\.db, but there is no .*nowhere/mlflow\.db"),
        (["--tracking-uri", "ftp://example"], r"ftp://example must be a readable MLflow store, but: "),
        (["--scenario", "none.toml"], r"none\.toml must be a readable TOML file, but: "),
        (["--scenario", "bad.toml"], r"bad\.toml: images_per_month > 0 must hold, but got -1"),
        (["--scenario", "gpu.toml"], r"gpu\.toml: compute must be a machine with cpu, as study 'demo' ran on it, but "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    store: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = DEFAULT_SCENARIO.read_text()
    Path("bad.toml").write_text(shipped.replace("images_per_month = 250_000", "images_per_month = -1"))
    Path("gpu.toml").write_text('compute = "aws-h100"\n' + shipped)
    out = tmp_path / "out"
    assert compare.main(["--store", str(store.folder), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"compare\.py: error: {message}.*\n", error)
    assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bad.toml", "gpu.toml"}


def test_an_output_that_cannot_be_written_is_said(
    store: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert compare.main(["--store", str(store.folder), "--out", str(tmp_path / "file")]) == 2
    assert "--out must be a folder that can be written to" in capsys.readouterr().err


def test_the_script_runs_by_its_path_and_prints_where_the_report_is(store: Fake, tmp_path: Path) -> None:
    script = Path(compare.__file__)
    command = [sys.executable, str(script), "--store", str(store.folder), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        f"Report: {tmp_path / 'out' / 'report.html'}",
        f"        {tmp_path / 'out' / 'report.md'}",
        f"        {tmp_path / 'out' / 'report.json'}",
    ]
    assert done.stderr == ""


def test_the_command_names_a_fixed_number_of_epochs_as_such(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    fixed = replace(study, name="my study", params={"trials": "3", "preset": "epochs-0.5", "seed": "1"})
    assert "run_study.py --study 'my study' --trials 3 --epochs 0.5 --seed 1\n" in report.commands(
        fixed, load_scenario(load_published())
    )


def test_candidates_are_the_recipes_that_were_trained_again(store: Fake) -> None:
    (row,) = report.candidates(Reader(store.place).read("demo"))
    assert (row["trial"], row["complete"], row["runs"], row["champion"]) == (3, 2, 2, True)
    assert row["accuracy"] == pytest.approx(0.927)


def test_a_scenario_of_ones_own_changes_the_answer(store: Fake, tmp_path: Path) -> None:
    mine = tmp_path / "small.toml"
    mine.write_text(DEFAULT_SCENARIO.read_text().replace("images_per_month = 250_000", "images_per_month = 1_000"))
    text = write_report("demo", store=store.folder, scenario=mine, out=tmp_path / "out").markdown.read_text()
    assert "## Buy." in text
    assert "| Images a month | 1,000 |" in text
    assert "python experiments/compare.py --study demo --scenario small.toml\n" in text


def test_bars_in_the_texts_of_a_scenario_break_no_table(store: Fake, tmp_path: Path) -> None:
    mine = tmp_path / "mine|ours.toml"
    mine.write_text(DEFAULT_SCENARIO.read_text().replace('name = "Azure', 'name = "A|Z, Azure'))
    text = write_report("demo", store=store.folder, scenario=mine, out=tmp_path / "out").markdown.read_text()
    assert "A\\|Z, Azure" in text
    tables_are_even(text)


def test_every_share_and_sum_of_the_report_is_in_the_json(folder: Path, markdown: str) -> None:
    """Shares and sums of money, as they are printed; differences in points and years are not looked for."""
    document = json.loads((folder / "report.json").read_text())
    values = [n["value"] for n in document["numbers"].values() if isinstance(n["value"], int | float)]
    shares = {f"{100 * v:.{digits}f}" for v in values for digits in (0, 1, 2)} | {"95", "10"}  # intervals, CLOSE
    texts = " ".join(str(n["value"]) for n in document["numbers"].values() if isinstance(n["value"], str))
    sums = {word(v) for v in values for word in (money, total, rate)} | set(re.findall(r"\$[\d.,]*\d", texts))
    prose = markdown[: markdown.index("## The published systems")] + markdown[markdown.index("## The data") :]
    prose = prose[: prose.index("## Sources")]
    prose = re.sub(r"\(as their cards say.*?%\)|\(\d[\d,]+ weights.*?\)", "", prose)
    printed = [n for n in re.findall(r"(\d[\d.]*) %", prose) if n not in shares]
    assert printed == []
    assert [s for s in re.findall(r"\$\d[\d.,]*\d|\$\d", prose) if s not in sums] == []


def test_the_json_names_where_each_number_comes_from(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    assert document["verdict"]["answer"] == "Build"
    assert document["numbers"]["accuracy.test.mean"]["value"] == pytest.approx(0.923)
    assert document["numbers"]["cost.study.usd"]["from"] == [f"run/{document['study']['run']}", "source/aws-m7g"]
    assert document["numbers"]["cost.study.energy"] == {
        "value": None, "unit": "joules (not measured)", "from": [f"run/{document['study']['run']}"],
    }  # fmt: skip
    assert all(re.match(r"(run|source)/", t) for n in document["numbers"].values() for t in n["from"])
    assert all(n["from"] for name, n in document["numbers"].items() if n["value"] is not None)
    assert document["figures"]["tornado"]["series"][0]["name"] == "halved"


def test_the_files_lie_in_mlflow_and_change_nothing_there(fresh_store: Fake, tmp_path: Path) -> None:
    parent = fresh_store.add()
    first = write_report(store=fresh_store.folder, out=tmp_path / "first")
    again = write_report(store=fresh_store.folder, out=tmp_path / "again")
    assert (first.not_logged, again.not_logged) == ("", "")
    logged = {file.path for file in fresh_store.client.list_artifacts(parent, "report")}
    assert logged == {"report/report.html", "report/report.md", "report/report.json", "report/figures"}
    for path in (tmp_path / "first").rglob("*.*"):
        name = str(path.relative_to(tmp_path / "first"))
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert path.read_bytes() == Reader(fresh_store.place).artifact(parent, f"report/{name}")


def test_a_store_that_cannot_be_written_to_gets_its_report_all_the_same(
    fresh_store: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_store.add()

    def refuse(*_: object) -> None:
        raise PermissionError("read-only\nfor you")

    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", refuse)
    assert compare.main(["--store", str(fresh_store.folder), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert capsys.readouterr().err == "It is not in MLflow: read-only\n"
