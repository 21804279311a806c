"""The record of a study in MLflow: points, states, nesting, artifacts and models, whatever interrupts it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.models import build_model
from cifar_core.recipe import Recipe
from sweeps.executors.protocol import Outcome
from sweeps.store import Store, StoreError
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_queue import Entry, queued
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import outcome, point, record, write_queue

STUDY = RunLabel(
    key="study",
    name="a study",
    tags={"stage": "study", "study": "a study"},
    params={"trials": 3, "confirm_flops": None},
    files={"pictures/samples.png": b"samples"},
)
TRIAL = RunLabel(
    key="trial-0",
    name="trial 0 five_conv",
    tags={"stage": "confirm", "trial": "0", "attempt": "1"},
    params={"model": "five_conv", "learning_rate": 0.1, "flip": True},
    files={"recipe.toml": b"model = 'five_conv'"},
)
OUTCOME = Outcome(
    loss=0.5,
    accuracy=0.8,
    accuracies={
        **{f"class/{name}": 0.8 for name in CIFAR10.classes},
        "class/airplane": 0.9,
        "class/automobile": 0.7,
        f"class/{CIFAR10.classes[-1]}": math.nan,
        "group/animals": 0.75,
        "group/vehicles": math.nan,
    },
    files={"confusion.json": b"{}", "pictures/mistakes.png": b"mistakes"},
)
TEST_OUTCOME = outcome(0.79, {"test/predictions.csv": b"index,true"})
CURVE = [point(1), point(2, 0.3), point(3), point(4, 0.6), point(8, 0.8)]


def test_the_label_of_a_training_has_its_recipe_and_the_size_of_its_network() -> None:
    recipe = Recipe(model="five_conv", batch_size=50)
    label = RunLabel.of_training("trial-0", "a name", {"stage": "search"}, recipe, CIFAR10, trial_flops=7.0)
    assert (label.key, label.name, label.tags) == ("trial-0", "a name", {"stage": "search"})
    weights = sum(each.numel() for each in build_model(recipe).parameters())
    numbers = {"parameters": weights, "flops_per_image": step_flops(recipe, CIFAR10) / 50, "trial_flops": 7.0}
    assert label.params == {**recipe.to_dict(), **numbers}
    assert Recipe.from_toml(label.files["recipe.toml"].decode()) == recipe


class Mlflow:
    """A store, and one process after another that records in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.artifacts = store.root / "artifacts" / "a=20study"
        self.client = MlflowClient(self.store.tracking_uri)
        self.said: list[str] = []
        self.tracker: MlflowTracker | None = None

    def open(self) -> MlflowTracker:
        if self.tracker is not None:
            self.tracker.close()
        self.tracker = MlflowTracker(self.store, STUDY.name, say=self.said.append)
        self.tracker.open_study(STUDY)
        return self.tracker

    def run(self, key: str = TRIAL.key) -> Run:
        assert self.tracker is not None
        run_id = self.tracker.run_id("study")  # which waits until MLflow has received everything
        experiments = [self.client.get_run(run_id).info.experiment_id]
        [run] = self.client.search_runs(experiments, f"tags.key = '{key}'")  # the same key is the same run
        return run

    def state(self, key: str = TRIAL.key) -> tuple[str, str, str | None]:
        """The status and the tags `state` and `reason` of a run."""
        run = self.run(key)
        return run.info.status, run.data.tags["state"], run.data.tags.get("reason")

    def steps(self, name: str) -> list[int]:
        return [metric.step for metric in self.client.get_metric_history(self.run().info.run_id, name)]

    def files(self, key: str = TRIAL.key) -> dict[str, bytes]:
        folder = self.artifacts / self.run(key).info.run_id / "artifacts"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(empty_store: Callable[[Path], Store], tmp_path: Path) -> Mlflow:
    return Mlflow(empty_store(tmp_path / "store"))


@pytest.fixture
def tracker(store: Mlflow) -> MlflowTracker:
    """A tracker with a run that has begun."""
    tracker = store.open()
    tracker.begin(TRIAL)
    return tracker


