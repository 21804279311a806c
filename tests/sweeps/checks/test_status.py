"""The status of a study: its text, and that reading it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from cifar_core.transfer.head import HeadRecipe
from sweeps.checks.status import read_status
from sweeps.lock import acquire
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.studies.settings import ADAPTATION
from sweeps.studies.storage import StudyError
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import STUDY, contents, outcome, write_queue


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study of five trials, of which one was cut off, with one confirmation of two done, and a tested final."""
    store = Store.locate(tmp_path_factory.mktemp("status") / "store")
    store.create()
    study = optuna.create_study(study_name="s", storage=store.storage_url, direction="maximize")
    for name, value in {"space": "full", "preset": "smoke", "seed": "0"}.items():
        study.set_user_attr(name, value)
    states = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    for number, state in enumerate(states):
        accuracy = 0.5 + number / 10 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=accuracy, user_attrs={"recipe": {"model": f"net{number}"}}))
    study.ask()
    study.enqueue_trial({"x": 0.1})
    optuna.create_study(study_name="empty", storage=store.storage_url)
    adapted = optuna.create_study(study_name="s-adapted", storage=store.storage_url, direction="maximize")
    adapted.set_user_attr(ADAPTATION, {"data": "12ab", "backbone": "34cd", "side": 224, "preset": "quick", "seed": 7})
    adapted.add_trial(create_trial(value=0.75, user_attrs={"recipe": HeadRecipe(scaling="length").to_dict()}))
    tracker = MlflowTracker(store, "s")
    tracker.open_study(STUDY)
    for key in ("confirm-1-0", "confirm-0-0"):
        tracker.begin(RunLabel(key=key, name=key, tags={"stage": "confirm"}, params={}))
    tracker.tag("confirm-0-0", node="node-1 GPU 0")
    tracker.tag(STUDY_KEY, waiting="3", champion="1")
    tracker.end("confirm-1-0", "complete", outcome=outcome(0.8))
    tracker.begin(RunLabel(key="final-1-0", name="final-1-0", tags={"stage": "final"}, params={}))
    tracker.end("final-1-0", "complete")
    tracker.tested("final-1-0", replace(outcome(0.7925), tta_accuracy=0.8))
    assert tracker.close() == 0
    store.report("s").mkdir(parents=True)
    (store.report("s") / "report.html").touch()
    write_queue(store.queues("s") / "1.jsonl", Entry(key="trial-4", at=0))
    folder = store.checkpoints("s", "trial-4")
    folder.mkdir(parents=True)
    (folder / "step-000000001.safetensors").write_bytes(b"")
    (folder.parent / ".shared-1a2b").touch()  # left by a check of a cluster's folder
    return store


def test_what_is_told(store: Store) -> None:
    assert read_status(store, "s") == {
        "study": "s",
        "state": "interrupted; the same command resumes it",
        "settings": "space full, preset smoke, seed 0",
        "trials": "5 started: 2 complete, 1 pruned, 1 failed, 1 interrupted, 1 queued",
        "best": "60.0 % validation accuracy, trial 1, net1",
        "confirmation": "1 complete, 1 interrupted",
        "final": "1 complete",
        "champion": "trial 1",
        "test": "79.25 % (80.00 % with test-time augmentation)",
        "report": f"{store.root.resolve()}/reports/s/report.html",
        "checkpoints": "of trial-4",
        "queue": "1 entry for MLflow",
    }


def test_who_is_running_it(store: Store) -> None:
    with acquire(store.lock("s"), "s"):
        rows = read_status(store, "s")
    assert rows["state"].startswith("run by process ")
    assert ", 1 running, 1 queued" in rows["trials"]
    assert rows["confirmation"] == "1 complete, 1 running"
    assert rows["nodes"] == "confirm-0-0 on node-1 GPU 0"
    assert rows["waiting"] == "3 workers wait for resources"


def test_a_study_on_a_server_may_run_on_another_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "mlflow_file", None)  # as if the tracking URI named a server
    rows = read_status(store, "s")
    assert rows["state"] == "does not run from this store; another machine may run it"
    assert ", 1 running or interrupted, 1 queued" in rows["trials"]
    assert rows["confirmation"] == "1 complete, 1 running or interrupted"
    with acquire(store.lock("s"), "s"):
        rows = read_status(store, "s")
    assert rows["state"].startswith("run by process ")
    assert ", 1 running, 1 queued" in rows["trials"]


def test_a_study_without_trials(store: Store) -> None:
    assert read_status(store, "empty") == {
        "study": "empty",
        "state": "not running",
        "settings": "none recorded",
        "trials": "none yet",
    }


def test_a_study_that_adapts_a_network(store: Store) -> None:
    rows = read_status(store, "s-adapted")
    assert rows["settings"] == "preset quick, seed 7"
    assert rows["best"] == "75.0 % validation accuracy, trial 0, scaling length"


@pytest.mark.parametrize("state", ["running", "interrupted"])  # as a crash leaves it, and as Ctrl-C does
def test_a_study_that_stopped_after_its_search_is_interrupted(tmp_path: Path, state: str) -> None:
    store = Store.locate(tmp_path / "store")
    store.create()
    optuna.create_study(study_name="s", storage=store.storage_url).add_trial(create_trial(value=0.5))
    tracker = MlflowTracker(store, "s")
    tracker.open_study(STUDY)
    tracker.begin(RunLabel(key="final-0-0", name="f", tags={"stage": "tuned"}, params={}))
    if state == "interrupted":
        tracker.end("final-0-0", "interrupted")
        tracker.end_study("interrupted", {})
    assert tracker.close() == 0
    rows = read_status(store, "s")
    assert rows["state"] == "interrupted; the same command resumes it"
    assert rows["fine-tuning"] == "1 interrupted"


def test_asking_changes_nothing(store: Store) -> None:
    def unchanged() -> dict[Path, bytes]:
        return {path: data for path, data in contents(store.root).items() if not path.name.endswith(("-wal", "-shm"))}

    before = unchanged()
    read_status(store, "s")
    assert unchanged() == before


@pytest.mark.parametrize(
    ("study", "change", "error"),
    [
        (
            "t",
            {},
            r"the study must be one that the store holds \(empty, s, s-adapted\), but got 't'; --study NAME takes ",
        ),
        ("s", {"storage_url": "bogus://x"}, "the Optuna storage must open, but bogus://x gave: Can't load plugin"),
        ("s", {"tracking_uri": "bogus://x"}, "the MLflow store must answer, but bogus://x gave: "),
    ],
)
def test_what_cannot_be_read(store: Store, study: str, change: dict[str, Any], error: str) -> None:
    with pytest.raises((StoreError, StudyError), match=f"^{error}"):
        read_status(replace(store, **change), study)


def test_no_such_store(tmp_path: Path) -> None:
    store = Store.locate(tmp_path / "none")
    with pytest.raises(StoreError) as error:
        read_status(store, "s")
    ways = "'make study' runs one, --store DIR names another store"
    assert str(error.value) == f"a store must hold a study, but there is no {store.root / 'mlflow.db'}: {ways}"
    assert not store.root.exists()
