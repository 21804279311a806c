"""Any runs side by side: what names stand for, what is judged, and the page of it."""

from __future__ import annotations

import functools
import json
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments import compare
from experiments.comparison import sentences as run_sentences
from experiments.comparison.differences import (
    METRICS,
    Comparison,
    Judgement,
    NotPaired,
    Side,
    classes,
    conditions,
    image_by_image,
    judge,
    parameters,
    regressions,
)
from experiments.comparison.page import write_runs
from experiments.comparison.selection import RunsError, choose
from experiments.reading.results import Result, load_results, write_result
from experiments.reading.runs import of_result
from tests.experiments.markdown import tables_are_even

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake

RESULTS = load_results()


@functools.cache
def chosen(store: Fake, *names: str, baseline: str | None = None) -> Comparison:
    return choose(names, baseline, store.place, RESULTS)


def judged(comparison: Comparison, key: str, at: int = 0) -> Judgement | None:
    metric = next(m for m in METRICS if m.key == key)
    return judge(metric, comparison.others[at], comparison.reference)


def result_of(name: str) -> Result:
    return next(r for r in RESULTS if (r.name, r.seed) == (name, 0))


def run_of(store: Fake, name: str, key: str) -> str:
    experiment = store.client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = store.client.search_runs([experiment.experiment_id], f"tags.key = '{key}'")
    return str(run.info.run_id)


# ------------------------------------------------------------------ what a name stands for


def test_a_study_stands_for_its_champion_or_else_its_best_trial(rivals: Fake) -> None:
    twice, searched = chosen(rivals, "twice", "searched").sides
    assert (len(twice.runs), twice.what) == (2, "champion of the study")
    assert twice.runs[1].what == "confirmation of trial 2 of twice, seed 1"
    assert (searched.runs[0].what, searched.what) == (
        "trial 2 of searched",
        "best complete trial of the study, number 2",
    )


def test_runs_are_named_by_study_and_key_by_id_and_by_the_beginning_of_it(rivals: Fake) -> None:
    ids = [run_of(rivals, "good", key) for key in ("trial-0", "trial-1", "confirm-2-0")]
    sides = chosen(rivals, "good/trial-0", ids[1], ids[2][:12].upper()).sides
    assert [side.run_ids for side in sides] == [(run_id,) for run_id in ids]
    assert [side.name for side in sides] == ["good/trial-0", ids[1][:8], ids[2][:8]]
    assert [side.runs[0].state for side in sides] == ["complete", "pruned", "complete"]


def test_the_id_of_a_study_stands_for_the_study(rivals: Fake) -> None:
    parent = rivals.client.get_run(run_of(rivals, "good", "trial-0")).data.tags["mlflow.parentRunId"]
    assert chosen(rivals, parent, "bad").sides[0].name == "good"


def test_results_of_reproductions_need_no_store(tmp_path: Path) -> None:
    five, three = (result_of(name) for name in ("five_conv", "three_conv"))
    assert five.test is not None
    assert three.test is not None
    half = replace(five, epochs_run=20.0, curve=tuple(p for p in five.curve if p.epoch <= 20))
    results = tmp_path / "results"
    results.mkdir()
    for result in (half, three):
        write_result(results / f"{result.name}-seed0.json", result)
    assert main(tmp_path, "--runs", "five_conv-seed0", "three_conv-seed0", results=results) == 0
    text = (tmp_path / "out" / "runs.md").read_text()
    worse = 100 * (three.test.accuracy - five.test.accuracy)
    assert f"three_conv-seed0 is worse than five_conv-seed0 ({worse:.2f} points)" in text
    assert "answers to single images: not stored for five_conv-seed0" in text
    assert "five_conv-seed0 ran 20 of 40 planned epochs." in text
    assert "three_conv-seed0 kept its best weights" in text