class TestRecord:
    def test_a_complete_run(self, store: Mlflow, tracker: MlflowTracker) -> None:
        assert store.state() == ("RUNNING", "running", None)
        assert store.files() == TRIAL.files, "they are there while it trains"
        tracker.point(TRIAL.key, CURVE[0], system={"system/process_cpu_percentage": 99.5})
        assert store.steps("train/loss") == store.steps("system/process_cpu_percentage") == [1]
        record(tracker, TRIAL.key, CURVE)
        tracker.end(TRIAL.key, "complete", outcome=OUTCOME, metrics={"cost/seconds": 12.5})
        run = store.run()
        assert run.info.run_name == "trial 0 five_conv"
        assert store.state() == ("FINISHED", "complete", None)
        assert run.data.tags.items() >= TRIAL.tags.items()
        assert run.data.params == {"model": "five_conv", "learning_rate": "0.1", "flip": "True"}
        assert store.steps("train/loss") == [1, 2, 3, 4, 8]
        assert store.steps("val/accuracy") == [2, 4, 8]
        assert store.files() == {**TRIAL.files, **OUTCOME.files}
        last = {"train/loss": 0.25, "train/accuracy": 0.5, "lr": 0.8, "val/loss": 1.0, "val/accuracy": 0.8}
        last["system/process_cpu_percentage"] = 99.5
        by_class = {f"val_class/{name}": 0.8 for name in CIFAR10.classes[2:-1]}
        by_class |= {"val_class/airplane": 0.9, "val_class/automobile": 0.7}
        by_class |= {"val_group/animals": 0.75}
        assert metrics_of(run) == pytest.approx(last | by_class | {"cost/seconds": 12.5})
        assert run.data.metrics == pytest.approx(last), "each metric is a chart of the UI"

    @pytest.mark.parametrize(("fraction", "splits"), [(0.1, "training and validation"), (0.0, "training")])
    def test_its_data_set_has_a_hash_and_the_splits_used(self, store: Mlflow, fraction: float, splits: str) -> None:
        tracker = store.open()
        tracker.begin(replace(TRIAL, params={"val_fraction": fraction}))
        inputs, of_study = store.run().inputs, store.run("study").inputs
        assert inputs is not None
        assert of_study is not None
        [used] = inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("CIFAR-10", CIFAR10.sha256[:32])
        assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", splits)]
        assert of_study.dataset_inputs[0].tags == []

    def test_a_run_can_be_given_another_name_and_description(self, store: Mlflow, tracker: MlflowTracker) -> None:
        tracker.end(
            TRIAL.key,
            "complete",
            name="#0 five_conv 80.0 %",
            note="80.0 % of [the study](run:study) ![x](file:pictures/x.png)",
        )
        run = store.run()
        assert run.info.run_name == "#0 five_conv 80.0 %"
        study = f"#/experiments/{run.info.experiment_id}/runs/{store.run('study').info.run_id}"
        picture = f"get-artifact?run_uuid={run.info.run_id}&path=pictures/x.png"
        assert run.data.tags["mlflow.note.content"] == f"80.0 % of [the study]({study}) ![x]({picture})"
        tracker.begin(TRIAL)
        assert store.run().info.run_name == TRIAL.name, "an accuracy of the attempt before would mislead"

    def test_curves_on_the_test_set_and_attached_files_and_figures(self, store: Mlflow, tracker: MlflowTracker) -> None:
        for each in CURVE:
            tracker.point(TRIAL.key, each, met="test")
        tracker.attach(TRIAL.key, {"range_test/curve.csv": b"1,2"}, {"range_test/suggestion": 0.5})
        assert store.files() == {**TRIAL.files, "range_test/curve.csv": b"1,2"}
        metrics = metrics_of(store.run())
        assert {"test/loss": 1.0, "test/accuracy": 0.8, "range_test/suggestion": 0.5}.items() <= metrics.items()
        assert not {"val/loss", "val/accuracy"} & set(metrics)

    @pytest.mark.parametrize(("state", "status"), [("pruned", "KILLED"), ("failed", "FAILED")])
    def test_a_run_that_ends_early_says_why(
        self, store: Mlflow, tracker: MlflowTracker, state: str, status: str
    ) -> None:
        record(tracker, TRIAL.key, CURVE[:2])
        tracker.end(TRIAL.key, state, reason="for this reason", metrics={"cost/seconds": 1.0})
        assert store.state() == (status, state, "for this reason")
        assert store.steps("train/loss") == [1, 2]
        assert metrics_of(store.run())["cost/seconds"] == 1.0

    @pytest.mark.parametrize(("ended", "new_process"), [(True, False), (True, True), (False, True)])
    def test_a_run_begun_again_resumes_without_doubled_points(
        self, store: Mlflow, tracker: MlflowTracker, ended: bool, new_process: bool
    ) -> None:
        record(tracker, TRIAL.key, CURVE[:4])
        tracker.tag(TRIAL.key, node="node-1")
        if ended:
            tracker.end(TRIAL.key, "interrupted", reason="the sweep was stopped", metrics={"cost/seconds": 3.0})
            assert store.state() == ("KILLED", "interrupted", "the sweep was stopped")
        if new_process:
            tracker = store.open()
        tracker.begin(replace(TRIAL, tags={**TRIAL.tags, "attempt": "2"}))
        assert store.state() == ("RUNNING", "running", None), "a reason of an end that was none would mislead"
        assert store.run().data.tags["attempt"] == "2"
        assert "node" not in store.run().data.tags, "it may run on this machine now"
        record(tracker, TRIAL.key, CURVE)
        tracker.end(TRIAL.key, "complete", outcome=OUTCOME, metrics={"cost/seconds": 8.0})
        assert store.steps("train/loss") == [1, 2, 3, 4, 8]
        assert store.steps("val/accuracy") == [2, 4, 8]
        assert store.state() == ("FINISHED", "complete", None)
        metrics = metrics_of(store.run())
        assert (metrics["cost/seconds"], metrics["val/accuracy"]) == (8.0, 0.8)

    def test_metrics_are_those_of_complete_runs(self, store: Mlflow, tracker: MlflowTracker) -> None:
        assert tracker.metric("trial-9", "val/accuracy") is None
        record(tracker, TRIAL.key, CURVE)
        assert tracker.metric(TRIAL.key, "val/accuracy") is None
        for state in ("pruned", "failed", "interrupted"):
            tracker.end(TRIAL.key, state)
            assert tracker.metric(TRIAL.key, "val/accuracy") is None
        tracker.begin(TRIAL)
        tracker.end(TRIAL.key, "complete", outcome=OUTCOME, metrics={"cost/seconds": 8.0})
        tracker = store.open()
        names = ("val/accuracy", "cost/seconds", "val_class/airplane", "test/accuracy")
        assert [tracker.metric(TRIAL.key, name) for name in names] == [0.8, 8.0, 0.9, None]

    def test_a_test_adds_to_the_run_that_was_trained(self, store: Mlflow, tracker: MlflowTracker) -> None:
        record(tracker, TRIAL.key, CURVE)
        tracker.end(TRIAL.key, "complete", outcome=OUTCOME)
        tracker.tested(TRIAL.key, TEST_OUTCOME, {"champion": "true"})
        assert tracker.metric(TRIAL.key, "test/accuracy") == 0.79
        assert tracker.metric(TRIAL.key, "val/accuracy") == 0.8
        run = store.run()
        assert tracker.run_id(TRIAL.key) == run.info.run_id
        assert (run.data.tags["state"], run.data.tags["champion"]) == ("complete", "true")
        assert metrics_of(run)["test/loss"] == 1.0
        assert "test/tta_accuracy" not in metrics_of(run), "not measured"
        tracker.tested(TRIAL.key, replace(TEST_OUTCOME, tta_accuracy=0.81))
        assert metrics_of(store.run())["test/tta_accuracy"] == 0.81
        assert {name for name in metrics_of(run) if "test_class" in name} == {
            f"test_class/{c}" for c in CIFAR10.classes
        }
        assert store.files() == {**TRIAL.files, **OUTCOME.files, **TEST_OUTCOME.files}

    def test_the_study_has_a_run_of_its_own(self, store: Mlflow) -> None:
        tracker = store.open()
        assert store.state("study") == ("RUNNING", "running", None)
        tracker.study_progress(0.5, 1)
        tracker.study_progress(0.7, 3)
        tracker.end_study("interrupted", {})
        assert store.state("study") == ("KILLED", "interrupted", None)
        tracker = store.open()
        assert store.state("study") == ("RUNNING", "running", None)
        tracker.end_study("finished", {"study/seconds": 60.0})
        assert store.state("study") == ("FINISHED", "finished", None)
        study = store.run("study")
        assert study.info.run_name == "a study"
        assert metrics_of(study) == {"study/best_val_accuracy": 0.7, "study/seconds": 60.0}
        assert study.data.params == {"trials": "3", "confirm_flops": "None"}
        assert store.files("study") == STUDY.files

    def test_the_study_is_described_above_the_list_of_its_runs_too(self, store: Mlflow) -> None:
        tracker = store.open()
        tracker.describe("study", note="[Trials](view:trials), [lost](run:trial-9)")
        run = store.run("study")
        experiment = store.client.get_experiment(run.info.experiment_id)
        trials = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=trials"
        assert run.data.tags["mlflow.note.content"] == f"[Trials]({trials}&workflowType=machine_learning), lost"
        assert experiment.tags["mlflow.note.content"] == run.data.tags["mlflow.note.content"]
        assert json.loads(experiment.tags["mlflow.sharedViewState.trials"])["name"] == "Trials by accuracy"

    def test_the_study_of_an_adapted_network_has_a_view_of_its_heads(self, store: Mlflow) -> None:
        adapted = replace(STUDY, tags={**STUDY.tags, "stage": "adapted-study"})
        store.open().open_study(adapted)
        experiment = store.client.get_experiment(store.run("study").info.experiment_id)
        view = json.loads(experiment.tags["mlflow.sharedViewState.trials"])
        assert view["name"] == "Heads by accuracy"
        assert json.loads(view["state"])["searchFilter"] == "tags.stage = 'adapt'"

    def test_a_view_that_the_user_has_changed_stays(self, store: Mlflow) -> None:
        store.open()
        experiment = store.run("study").info.experiment_id
        store.client.set_experiment_tag(experiment, "mlflow.sharedViewState.trials", "mine")
        store.open()
        store.run("study")
        assert store.client.get_experiment(experiment).tags["mlflow.sharedViewState.trials"] == "mine"


