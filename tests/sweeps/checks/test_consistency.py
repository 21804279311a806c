"""Optuna and MLflow after somebody has deleted, renamed or restored something in one of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.store.entities import PagedList
from optuna.trial import TrialState, create_trial

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from sweeps.checks import commands
from sweeps.checks.commands import repair_store
from sweeps.checks.consistency import check_before_training
from sweeps.checks.verify import findings
from sweeps.store import Store, folder_name
from sweeps.studies.storage import open_storage
from sweeps.studies.study import find_study
from sweeps.tracking.locations import artifact_folder, follow_store
from sweeps.tracking.mlflow_client import every_run
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import outcome, write_queue

NAME = "a study"
OUTCOME = outcome(0.5)
RECIPES = (
    Recipe(model="fast_resnet", optimizer="muon", reset_norms=True, epochs=0.2, seed=7),
    Recipe(model="three_conv", learning_rate=0.3, seed=8),
)
CONFIRM, FINAL = Budget(flops=None, max_epochs=2.0), Budget(flops=None, max_epochs=9.0)
PARENT = RunLabel(key="study", name=NAME, tags={"stage": "study", "study": NAME}, params={})
FILES = {"recipe.toml": b"x", "confusion.json": b"{}", "test/confusion.json": b"{}", "test/predictions.csv": b"x"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, empty_databases: Path) -> Path:
    """A store with two complete trials, one that waits, a confirmation of each, and a tested final."""
    root = tmp_path_factory.mktemp("consistency") / "store"
    shutil.copytree(empty_databases, root)
    store = Store.locate(root)
    study = optuna.create_study(study_name=NAME, storage=store.storage_url, direction="maximize")
    tracker = MlflowTracker(store, NAME)
    tracker.open_study(PARENT)
    for number, recipe in enumerate(RECIPES):
        study.add_trial(create_trial(value=0.5, user_attrs={"recipe": recipe.to_dict()}))
        train(tracker, f"trial-{number}", "search", recipe)
        train(tracker, f"confirm-{number}-0", "confirm", replace(CONFIRM.extend(recipe, 45_000, CIFAR10), seed=9))
    study.enqueue_trial({"model": "airbench"})
    train(tracker, "final-0-0", "final", FINAL.extend(replace(RECIPES[0], val_fraction=0.0), 50_000, CIFAR10))
    store.record_test_set_evaluation(study=NAME, key="final-0-0", data_sha256=CIFAR10.sha256)
    tracker.tested("final-0-0", OUTCOME)
    tracker.end_study("finished", {})
    assert tracker.close() == 0
    return root


def train(tracker: MlflowTracker, key: str, stage: str, recipe: Recipe) -> None:
    tracker.begin(RunLabel(key=key, name=key, tags={"stage": stage}, params=recipe.to_dict(), files=FILES))
    tracker.end(key, "complete", outcome=OUTCOME, metrics={"val/accuracy": 0.5})


class Edited:
    """A copy of the good store, which tests edit by hand."""

    def __init__(self, root: Path) -> None:
        self.store = Store.locate(root)
        follow_store(self.store)
        self.client = MlflowClient(self.store.tracking_uri)
        experiment = self.client.get_experiment_by_name(NAME)
        assert experiment is not None
        self.experiment: str = experiment.experiment_id
        runs = every_run(self.client, [self.experiment])
        self.ids: dict[str, str] = {run.data.tags["key"]: run.info.run_id for run in runs}

    def resume(self) -> list[str]:
        """Check the store as a sweep does; return what is said."""
        said: list[str] = []
        study = find_study(self.store, NAME)
        trials = study.get_trials(deepcopy=False) if study is not None else None
        check_before_training(self.store, NAME, trials, said.append)
        return said

    def keys(self) -> list[str]:
        return sorted(run.data.tags.get("key", "") for run in every_run(self.client, [self.experiment]))

    def double(self, key: str, **params: str) -> str:
        """Create another run with that key; return its id."""
        run_id: str = self.client.create_run(self.experiment, tags={"key": key, "stage": "confirm"}).info.run_id
        for name, value in params.items():
            self.client.log_param(run_id, name, value)
        return run_id

    def delete_study(self) -> None:
        optuna.delete_study(study_name=NAME, storage=self.store.storage_url)

    def delete_study_and_experiment(self) -> None:
        self.delete_study()
        self.client.delete_experiment(self.experiment)

    def leave_only_a_queue(self) -> None:
        self.delete_study()
        for run_id in self.ids.values():
            self.client.delete_run(run_id)
        write_queue(self.store.queues(NAME) / "1.refused", Entry(key="trial-0", at=0))

    def replace_trial(self, recipe: Recipe) -> None:
        """Begin the study again, as from another optuna.db."""
        self.delete_study()
        study = optuna.create_study(study_name=NAME, storage=self.store.storage_url, direction="maximize")
        for each in (recipe, RECIPES[1]):
            study.add_trial(create_trial(value=0.5, user_attrs={"recipe": each.to_dict()}))


@pytest.fixture
def edited(good: Path, tmp_path: Path) -> Edited:
    shutil.copytree(good, tmp_path / "store")
    return Edited(tmp_path / "store")


def test_nothing_is_said_of_a_study_that_agrees(edited: Edited) -> None:
    assert edited.resume() == []
    assert list(findings(edited.store, NAME)) == []


def test_a_new_study_in_an_old_store(edited: Edited) -> None:
    said: list[str] = []
    check_before_training(edited.store, "another", None, said.append)
    assert said == []


def test_the_new_name_of_a_renamed_experiment_is_no_study(edited: Edited) -> None:
    edited.client.rename_experiment(edited.experiment, "nicer")
    said = r"the MLflow experiment 'nicer' is that of study 'a study', and was renamed; resume that one with --study "
    with pytest.raises(UserError, match=rf"^study 'nicer' cannot be trained: {said}'a study', or begin a "):
        check_before_training(edited.store, "nicer", None, print)


Edit = Callable[[Edited], object]
BACKUP = "bring optuna.db back from a copy, or begin a study of another name with --study"
REFUSED: dict[str, tuple[Edit, str]] = {
    "study deleted": (Edited.delete_study, f"Optuna has no study 'a study', but MLflow has 6 runs of it; {BACKUP}"),
    "study deleted, and the experiment": (
        Edited.delete_study_and_experiment,
        "the MLflow experiment 'a study' was deleted; --repair can restore it with its runs, or begin a study of "
        "another name with --study",
    ),
    "study begun again": (
        lambda edited: edited.replace_trial(replace(RECIPES[0], model="five_conv")),
        "the run confirm-0-0 in MLflow did not train the recipe of trial 0 (2 more; --verify lists them); begin a "
        "study of another name with --study",
    ),
    "trial begun again with another seed": (
        lambda edited: edited.replace_trial(replace(RECIPES[0], seed=99)),
        "the run trial-0 in MLflow did not train the recipe of trial 0; begin a study of another name with --study",
    ),
    "an older optuna.db": (
        lambda edited: edited.client.set_tag(edited.ids["trial-1"], "key", "trial-3"),
        f"MLflow has a run trial-3, but Optuna has no such trial; {BACKUP}",
    ),
    "experiment deleted": (
        lambda edited: edited.client.delete_experiment(edited.experiment),
        "the MLflow experiment 'a study' was deleted; --repair can restore it with its runs, or begin a study of "
        "another name with --study",
    ),
    "experiment renamed": (
        lambda edited: edited.client.rename_experiment(edited.experiment, "nicer"),
        "the MLflow experiment 'a study' is now called 'nicer'; --repair can rename it to 'a study', or begin a study "
        "of another name with --study",
    ),
    "two runs for one": (
        lambda edited: edited.double("confirm-0-0", model=RECIPES[0].model),
        r"MLflow: there must be one run confirm-0-0, but there are 2; delete all but one of [0-9a-f, ]+ in MLflow",
    ),
    "two runs for one, and an empty one": (
        lambda edited: (edited.double("confirm-0-0", model=RECIPES[0].model), edited.double("confirm-0-0")),
        r"MLflow: there must be one run confirm-0-0, but there are 3; delete all but one of [0-9a-f, ]+ in MLflow",
    ),
    "keys exchanged": (
        lambda edited: edited.client.set_tag(edited.ids["confirm-1-0"], "key", "final-0-0"),
        r"the run final-0-0 in MLflow did not train the recipe of trial 0; begin .*",
    ),
    "another study's queue": (
        Edited.leave_only_a_queue,
        r"Optuna has no study 'a study', but .*journals/a=20study holds 1 line for MLflow of one; bring .*",
    ),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_give_wrong_results_is_refused_before_anything_is_written(
    edited: Edited, edit: Edit, message: str
) -> None:
    edit(edited)
    before = edited.keys()
    message = message.replace("(2 more; --verify lists them)", r"\(2 more; --verify lists them\)")
    with pytest.raises(UserError, match=rf"^study 'a study' cannot be trained: {message}$") as caught:
        edited.resume()
    assert "\n" not in str(caught.value)
    assert edited.keys() == before
    found = str(caught.value).removeprefix("study 'a study' cannot be trained: ")
    assert any(found.startswith(finding.text) for finding in findings(edited.store, NAME)), "--verify finds it too"


def test_an_mlflow_database_that_began_anew(
    edited: Edited, tmp_path: Path, empty_store: Callable[[Path], Store]
) -> None:
    edited.store = replace(edited.store, tracking_uri=empty_store(tmp_path / "new").tracking_uri)
    with pytest.raises(UserError, match=r"Optuna has 2 trials of it, but MLflow has no such experiment; bring"):
        edited.resume()


@pytest.mark.parametrize("key", ["trial-0", "confirm-1-0", "final-0-0", "study"])
def test_a_deleted_run_is_restored_and_that_is_said(edited: Edited, key: str) -> None:
    edited.client.delete_run(edited.ids[key])
    assert edited.resume() == [f"the run {key} was deleted in MLflow; mended: restore the run {edited.ids[key]}"]
    assert edited.keys() == sorted(edited.ids)
    assert edited.resume() == []


def test_a_run_whose_removal_was_cut_short_is_not_restored(edited: Edited) -> None:
    edited.client.delete_run(edited.ids["confirm-1-0"])
    shutil.rmtree(edited.store.root / "artifacts" / folder_name(NAME) / edited.ids["confirm-1-0"])
    rest = f"make clean-store STORE={edited.store.root} removes the rest"
    said = [f"the run confirm-1-0 was deleted in MLflow, and its files are gone; {rest}"]
    assert edited.resume() == said
    assert [str(finding) for finding in findings(edited.store, NAME)] == said
    assert edited.client.get_run(edited.ids["confirm-1-0"]).info.lifecycle_stage == "deleted"


def test_a_deleted_run_that_trained_something_else_stays_deleted(edited: Edited) -> None:
    other = edited.client.create_run(edited.experiment, tags={"key": "confirm-0-0", "stage": "confirm"}).info.run_id
    edited.client.log_param(other, "model", "five_conv")
    edited.client.delete_run(other)
    edited.client.delete_run(edited.ids["confirm-0-0"])
    edited.resume()
    assert edited.client.get_run(other).info.lifecycle_stage == "deleted"
    assert edited.keys() == sorted(edited.ids)


def test_further_runs_without_content_are_deleted_and_that_is_said(edited: Edited) -> None:
    """A server that stalls makes another run at each attempt to create one."""
    spare = {edited.double("confirm-0-0") for _ in range(2)}
    [said] = edited.resume()
    pattern = (
        r"MLflow: there must be one run confirm-0-0, but there are 3; mended: delete (.*), without params and metrics"
    )
    match = re.fullmatch(pattern, said)
    assert match is not None, said
    assert set(match[1].split(", ")) == spare
    assert edited.keys() == sorted(edited.ids)
    assert edited.resume() == []


def test_a_lost_parent_is_made_again_and_adopts_the_runs(edited: Edited) -> None:
    edited.client.delete_tag(edited.ids["study"], "key")
    edited.client.delete_run(edited.ids["study"])
    assert edited.resume() == ["MLflow has no run of the study itself; a sweep that resumes creates it again"]
    tracker = MlflowTracker(edited.store, NAME)
    tracker.open_study(PARENT)
    parent = tracker.run_id("study")
    assert tracker.close() == 0
    children = every_run(edited.client, [edited.experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert sorted(run.data.tags["key"] for run in children) == sorted(edited.ids.keys() - {"study"})


def test_a_second_look_at_the_test_set_is_said(edited: Edited) -> None:
    edited.client.delete_tag(edited.ids["final-0-0"], "key")
    said = (
        "the test set was evaluated for final-0-0 of a study, but MLflow has no result of that; a further evaluation "
        "is not the first"
    )
    assert said in edited.resume()
    assert said in map(str, findings(edited.store, NAME))
    write_queue(edited.store.queues(NAME) / "1.jsonl", Entry(key="final-0-0", at=0))
    assert said not in edited.resume(), "its result may wait there"


def test_a_network_that_is_gone_is_found(edited: Edited) -> None:
    def found() -> list[str]:
        return [finding.text for finding in findings(edited.store, NAME)]

    final = edited.ids["final-0-0"]
    model = edited.client.create_logged_model(edited.experiment, name="n", source_run_id=final)
    edited.client.log_outputs(final, [LoggedModelOutput(model.model_id, 0)])
    folder = artifact_folder(edited.store, model.artifact_location)
    assert folder is not None
    assert found() == [f"final-0-0: MLflow must hold its network {model.model_id}, but {folder} is missing"]
    folder.mkdir(parents=True)
    assert found() == []
    edited.client.delete_logged_model(model.model_id)
    assert found() == [f"final-0-0: MLflow must hold its network {model.model_id}, but it was deleted"]


def test_lost_artifacts_are_found(edited: Edited) -> None:
    run = edited.client.get_run(edited.ids["confirm-1-0"])
    folder = artifact_folder(edited.store, run.info.artifact_uri)
    assert folder is not None
    (folder / "recipe.toml").unlink()
    assert [finding.text for finding in findings(edited.store, NAME)] == [
        f"confirm-1-0: it must have the artifacts recipe.toml, but {folder} lacks them"
    ]


def test_repair_lists_all_and_then_mends_what_it_can(edited: Edited, capsys: pytest.CaptureFixture[str]) -> None:
    edited.client.rename_experiment(edited.experiment, "nicer")
    edited.client.delete_run(edited.ids["trial-1"])
    edited.client.set_tag(edited.ids["trial-0"], "state", "running")
    (edited.store.root / "test_looks.jsonl").write_text("")
    assert repair_store(edited.store, NAME) == 1
    lost = f"final-0-0: its test set evaluation must be on record, but {edited.store.root}/test_looks.jsonl lacks it"
    assert capsys.readouterr().out.splitlines() == [
        "the MLflow experiment 'a study' is now called 'nicer': rename it to 'a study'",
        "done: rename it to 'a study'",
        f"the run trial-1 was deleted in MLflow: restore the run {edited.ids['trial-1']}",
        "trial 0: MLflow must say complete, as Optuna does, but says running: record in MLflow that trial 0 is "
        "complete",
        f"{lost}: this stays as it is",
        f"done: restore the run {edited.ids['trial-1']}",
        "done: record in MLflow that trial 0 is complete",
        "1 finding left",
    ]
    assert edited.keys() == sorted(edited.ids)
    assert edited.client.get_run(edited.ids["trial-0"]).data.tags["state"] == "complete"
    assert edited.client.get_run(edited.ids["trial-0"]).info.status == "FINISHED"


def test_the_end_of_a_repair_is_what_is_left(
    edited: Edited, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_ROUNDS", 1)
    edited.client.set_tag(edited.ids["trial-0"], "state", "running")
    assert repair_store(edited.store, NAME) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is left to mend"


def test_repair_restores_an_experiment(edited: Edited) -> None:
    edited.client.delete_experiment(edited.experiment)
    assert repair_store(edited.store, NAME) == 0
    assert edited.client.get_experiment(edited.experiment).lifecycle_stage == "active"
    assert edited.resume() == []


def test_only_runs_at_stake_are_read(edited: Edited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand runs take half a minute to read."""
    study = optuna.load_study(study_name=NAME, storage=edited.store.storage_url)
    for number in range(3, 20):
        study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"recipe": RECIPES[0].to_dict()}))
        edited.client.create_run(edited.experiment, tags={"key": f"trial-{number}", "stage": "search"})
    search, read = MlflowClient.search_runs, list[str]()

    def watched(client: MlflowClient, *args: Any, **options: Any) -> PagedList[Run]:
        found = search(client, *args, **options)
        read.extend(run.data.tags["key"] for run in found)
        return found

    monkeypatch.setattr(MlflowClient, "search_runs", watched)
    assert edited.resume() == []
    assert {key for key in read if key.startswith("trial-")} == {"trial-0", "trial-19"}


def test_a_study_that_there_is_not(edited: Edited) -> None:
    assert find_study(edited.store, "none") is None
    assert "none" not in optuna.get_all_study_names(open_storage(edited.store.storage_url))