def test_a_baseline_that_is_not_among_the_runs_comes_first(rivals: Fake) -> None:
    comparison = chosen(rivals, "bad", "level", baseline="good")
    assert [side.name for side in comparison.sides] == ["good", "bad", "level"]
    among = chosen(rivals, "bad", "good", baseline="good")
    assert [side.name for side in among.sides] == ["bad", "good"]
    assert among.reference is among.sides[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "good"], "--runs must name 2 to 8 runs or studies, but got 1"),
        (["--runs", "good", "--baseline", "good"], "--runs must name 2 to 8 runs or studies, but got 1, the baseline"),
        (["--runs", "good", "godo"], r"must name a study, .*, but got 'godo'; did you mean 'good'\?"),
        (["--runs", "good", "xyz"], r"but got 'xyz'; known here: good, level, bad, twice, again, searched"),
        (["--runs", "good", "good/trail-2"], r"but got 'good/trail-2'; did you mean 'good/trial-2'\?"),
        (["--runs", "good", "abcde"], r"a run's id \(6 or more letters of it\), but got 'abcde'"),
        (["--runs", "good", "bad", "--baseline", "none"], "but got 'none'; known here: good, "),
        (["--runs", "good", "bad", "good"], "a run must be given once, but 'good' and 'good' both hold "),
        (["--runs", "twice", "twice/confirm-2-1"], "but 'twice' and 'twice/confirm-2-1' both hold "),
        (["--runs", "good", "bad/o'clock"], r"""but got "bad/o'clock"; known here: bad/confirm-2-0, bad/trial-0"""),
        (["--runs", "good", "bad", "--study", "good"], "--runs makes a page of its own, and cannot go with --study"),
        (
            ["systems", "--runs", "good", "bad"],
            "--runs makes a page of its own, and cannot go with --study, --scenario or systems",
        ),
        (["--baseline", "good"], "--baseline goes with --runs"),
        (["--runs"], "argument --runs: expected at least one argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    rivals: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = main(tmp_path, *arguments, store=rivals.folder)
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    assert code == 2
    assert re.fullmatch(rf"compare\.py: error: .*{message}.*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_more_than_eight_are_refused(rivals: Fake) -> None:
    names = [f"{study}/trial-{number}" for study in ("good", "bad", "level") for number in range(3)]
    with pytest.raises(RunsError, match=r"must name 2 to 8 runs or studies, but got 9$"):
        chosen(rivals, *names)


def test_an_ambiguous_beginning_names_what_it_may_be(fresh_store: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(range(1000))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(f"abcdef{next(ids):026x}"))
    fresh_store.add()
    with pytest.raises(RunsError, match=r"must be those of one run, but 'abcdef' may be abcdef0+, abcdef0+1, .*more$"):
        chosen(fresh_store, "demo", "abcdef")


def test_a_study_without_a_complete_trial_is_said(fresh_store: Fake) -> None:
    fresh_store.add(name="young", trials=(fresh_store.trial(state="running"),), champion=(), state="running")
    fresh_store.add(name="old")
    with pytest.raises(RunsError, match=r"must have a complete trial to be compared, but 'young' has none yet"):
        chosen(fresh_store, "old", "young")


# ------------------------------------------------------------------ what is said of them


def test_only_parameters_that_differ_are_listed_and_the_others_counted(rivals: Fake) -> None:
    sides = chosen(rivals, "good/trial-0", "twice").sides
    found = parameters(sides)
    assert dict(found.different) == {"model": ("five_conv", "fast_resnet"), "seed": ("0", "0, 1")}
    assert {"width", "batch_size", "learning_rate"} <= dict(found.common).keys()
    assert found.partial == ()
    assert conditions(sides).different == ()


def test_parameters_that_one_side_did_not_record_are_told_apart(rivals: Fake) -> None:
    good, bad = chosen(rivals, "good", "bad").sides
    run = replace(bad.runs[0], params={k: v for k, v in bad.runs[0].params.items() if k != "width"})
    assert parameters([good, replace(bad, runs=(run,))]).partial == ("width",)


def test_single_runs_with_stored_answers_are_judged_image_by_image(rivals: Fake) -> None:
    comparison = chosen(rivals, "good", "bad")
    test = image_by_image(comparison.others[0], comparison.reference)
    assert (test.first, test.second, test.both, test.neither) == (120, 0, 800, 80)
    found = judged(comparison, "test/accuracy")
    assert found is not None
    assert (found.word, found.rule, found.p) == ("worse", "mcnemar", test.p)


def test_a_difference_that_chance_explains_is_none(rivals: Fake) -> None:
    found = judged(chosen(rivals, "good", "level"), "test/accuracy")
    assert found is not None
    assert (found.word, found.rule, found.difference) == ("level", "mcnemar", 0.0)


def test_several_runs_are_judged_over_images_and_seeds(rivals: Fake) -> None:
    comparison = chosen(rivals, "twice", "again")
    accuracy, loss = judged(comparison, "test/accuracy"), judged(comparison, "val/loss")
    assert accuracy is not None
    assert (accuracy.word, accuracy.rule) == ("worse", "interval")
    assert accuracy.interval is not None
    assert accuracy.interval[1] < 0
    assert loss is not None
    assert (loss.word, loss.rule) == ("worse", "welch")


def test_what_cannot_be_judged_says_why(rivals: Fake) -> None:
    comparison = chosen(rivals, "good", "searched", "good/trial-1")
    reasons = [judged(comparison, *at) for at in (("test/accuracy", 0), ("val/loss", 0), ("val/accuracy", 1))]
    assert [found.reason for found in reasons if found is not None] == [
        "not measured for searched",
        "needs two seeds on both sides",
        "good/trial-1 is not complete",
    ]
    with pytest.raises(NotPaired, match="not stored for searched"):
        image_by_image(comparison.others[0], comparison.reference)


def test_other_images_are_not_paired(rivals: Fake) -> None:
    good, bad = chosen(rivals, "good", "bad").sides
    answers = bad.runs[0].answers
    assert answers is not None
    run = replace(bad.runs[0], answers=replace(answers, true=answers.true[::-1]))
    with pytest.raises(NotPaired, match="bad and good did not meet the same images"):
        image_by_image(replace(bad, runs=(run,)), good)


@pytest.mark.parametrize(
    ("key", "factor", "word"),
    [
        ("cost/seconds", 1.09, "level"),
        ("cost/seconds", 1.2, "worse"),
        ("cost/seconds", 0.8, "better"),
        ("cost/images_per_second", 0.8, "worse"),
        ("cost/training_flops", 1.005, "level"),
        ("cost/training_flops", 1.05, "worse"),
    ],
)
def test_costs_count_as_different_beyond_a_tolerance(rivals: Fake, key: str, factor: float, word: str) -> None:
    found = judged(with_metrics(chosen(rivals, "good", "bad"), key, factor), key)
    assert found is not None
    assert (found.word, found.rule) == (word, "tolerance")
    assert found.difference == pytest.approx(factor - 1)


def test_times_on_other_hardware_are_not_compared(rivals: Fake) -> None:
    comparison = chosen(rivals, "good", "bad")
    good, bad = comparison.sides
    run = replace(bad.runs[0], conditions={**bad.runs[0].conditions, "threads": "8"})
    moved = replace(comparison, sides=(good, replace(bad, runs=(run,))))
    found = judged(moved, "cost/seconds")
    assert found is not None
    assert (found.word, found.reason) == ("unknown", "another number of threads")
    assert conditions(moved.sides).different == (("threads", ("1", "8")),)


def test_epochs_are_a_setting_and_not_judged(rivals: Fake) -> None:
    assert judged(chosen(rivals, "good", "bad"), "cost/epochs") is None


def test_classes_are_on_the_best_split_that_all_sides_have(rivals: Fake) -> None:
    tested = classes(chosen(rivals, "good", "bad"))
    assert (tested.split, len(tested.rows), tested.rows[0].name) == ("test", 10, "cat")
    assert all(row.p[0] is None and row.p[1] is not None for row in tested.rows)
    mixed = classes(chosen(rivals, "good", "searched"))
    assert (mixed.split, {p for row in mixed.rows for p in row.p}) == ("validation", {None})
    several = classes(chosen(rivals, "good", "twice"))
    assert {p for row in several.rows for p in row.p} == {None}
    assert classes(chosen(rivals, "good", "good/trial-1")).rows == ()


def test_a_result_of_a_reproduction_has_what_a_run_has() -> None:
    result = result_of("three_conv")
    found = of_result(result, None)
    assert result.test is not None
    assert found.metrics["test/accuracy"] == result.test.accuracy
    assert found.metrics["test_class/cat"] == result.test.class_accuracy["cat"]
    assert found.curves["val/loss"][-1] == (result.curve[-1].step, result.curve[-1].watched_loss)
    assert found.steps_an_epoch == pytest.approx(2000)
    assert found.answers is None


# ------------------------------------------------------------------ the page


def main(tmp_path: Path, *arguments: str, store: Path | None = None, results: Path | None = None) -> int:
    places = {
        "--store": store or tmp_path / "nowhere",
        "--results": results or tmp_path / "none",
        "--out": tmp_path / "out",
    }
    return compare.main([*arguments, *(str(word) for option in places.items() for word in option)])


def test_regressions_are_marked_and_leave_the_exit_code_alone(
    rivals: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path, "--runs", "bad", "level", "--baseline", "good", store=rivals.folder) == 0
    said = "Regressions against good: bad in validation accuracy and test accuracy. None found in level."
    printed = capsys.readouterr().out
    assert said in printed
    assert "80.00 % (regression)" in printed
    assert f"Report: {tmp_path / 'out' / 'runs.html'}" in printed
    html, markdown = ((tmp_path / "out" / f"runs.{kind}").read_text() for kind in ("html", "md"))
    assert said in html
    assert said in markdown
    assert html.count('<small class="worse">') == 2 + 10  # accuracies, and by class
    assert "**regression: -12.00 points (McNemar, p < 0.001)**" in markdown


def test_without_a_baseline_nothing_is_called_a_regression(rivals: Fake, tmp_path: Path) -> None:
    _, paths = write_runs(["good", "bad"], None, store=rivals.place, results=tmp_path / "none", out=tmp_path)
    text = paths.markdown.read_text()
    assert "On the test images bad is worse than good (-12.00 points)." in text
    assert "regression" not in text
    assert "| bad | 120 | 0 | 800 | 80 | -12.00 | chi-squared, p < 0.001 |" in text
    assert "python experiments/compare.py --runs good bad\n" in text


def test_the_same_store_gives_the_same_bytes(rivals: Fake, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_runs(["good", "twice"], "bad", store=rivals.place, results=tmp_path / "none", out=tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert [str(file) for file in files] == [
        "figures/accuracy_curves.png",
        "figures/classes.png",
        "figures/loss_curves.png",
        "runs.html",
        "runs.md",
    ]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_the_page_goes_into_the_store_by_default(fresh_store: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fresh_store.add()
    arguments = ["--runs", "demo", "demo/trial-0", "--store", str(fresh_store.folder), "--results", "none"]
    assert compare.main(arguments) == 0
    assert (fresh_store.folder / "reports" / "runs" / "runs.html").is_file()
    assert "demo/trial-0" in capsys.readouterr().out


def test_names_cannot_break_the_page(fresh_store: Fake, tmp_path: Path) -> None:
    names = ("<b>x</b>", "a/b", "c|d")
    for name in names:
        fresh_store.add(name=name)
    sides = [names[0], f"{names[1]}/trial-0", names[2]]
    _, paths = write_runs(sides, None, store=fresh_store.place, results=tmp_path, out=tmp_path)
    html = paths.html.read_text()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>x</b>" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    markdown = paths.markdown.read_text()
    assert "| c\\|d |" in markdown
    assert "'c|d'" in markdown  # in the command, which is no table
    tables_are_even(markdown)


def test_damaged_answers_are_as_good_as_none(fresh_store: Fake) -> None:
    fresh_store.add(name="one", champion=(0.9,))
    fresh_store.add(name="two", champion=(0.9,))
    run_id = run_of(fresh_store, "one", "confirm-3-0")
    fresh_store._files(run_id, {"test/predictions.csv": b"index,true\n0,\xff", "confusion.json": b"{"}, ())
    one = chosen(fresh_store, "one", "two").reference.runs[0]
    assert one.answers is None
    assert one.images == {"test": 10_000}


def test_curves_of_different_images_are_not_ranked(rivals: Fake) -> None:
    comparison = chosen(rivals, "good", "five_conv-seed0")
    assert "not to be compared by these curves" in run_sentences.curves_sentence(comparison, "loss").text
    alike = run_sentences.curves_sentence(chosen(rivals, "good", "bad"), "accuracy").text
    assert alike == "Solid: validation images; dotted: training batches. good ends highest, at 92.40 %."


def test_regressions_name_the_metrics(rivals: Fake) -> None:
    comparison = with_metrics(chosen(rivals, "good", "level", baseline="good"), "cost/seconds", 2)
    assert [metric.key for metric, _ in regressions(comparison, comparison.others[0])] == ["cost/seconds"]
    text = run_sentences.headline(comparison).text
    assert text == "Regressions against good: level in time to train."
    level = with_metrics(comparison, "cost/seconds", 0.5)
    assert run_sentences.headline(level).text == ("No regression against good: nothing that can be judged is worse.")


def with_metrics(comparison: Comparison, key: str, factor: float) -> Comparison:
    """The second side with this metric changed."""
    first, second = comparison.sides
    run = second.runs[0]
    changed = Side(second.name, second.what, (replace(run, metrics={**run.metrics, key: factor * run.metrics[key]}),))
    return replace(comparison, sides=(first, changed))


def test_figures_carry_every_side(rivals: Fake, tmp_path: Path) -> None:
    _, paths = write_runs(["good", "twice"], None, store=rivals.place, results=tmp_path, out=tmp_path)
    html = paths.html.read_text()
    drawn = json.JSONDecoder().raw_decode(html[html.index("const figures = ") + 16 :])[0]
    assert {trace["name"] for trace in drawn["loss_curves"]["data"]} == {"good", "twice"}
    assert len(drawn["loss_curves"]["data"]) == 2 * 3  # training and validation of three runs
    assert [trace["name"] for trace in drawn["classes"]["data"]] == ["good", "twice"]
    assert drawn["loss_curves"]["layout"]["xaxis"]["title"]["text"] == "epoch"


def test_figures_of_a_table_are_short() -> None:
    assert run_sentences.probability(0.0312) == "p = 0.031"
    assert run_sentences.probability(1e-9) == "p < 0.001"
    assert run_sentences.setting("git_commit", "0f" * 20 + "-dirty") == "0f0f0f0f-dirty"
    assert run_sentences.setting("learning_rate", "0.3213508006975254") == "0.321351"
    assert run_sentences.setting("seed", "0, 1") == "0, 1"
    assert run_sentences.setting("torch", None) == "not recorded"
