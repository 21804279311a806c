"""Needless parts of a store are shown and removed; all others stay."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
from mlflow import MlflowClient

import sweeps
from sweeps.checks.cleaning import find_waste, remove
from sweeps.checks.verify import findings
from sweeps.lock import LockError, acquire
from sweeps.store import SYSTEMS_EXPERIMENT, Store, StoreError
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import contents

pytestmark = pytest.mark.slow

KEYS = ("trial-0", "trial-1", "final-0-0")


@dataclass(frozen=True)
class Place:
    store: Store
    ids: dict[str, str]  # of runs by key

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store.tracking_uri)

    def shown(self) -> list[str]:
        return sorted(f"{waste.study}: {waste.what}" for waste in find_waste(self.store))

    def files(self, key: str) -> list[Path]:
        """The files of a run."""
        return [path for path in contents(self.store.root) if key in path.name or self.ids[key] in path.parts]


@pytest.fixture
def place(tmp_path: Path, empty_store: Callable[[Path], Store]) -> Place:
    """A store with a study whose final is a registered champion; each run has weights and an artifact."""
    store = empty_store(tmp_path / "a store")
    study = optuna.create_study(study_name="mine", storage=store.storage_url)
    tracker = MlflowTracker(store, "mine")
    tracker.open_study(RunLabel(key="study", name="mine", tags={"stage": "study", "study": "mine"}, params={}))
    for key in KEYS:
        trial = study.ask()
        tags = {"study": "mine", "stage": "search", "trial": str(trial.number)}
        tracker.begin(RunLabel(key=key, name=key, tags=tags, params={}, files={"recipe.toml": key.encode()}))
        tracker.end(key, "complete")
        weights = store.weights("mine", key)
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights" * 1000)
    ids = {key: tracker.run_id(key) for key in (*KEYS, "study")}
    assert tracker.close() == 0
    client = MlflowClient(store.tracking_uri)
    client.create_registered_model("cifar10")
    client.create_model_version("cifar10", "file:///nowhere", ids["final-0-0"])
    return Place(store, ids)


def test_nothing_that_is_in_use(place: Place) -> None:
    assert place.shown() == []


def test_checkpoints_of_ended_runs_go_but_a_reproduction_resumes_from_its_own(place: Place) -> None:
    for study in ("mine", SYSTEMS_EXPERIMENT):
        tracker = MlflowTracker(place.store, study)
        tracker.open_study(RunLabel(key="study", name=study, tags={"stage": "study", "study": study}, params={}))
        tracker.begin(RunLabel(key="trial-0", name="trial-0", tags={"study": study}, params={}))
        tracker.end("trial-0", "complete")
        assert tracker.close() == 0
        place.store.checkpoints(study, "trial-0").mkdir(parents=True)
    assert place.shown() == ["mine: checkpoints of trial-0, which has ended"]


def test_the_files_of_an_experiment_stay_when_a_renamed_one_before_it_goes(place: Place) -> None:
    def reproduce() -> tuple[str, list[Path]]:
        tracker = MlflowTracker(place.store, SYSTEMS_EXPERIMENT)
        label = RunLabel(key="study", name="a", tags={}, params={}, files={"recipe.toml": b"a"})
        tracker.open_study(label)
        run_id = tracker.run_id("study")
        assert tracker.close() == 0
        return run_id, [path for path in contents(place.store.root) if run_id in path.parts]

    _, before = reproduce()
    experiment = place.client.get_experiment_by_name(SYSTEMS_EXPERIMENT)
    assert experiment is not None
    place.client.rename_experiment(experiment.experiment_id, "old")
    _, after = reproduce()
    place.client.delete_experiment(experiment.experiment_id)
    assert place.shown() == ["old: experiment 'old', deleted in MLflow"]
    remove(place.store, find_waste(place.store))
    left = contents(place.store.root)
    assert [path for path in before if path in left] == []
    assert after
    assert set(after) <= set(left)


def test_the_champion_of_a_deleted_study_keeps_its_files_when_one_renamed_before_it_goes(place: Place) -> None:
    """Both are deleted; the second is restored, as its network is in the registry."""
    first = place.client.get_experiment_by_name("mine")
    assert first is not None
    place.client.rename_experiment(first.experiment_id, "old")
    location = f"{first.artifact_location}"
    second = place.client.create_experiment("mine", artifact_location=location)
    run = place.client.create_run(second, tags={"study": "mine", "key": "final-0-0"})
    place.client.create_model_version("cifar10", "file:///nowhere", run.info.run_id)
    for version in place.client.search_model_versions("name = 'cifar10'"):
        if version.run_id != run.info.run_id:
            place.client.delete_model_version("cifar10", version.version)
    for experiment in (first.experiment_id, second):
        place.client.delete_experiment(experiment)
    assert place.shown() == ["mine: experiment 'old', deleted in MLflow"]
    remove(place.store, find_waste(place.store))
    assert place.store.weights("mine", "final-0-0").exists()


def test_a_file_that_cannot_be_removed_is_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.client.delete_run(place.ids["trial-1"])
    found = find_waste(place.store)
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=PermissionError("denied")))
    with pytest.raises(StoreError, match=r"^files of a store must be removable to clean it, but: denied$"):
        remove(place.store, found)


def test_deleted_runs_go_and_the_champion_is_restored(place: Place) -> None:
    for key in ("trial-1", "final-0-0"):
        place.client.delete_run(place.ids[key])
    experiment = place.client.get_run(place.ids["trial-0"]).info.experiment_id
    place.client.create_logged_model(experiment, name="classifier", source_run_id=place.ids["trial-0"])
    checkpoint = place.store.checkpoints("mine", "trial-0") / "step-1"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"state")
    others = {key: place.files(key) for key in ("trial-0", "final-0-0")}
    assert place.shown() == [
        "mine: checkpoints of trial-0, which has ended",
        "mine: network whose logging was cut short",
        "mine: trial-1, deleted in MLflow",
    ]
    found = find_waste(place.store)
    assert max(waste.size for waste in found) == len(b"weights" * 1000 + b"trial-1")
    remove(place.store, found)
    assert place.shown() == []
    assert place.files("trial-1") == []
    assert not checkpoint.exists()
    assert place.client.get_run(place.ids["final-0-0"]).info.lifecycle_stage == "active"
    for key, files in others.items():
        assert place.files(key) == [path for path in files if path.name != "step-1"]
    missed = [str(finding) for finding in findings(place.store, "mine")]
    assert not [text for text in missed if "trial 1" in text]


def test_what_mlflow_refused_of_a_run_goes_with_it(place: Place) -> None:
    place.client.delete_run(place.ids["trial-1"])
    tracker = MlflowTracker(place.store, "mine")
    tracker.open()
    for key in ("trial-1", "trial-7", "trial-1"):  # nobody has deleted trial-7, which is not there
        tracker.tag(key, any="tag")
    assert tracker.close() == 3
    remove(place.store, find_waste(place.store))
    [left] = place.store.queues("mine").iterdir()
    assert "trial-7" in left.read_text()


def test_the_registry_is_that_of_the_store_whatever_the_environment_says(
    place: Place, tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("trial-1", "final-0-0"):
        place.client.delete_run(place.ids[key])
    files = place.files("final-0-0")
    shutil.copyfile(blank, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/other.db")
    importlib.reload(sweeps)
    assert place.shown() == ["mine: trial-1, deleted in MLflow"]
    remove(place.store, find_waste(place.store))
    assert place.shown() == []
    assert place.client.get_run(place.ids["final-0-0"]).info.lifecycle_stage == "active"
    assert place.files("final-0-0") == files


def test_a_deleted_run_goes_although_the_environment_names_a_workspace_of_a_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.client.delete_run(place.ids["trial-1"])
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    importlib.reload(sweeps)
    remove(place.store, find_waste(place.store))
    assert place.shown() == []


def whole(folder: Path) -> set[Path]:
    """Files of a store without those that SQLite has beside a database while a connection is open."""
    return {path for path in contents(folder) if not path.name.endswith(("-wal", "-shm"))}


def test_a_deleted_study_goes_whole_unless_its_champion_is_registered(place: Place, tmp_path: Path) -> None:
    experiment = place.client.get_run(place.ids["study"]).info.experiment_id
    place.client.delete_experiment(experiment)
    assert place.shown() == []
    place.client.delete_model_version("cifar10", "1")
    assert place.shown() == ["mine: the whole study, deleted in MLflow"]
    before = whole(place.store.root)
    shutil.copytree(place.store.root, tmp_path / "copy")
    copy = Store.locate(tmp_path / "copy")
    remove(copy, find_waste(copy))
    assert not [path for path in contents(copy.root) if path.suffix in (".toml", ".safetensors")]
    assert optuna.get_all_study_names(copy.storage_url) == []
    assert whole(place.store.root) == before, "the original is as it was"


@pytest.mark.parametrize(
    ("experiment", "key", "location"),
    [
        ("..", None, None),
        (".", None, None),
        (None, "../../../thesis", None),
        (None, "", None),
        (None, "trial-0", None),  # a live run has the same
        ("foreign", None, "{store}/artifacts/../../thesis"),
        ("foreign", None, "{store}/artifacts/../artifacts"),
    ],
)
def test_names_that_others_wrote_remove_no_files_but_their_own(
    experiment: str | None, key: str | None, location: str | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", Mock(return_value=Mock(returncode=0)))  # mlflow gc, which is slow
    witness = place.store.root.parent / "thesis" / "chapter"
    files = [witness, place.store.checkpoints("mine", "trial-0") / "step-1", place.store.report("mine") / "report.html"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("years of work")
    if experiment is not None:
        where = None if location is None else "file://" + location.format(store=place.store.root)
        place.client.delete_experiment(place.client.create_experiment(experiment, artifact_location=where))
    else:
        place.client.set_tag(place.ids["trial-1"], "key", key)
        place.client.delete_run(place.ids["trial-1"])
    place.client.set_tag(place.ids["trial-0"], "state", "running")  # its checkpoints are in use
    before = {path for path in whole(place.store.root) if place.ids["trial-1"] not in path.parts}
    remove(place.store, find_waste(place.store))
    assert all(file.exists() for file in files)
    assert before <= whole(place.store.root)


def test_weights_on_another_disk_are_removed_there(place: Place, tmp_path: Path) -> None:
    folder = place.store.root / "weights"
    shutil.move(folder, tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    place.client.delete_run(place.ids["trial-1"])
    remove(place.store, find_waste(place.store))
    assert place.files("trial-1") == []
    assert place.files("trial-0")


def test_what_was_restored_or_deleted_since_it_was_shown_stays(place: Place) -> None:
    place.client.delete_run(place.ids["trial-1"])
    found = find_waste(place.store)
    place.client.restore_run(place.ids["trial-1"])
    place.client.delete_run(place.ids["trial-0"])
    before = [place.files(key) for key in KEYS]
    with pytest.raises(StoreError, match=r"^a store must not change before it is cleaned, but it has; nothing was "):
        remove(place.store, found)
    assert [place.files(key) for key in KEYS] == before


def test_a_removal_that_was_cut_short_is_found_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.client.delete_run(place.ids["trial-1"])
    remove_folder = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove(place.store, find_waste(place.store))
    monkeypatch.setattr(shutil, "rmtree", remove_folder)
    assert place.shown() == ["mine: trial-1, deleted in MLflow"]
    remove(place.store, find_waste(place.store))
    assert place.shown() == []
    assert place.files("trial-1") == []


def test_a_registered_run_that_mlflow_gc_has_removed_does_no_harm(place: Place) -> None:
    for key in ("final-0-0", "trial-1"):
        place.client.delete_run(place.ids[key])
    uri = place.store.tracking_uri
    collect = ["gc", "--backend-store-uri", uri, "--run-ids", place.ids["final-0-0"]]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    subprocess.run([sys.executable, "-m", "mlflow", *collect], env=environment, check=True, capture_output=True)
    remove(place.store, find_waste(place.store))
    assert place.files("trial-1") == []


def test_never_while_a_study_runs(place: Place) -> None:
    place.client.delete_run(place.ids["trial-1"])
    found = find_waste(place.store)
    with acquire(place.store.lock("mine"), "mine"):
        with pytest.raises(LockError, match=r"^no study of the store may run while it is cleaned, but process \d+ on "):
            find_waste(place.store)
        with pytest.raises(LockError, match=r"^study 'mine' is being run by "):
            remove(place.store, found)
    assert place.files("trial-1")


def test_never_while_a_study_begins_that_has_no_experiment_yet(place: Place) -> None:
    place.client.delete_run(place.ids["trial-1"])
    found = find_waste(place.store)
    with acquire(place.store.lock("new"), "new"), pytest.raises(LockError, match=r"^study 'new' is being run by "):
        remove(place.store, found)
    assert place.files("trial-1")


def test_weights_whose_writing_was_cut_short_go(place: Place) -> None:
    half = place.store.weights("mine", "trial-0").with_name(".trial-0.safetensors.0a1b2c3d")
    half.write_bytes(b"wei")
    half.with_name(".DS_Store").touch()
    assert place.shown() == ["mine: weights whose writing was cut short"]
    remove(place.store, find_waste(place.store))
    assert not half.exists()
    assert place.store.weights("mine", "trial-0").exists()


def test_other_databases(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^a store must hold its own MLflow database to be cleaned, but "):
        find_waste(Store.locate(tmp_path, tracking_uri="http://127.0.0.1:9"))


def test_a_study_whose_trials_are_elsewhere(place: Place) -> None:
    """Other commands leave an empty optuna.db beside MLflow's database."""
    place.client.set_tag(place.ids["study"], "places", "--labels FILE --storage URL")
    said = "a store must hold the trials of its studies to be cleaned, but those of 'mine' are in another database"
    with pytest.raises(StoreError, match=f"^{said}"):
        find_waste(place.store)


def test_a_full_disk_is_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Mock(free=0))
    said = rf"^the disk of a store must have 1 MB free to clean it, but that of {place.store.root} is full$"
    with pytest.raises(StoreError, match=said):
        find_waste(place.store)
