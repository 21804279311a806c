"""Artifact locations in a store that was moved, copied, or is not alone in its database."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps.lock import LockError, acquire
from sweeps.store import Store
from sweeps.tracking.artifacts import missing_artifacts
from sweeps.tracking.locations import artifact_folder, follow_store, moved_from, uri_for_mlflow
from sweeps.tracking.mlflow_client import runs_of
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.support import STUDY, contents

NAME = "100 % größe #1?"


@pytest.fixture
def store(tmp_path: Path, empty_store: Callable[[Path], Store]) -> Store:
    """A store in a folder with special characters, with a run that has an artifact."""
    store = empty_store(tmp_path / "a b%20")
    record(store)
    folder = artifact_folder(store, run_of(store).info.artifact_uri)
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "f.txt").write_bytes(b"first")  # not by MLflow, which remembers in a process where a run's artifacts are
    return store


def record(store: Store, files: Mapping[str, bytes] = {}) -> None:
    tracker = MlflowTracker(store, NAME)
    tracker.open_study(STUDY)
    tracker.begin(RunLabel(key="trial-0", name="t", tags={"stage": "search"}, params={"a": 1}, files=files))
    assert tracker.close() == 0


def run_of(store: Store) -> Run:
    return next(run for run in runs_of(MlflowClient(store.tracking_uri), NAME) if run.data.tags["key"] == "trial-0")


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_artifacts_are_read_where_the_store_is(
    store: Store, tmp_path: Path, how: Callable[[Path, Path], object]
) -> None:
    assert moved_from(store) == []
    how(store.root, tmp_path / "now")
    now = Store.locate(tmp_path / "now")
    folder = artifact_folder(now, run_of(now).info.artifact_uri)
    assert folder is not None
    assert folder.is_relative_to(now.root)
    assert (folder / "f.txt").read_bytes() == b"first"
    assert moved_from(now) == [store.root]


def test_a_copy_writes_into_the_copy(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy, before = Store.locate(tmp_path / "copy"), contents(store.root / "artifacts")
    record(copy, {"f.txt": b"second"})
    assert contents(store.root / "artifacts") == before
    [path] = copy.root.rglob("f.txt")
    assert path.read_bytes() == b"second"
    assert run_of(copy).info.artifact_uri == path.parent.as_uri()
    assert run_of(store).info.artifact_uri.startswith(store.root.as_uri())
    assert follow_store(copy) == [], "it is recorded once"


def test_commands_name_the_store_where_it_is(store: Store, tmp_path: Path) -> None:
    tracker = MlflowTracker(store, NAME)
    command = shlex.join(["python", "experiments/reproduce.py", "run:s/trial-1", *store.as_option()])
    tracker.open_study(STUDY)
    tags = {"stage": "search", "rerun": command, "mlflow.note.content": f"Again: `{command}`"}
    tracker.begin(RunLabel(key="trial-1", name="t", tags=tags, params={}, files={}))
    assert tracker.close() == 0
    shutil.copytree(store.root, tmp_path / "it's a copy")
    copy = Store.locate(tmp_path / "it's a copy")
    follow_store(copy)
    moved = command.replace(shlex.quote(str(store.root)), shlex.quote(str(copy.root)))
    for now, expected in ((store, command), (copy, moved)):
        [run] = [run for run in runs_of(MlflowClient(now.tracking_uri), NAME) if run.data.tags["key"] == "trial-1"]
        assert (run.data.tags["rerun"], run.data.tags["mlflow.note.content"]) == (expected, f"Again: `{expected}`")


def test_a_store_without_its_artifacts_never_goes_back_to_those_of_the_original(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "artifacts")
    copy = Store.locate(tmp_path / "copy")
    folder = artifact_folder(copy, run_of(copy).info.artifact_uri)
    assert folder is not None
    assert folder.is_relative_to(copy.root)
    assert missing_artifacts(copy, run_of(copy)) == (folder, ["recipe.toml"])


def test_another_name_of_the_same_folder_is_no_move(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root)
    assert follow_store(Store.locate(tmp_path / "link")) == []


def test_experiments_that_lie_elsewhere_stay_there(store: Store, tmp_path: Path) -> None:
    client = MlflowClient(store.tracking_uri)
    (tmp_path / "elsewhere" / "artifacts" / "mine").mkdir(parents=True)
    places = ((tmp_path / "elsewhere" / "artifacts" / "mine").as_uri(), "s3://bucket/artifacts/cloud")
    ids = [client.create_experiment(place.rpartition("/")[2], place) for place in places]
    store.root.rename(tmp_path / "now")
    now = Store.locate(tmp_path / "now")
    assert follow_store(now) == [store.root]
    client = MlflowClient(now.tracking_uri)
    assert [client.get_experiment(number).artifact_location for number in ids] == list(places)


def test_models_and_versions_follow(store: Store, tmp_path: Path) -> None:
    client = MlflowClient(store.tracking_uri)
    run = run_of(store)
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.info.artifact_uri}/model", run.info.run_id)
    model = client.create_logged_model(run.info.experiment_id, name="n", source_run_id=run.info.run_id)
    assert model.artifact_location.startswith(store.root.as_uri())
    store.root.rename(tmp_path / "now")
    now = Store.locate(tmp_path / "now")
    before = artifact_folder(now, model.artifact_location)
    follow_store(now)
    client = MlflowClient(now.tracking_uri)
    version = client.get_model_version("m", "1")
    assert version.source == f"{run_of(now).info.artifact_uri}/model"
    location = client.get_logged_model(model.model_id).artifact_location
    assert location.startswith(now.root.as_uri())
    assert artifact_folder(now, location) == before
    assert client.get_model_version_download_uri("m", "1") == version.source


def test_a_store_that_is_in_use_under_its_old_name_is_not_changed(store: Store, tmp_path: Path) -> None:
    store.root.rename(tmp_path / "now")
    now = Store.locate(tmp_path / "now")
    with acquire(now.lock("another"), "another"):
        with pytest.raises(LockError, match=r"the store .*now was moved, and process \d+ .* still runs a study of it"):
            follow_store(now, NAME)
        assert uri_for_mlflow(now) == now.tracking_uri
        assert moved_from(now) == [store.root]
        assert follow_store(now, "another") == [store.root], "its own lock is none of these"


def test_a_database_elsewhere_keeps_its_locations(store: Store, tmp_path: Path) -> None:
    other = Store.locate(tmp_path / "other", tracking_uri=store.tracking_uri)
    folder = artifact_folder(other, run_of(store).info.artifact_uri)
    assert folder is not None
    assert folder.is_relative_to(store.root)
    assert follow_store(other) == []