class TestMlflow:
    def test_training_runs_are_nested_in_the_run_of_the_study(self, store: Mlflow, tracker: MlflowTracker) -> None:
        study = store.run("study")
        assert store.run().data.tags["mlflow.parentRunId"] == study.info.run_id
        assert "mlflow.parentRunId" not in study.data.tags
        store.open().begin(replace(TRIAL, key="trial-1"))
        assert store.run("trial-1").data.tags["mlflow.parentRunId"] == study.info.run_id

    def test_each_study_is_an_experiment(self, store: Mlflow) -> None:
        for name in ("a study", "50 % größe"):
            tracker = MlflowTracker(store.store, name)
            tracker.open_study(replace(STUDY, name=name))
            assert tracker.close() == 0
        names = {experiment.name for experiment in store.client.search_experiments()}
        assert names == {"Default", "a study", "50 % größe"}

    @pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt"])
    def test_artifacts_stay_in_their_run(self, store: Mlflow, tracker: MlflowTracker, name: str) -> None:
        tracker.attach(TRIAL.key, {name: b"hostile"}, {})
        assert tracker.close() == 1
        refused = f"MLflow refuses an entry of trial-0 (an artifact must stay in its run, but got {name!r}"
        assert store.said[0].startswith(refused)
        assert not list(store.store.root.rglob("out.txt"))

    def test_artifacts_are_read_again_once_mlflow_has_them(self, store: Mlflow, tracker: MlflowTracker) -> None:
        tracker.attach(TRIAL.key, {"predictions.csv": b"index"}, {})
        store.run()
        assert tracker.artifact(TRIAL.key, "predictions.csv") == b"index"
        assert tracker.artifact(TRIAL.key, "other.csv") is None
        assert tracker.artifact("trial-9", "predictions.csv") is None, "no such run yet"

    def test_a_server_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = MlflowTracker(Store.locate(tmp_path, tracking_uri="http://127.0.0.1:9"), STUDY.name)
        with pytest.raises(StoreError, match=r"^the MLflow store must answer, but http://127.0.0.1:9 gave: [^\n]*$"):
            tracker.open_study(STUDY)

    @pytest.mark.slow
    def test_artifacts_that_cannot_be_written_when_what_was_left_is_sent(self, tmp_path: Path) -> None:
        store = Store.locate(tmp_path)
        store.create()
        left = Entry(key="study", at=1, name=STUDY.name, files={"notes.txt": b"kept"})
        write_queue(store.queues(STUDY.name) / "1.jsonl", left)
        blocked = tmp_path / "artifacts"
        blocked.write_bytes(b"")
        with pytest.raises(StoreError, match=r"^the MLflow store must answer, but sqlite:[^\n]* gave: [^\n]*artifacts"):
            MlflowTracker(store, STUDY.name).open_study(STUDY)
        assert queued(store.queues(STUDY.name)) == 1

        blocked.unlink()
        tracker = MlflowTracker(store, STUDY.name)
        tracker.open_study(STUDY)
        assert tracker.close() == 0
        assert [path.read_bytes() for path in blocked.rglob("notes.txt")] == [b"kept"]


def test_an_experiment_that_was_deleted_is_refused_with_how_to_restore_it(
    store: Mlflow, tracker: MlflowTracker
) -> None:
    number = store.run().info.experiment_id
    store.client.delete_experiment(number)
    restore = f"mlflow experiments restore --experiment-id {number}"
    with pytest.raises(StoreError, match=rf"experiment 'a study' must not be deleted; this restores it: .*{restore}$"):
        store.open()
    store.client.restore_experiment(number)
    store.open()


@pytest.mark.usefixtures("tracker")
def test_an_experiment_that_was_renamed_does_not_begin_again(store: Mlflow) -> None:
    number = store.run().info.experiment_id
    store.client.rename_experiment(number, "nicer")
    with pytest.raises(
        StoreError, match=r" 'a study' must have this name, but is now called 'nicer'; rename it back in MLflow$"
    ):
        store.open()
    assert store.client.get_experiment_by_name("a study") is None
    store.client.rename_experiment(number, "a study")
    store.open()
