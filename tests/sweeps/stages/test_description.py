"""The description of a study: current while it runs, and whole at its end."""

from __future__ import annotations

from sweeps.studies.study import REMOVED
from tests.sweeps.scripted import Study


def note(sweep: Study) -> str:
    return sweep.tracker.study.tags["mlflow.note.content"]


def test_a_finished_study_has_its_result_its_finalists_and_links(sweep: Study) -> None:
    sweep.run(trials=4)
    first, links, table, *_ = note(sweep).split("\n\n")
    assert first.endswith(": fast_resnet of trial 3, trained on all images")
    assert " % test accuracy" in first
    assert "[Champion, seed 0](run:final-3-0)" in links
    assert links.endswith("(run:study/artifacts/report/report.html)")
    rows = table.splitlines()[2:]
    assert rows[0].startswith("| [trial 3: fast_resnet, sgd, batch size 8](run:trial-3) (champion) |")
    assert rows[2].startswith("| [trial 0: fast_resnet, sgd, batch size 8](run:trial-0) (the first recipe) |")
    assert len(rows) == 3


def test_a_study_without_a_confirmation_has_the_best_so_far(sweep: Study) -> None:
    sweep.run(trials=3, confirm=False)
    assert note(sweep).startswith("Finished: search 3 of 3, 0 pruned; best so far 32.0 % validation accuracy, trial 2")
    assert "champion" not in note(sweep).lower()


def test_another_champion_takes_the_mark(sweep: Study) -> None:
    sweep.run(trials=3)
    assert sweep.tracker.runs["trial-2"].tags["mlflow.runName"].endswith(" %, champion")
    sweep.run(trials=5)
    crowned = {key for key, run in sweep.tracker.runs.items() if "champion" in run.tags.get("mlflow.runName", "")}
    assert {key for key in crowned if key.startswith("trial")} == {"trial-4"}


def test_a_run_that_was_removed_gets_no_mark(sweep: Study) -> None:
    """MLflow would refuse it, as there is no such run."""
    sweep.study.set_user_attr(REMOVED, ["trial-2"])
    sweep.run(trials=3)
    assert sweep.tracker.study.tags["champion"] == "2"
    assert "champion" not in sweep.tracker.runs["trial-2"].tags["mlflow.runName"]
