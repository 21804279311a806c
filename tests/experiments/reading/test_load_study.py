from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from cifar_core.data.data_set import CIFAR10
from experiments import export_test, label_curve
from experiments.decision.facts import Facts
from experiments.reading import run_table
from experiments.reading.load_study import count_test_set_evaluations, read_study, read_tables
from experiments.reading.named_runs import recipe_of, runs_named
from experiments.reading.runs import from_mlflow
from experiments.reading.study import TestSetEvaluations as Evaluations
from experiments.reading.study_reader import StudyReader
from experiments.sections.selection import candidates_of
from sweeps.store import Store, StoreError
from tests.conftest import Refused
from tests.experiments.fake_store import START, Fake, Trial


def test_studies_are_listed_and_the_most_recent_one_is_read_by_default(store: Fake) -> None:
    reader = StudyReader(store.place)
    assert reader.studies() == ["demo", "interrupted", "unconfirmed"]
    assert read_study(reader).name == "demo"


def test_a_study_is_read_with_its_trials_confirmations_and_finals(demo: Facts, unconfirmed: Facts) -> None:
    study = demo.study
    assert study.search["state"].tolist() == ["complete", "pruned", "failed", "complete", "pruned", "pruned"]
    assert study.search["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert study.search["metrics.val/accuracy"].round(2).tolist()[3] == 0.84
    assert study.confirm["source_trial"].tolist() == study.final["source_trial"].tolist() == [3, 3]
    assert study.champion_trial == 3
    assert study.champion["metrics.test/accuracy"].tolist() == [0.921, 0.925]
    assert study.subject["run_id"].tolist() == study.champion["run_id"].tolist()
    assert study.search["tags.reason"].tolist()[2] == "loss is not finite"
    assert unconfirmed.study.champion.empty
    assert unconfirmed.study.subject["trial"].tolist() == [3]


def test_only_the_last_attempt_of_a_trial_is_a_trial(fresh_store: Fake) -> None:
    trials = [Trial(accuracy=0.7, number=0, attempt=1), Trial(state="failed", number=0)]
    fresh_store.add(trials=trials, champion=())
    study = read_study(StudyReader(fresh_store.place))
    assert study.search["state"].tolist() == ["complete"]
    assert len(study.attempts) == 2


def test_a_server_uri_is_read_like_the_store(store: Fake, tmp_path: Path) -> None:
    study = read_study(StudyReader(Store.locate(tmp_path, tracking_uri=store.place.tracking_uri)), "demo")
    assert len(study.search) == 6
    assert not study.test_set_evaluations.recorded  # the record lies in the store


@pytest.mark.slow
def test_the_space_of_a_study_is_read(fresh_store: Fake) -> None:
    fresh_store.add()
    reader = StudyReader(fresh_store.place)
    run = fresh_store.client.get_run(read_study(reader).run_id)
    Path(run.info.artifact_uri.removeprefix("file://"), "space.toml").write_text('description = "d"')
    assert read_study(reader).artifacts.space == 'description = "d"'


@pytest.mark.slow
def test_the_data_set_of_a_study_is_read(fresh_store: Fake) -> None:
    run = fresh_store.add()
    reader, own = StudyReader(fresh_store.place), replace(CIFAR10, name="flowers", sha256="ab" * 32)
    assert read_study(reader).data_set == CIFAR10, "where no file was kept"
    fresh_store.put(run, {"data.json": json.dumps(own.to_dict()).encode()})
    assert read_study(reader).data_set == own


@pytest.mark.parametrize("damaged", [{}, {"data.json": b'{"name": "flo'}])
def test_a_study_of_other_data_that_lost_its_data_set_is_not_taken_for_cifar10(
    fresh_store: Fake, damaged: dict[str, bytes]
) -> None:
    parent = fresh_store.add(trials=(Trial(),), champion=())
    for name, value in {"data": "flowers", "data_sha256": "ab" * 32}.items():
        fresh_store.client.set_tag(parent, name, value)
    fresh_store.put(parent, damaged)
    place = f"{fresh_store.folder}/artifacts/demo/{parent}/artifacts/data.json"
    reader = StudyReader(fresh_store.place)
    rule = f"the data set of demo (flowers) must be in {place}, but that is missing or damaged; bring it back"
    with pytest.raises(StoreError, match=re.escape(rule)):
        read_study(reader)
    trial = reader.client.search_runs(list(reader.experiments), "tags.stage = 'search'")[0]
    with pytest.raises(StoreError, match=re.escape(rule)):
        from_mlflow(trial, "demo", reader)


@pytest.mark.slow
def test_missing_and_broken_artifacts_are_none(fresh_store: Fake) -> None:
    fresh_store.add(omit=("pictures/samples.png", "test/prediction.json", "test/confusion.json", "recipe.toml"))
    reader = StudyReader(fresh_store.place)
    run = read_study(reader).champion["run_id"].iloc[0]
    root = Path(fresh_store.client.get_run(run).info.artifact_uri.removeprefix("file://"))
    (root / "test" / "confusion.json").write_text('{"classes": ["cat"], "matrix": [[1, 2]]}')
    (root / "test" / "mistakes.png").write_bytes(b"not a picture")
    shown = read_study(reader).artifacts
    assert [shown.samples, shown.prediction, shown.prediction_picture, shown.recipe, shown.space] == [None] * 5
    assert shown.confusions == {}
    assert shown.mistakes_run != run  # the other run still has one


def test_artifacts_are_read_from_a_folder_of_any_name_and_through_mlflow(fresh_store: Fake) -> None:
    for location in ((fresh_store.folder / "a b#%41").as_uri(), str(fresh_store.folder / "no uri")):
        experiment = fresh_store.client.create_experiment(location, artifact_location=location)
        run = fresh_store.client.create_run(experiment).info.run_id
        fresh_store.client.log_text(run, location, "test/text.txt")
        reader = StudyReader(fresh_store.place)
        asked = Mock(wraps=reader.client.get_run)
        with patch.object(reader.client, "get_run", asked):
            assert reader.artifact(run, "test/text.txt") == location.encode()
            assert reader.artifact(run, "test") is reader.artifact(run, "none") is None
        assert asked.call_count == 1, "a run is loaded once"


def test_a_failed_download_is_not_taken_for_an_artifact_that_never_was(
    fresh_store: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = fresh_store.client.create_experiment("served", artifact_location=str(fresh_store.folder / "no uri"))
    run = fresh_store.client.create_run(experiment).info.run_id
    for file in ("test/http.json", "data.json"):
        fresh_store.client.log_text(run, "{}", file)
    reader = StudyReader(fresh_store.place)
    monkeypatch.setattr(reader.client, "download_artifacts", Mock(side_effect=MlflowException("too many requests")))
    for file in ("test/http.json", "data.json"):
        with pytest.raises(StoreError, match=rf"^{file} of run {run} must be readable, but: too many requests$"):
            reader.artifact(run, file)
    assert reader.artifact(run, "test/serving.json") is reader.artifact(run, "test") is None
    assert reader.artifact("ab" * 16, "data.json") is None, "of a run that the store has not"
    monkeypatch.setattr(reader.client, "list_artifacts", Mock(side_effect=MlflowException("gone")))
    with pytest.raises(StoreError, match=r"the MLflow store must answer, but .* gave: gone$"):
        reader.artifact(run, "test/http.json")


def test_test_set_evaluations_are_counted_and_damaged_lines_reported(tmp_path: Path) -> None:
    path = tmp_path / "test_looks.jsonl"
    assert count_test_set_evaluations(path, "demo") == Evaluations(recorded=False)
    lines = (
        {"time": "t", "study": "demo", "key": "final-3-0", "data_sha256": "ab"},
        {"time": "t", "study": "other", "key": "final-1-0", "data_sha256": "ab"},
        {"time": "t", "study": "demo", "key": "final-3-1", "data_sha256": "ab"},
        {"time": "u", "study": "demo", "key": "final-3-1", "data_sha256": "ab"},
        {"time": "t", "study": "demo-adapted", "key": "final-0-0", "data_sha256": "ab"},
        {"time": "t", "study": "demo"},
    )
    path.write_text("\n".join([*map(json.dumps, lines), "[1]", "", '{"study": "demo"']))
    expected = Evaluations(recorded=True, study=3, store=5, unreadable=3, again=1, adapted=1)
    assert count_test_set_evaluations(path, "demo") == expected
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\xff")  # as an editor saves it
    assert count_test_set_evaluations(path, "demo") == expected
    path.unlink()
    path.mkdir()
    assert count_test_set_evaluations(path, "demo") == Evaluations(recorded=False)


def test_what_is_no_store_is_named_and_not_made(tmp_path: Path, fresh_store: Fake) -> None:
    with pytest.raises(StoreError, match=r"a store must hold a study, but there is no .*/none/mlflow\.db: 'make "):
        StudyReader(Store.locate(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(StoreError, match="a store must hold a study, but there is no "):
        StudyReader(Store.locate(tmp_path / "none"))
    assert not list((tmp_path / "none").iterdir())
    for content, said in (
        ("hello", "the MLflow store must answer, but .* gave: .*/mlflow.db: file is not a database"),
        ("", r"a store must hold mlflow\.db, but .*/mlflow\.db is missing or empty"),
    ):
        (tmp_path / "mlflow.db").write_text(content)
        with pytest.raises(StoreError, match=f"^{said}$"):
            StudyReader(Store.locate(tmp_path))
        assert (tmp_path / "mlflow.db").read_text() == content
    fresh_store.client.create_experiment("no study")
    with pytest.raises(StoreError, match=r"a store must hold at least one study, but sqlite:.* holds none: 'make "):
        read_study(StudyReader(fresh_store.place))


def test_a_store_that_holds_adapted_networks_alone(fresh_store: Fake, tmp_path: Path, refused: Refused) -> None:
    fresh_store.client.create_run(
        fresh_store.client.create_experiment("pets-adapted"), tags={"stage": "adapted-study", "data_sha256": "1"}
    )
    rule = r"holds none, only networks that were adapted \(pets-adapted\): run the study without --adapt-only$"
    with pytest.raises(StoreError, match=rule):
        read_study(StudyReader(fresh_store.place))
    # Neither takes CIFAR-10 for the images of that store.
    place = ("--store", str(fresh_store.folder))
    assert re.search(rule, refused(export_test.main, str(tmp_path / "test-images"), *place))
    assert re.search(rule, refused(label_curve.main, *place, "--device", "cpu"))
    assert not (fresh_store.folder / "test_looks.jsonl").exists()


def test_the_report_on_an_adapted_network_is_that_of_its_sweep(fresh_store: Fake) -> None:
    fresh_store.add()
    fresh_store.client.create_run(
        fresh_store.client.create_experiment("pets-adapted"), tags={"stage": "adapted-study", "data_sha256": "1"}
    )
    rule = r"^--study must be that of a sweep, whose report has the adapted network, but got 'pets-adapted'$"
    with pytest.raises(StoreError, match=rule):
        read_study(StudyReader(fresh_store.place), "pets-adapted")


def test_settings_that_changed_are_the_last_ones(fresh_store: Fake) -> None:
    run_id = fresh_store.add()
    fresh_store.client.set_tag(run_id, "trials", "50")
    assert read_study(StudyReader(fresh_store.place)).params["trials"] == "50"


@pytest.mark.slow
def test_a_file_with_other_tables_is_read_through_the_client(
    store: Fake, demo: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: object) -> None:
        raise sqlite3.OperationalError("no such table: latest_metrics")

    monkeypatch.setattr(run_table, "from_sqlite", changed)
    pd.testing.assert_frame_equal(read_study(StudyReader(store.place), "demo").attempts, demo.study.attempts)


@pytest.mark.slow
def test_a_study_without_the_tag_of_its_state_has_that_of_its_status(fresh_store: Fake) -> None:
    fresh_store.client.delete_tag(fresh_store.add(), "state")
    assert read_study(StudyReader(fresh_store.place)).state == "finished"


def test_a_deleted_run_is_not_read(fresh_store: Fake) -> None:
    fresh_store.add(trials=(Trial(), Trial(), Trial()), champion=())
    reader = StudyReader(fresh_store.place)
    fresh_store.client.delete_run(str(read_study(reader).search["run_id"].iloc[0]))
    assert list(read_study(reader).search["trial"]) == [1, 2]


def test_artifacts_of_a_moved_store_are_found(store: Fake, tmp_path: Path) -> None:
    shutil.copytree(store.folder, tmp_path / "moved")
    moved = StudyReader(Store.locate(tmp_path / "moved"))
    for path in (tmp_path / "moved").rglob("recipe.toml"):
        path.write_text("model = 'moved'")
    assert read_study(moved, "demo").artifacts.recipe == "model = 'moved'"
    assert read_study(moved, "demo").artifacts.serving == read_study(StudyReader(store.place), "demo").artifacts.serving


def test_lost_artifacts_are_not_taken_for_things_that_were_never_measured(store: Fake, tmp_path: Path) -> None:
    shutil.copytree(store.folder, tmp_path / "copy")
    copy, champion = Store.locate(tmp_path / "copy"), read_study(StudyReader(store.place), "demo").champion["run_id"]
    folder = copy.root / "artifacts" / "demo" / champion.iloc[0] / "artifacts"
    (folder / "test" / "confusion.json").unlink()
    [missing] = read_study(StudyReader(copy), "demo").artifacts.missing
    assert re.fullmatch("test/confusion.json of .+", missing)
    shutil.rmtree(tmp_path / "copy" / "artifacts" / "demo")
    rule = rf"the artifacts of .* must be in {tmp_path}/copy/artifacts/demo/.*, but there is no such folder; bring it"
    with pytest.raises(StoreError, match=rule):
        read_study(StudyReader(copy), "demo")
    assert list(read_tables(StudyReader(copy), "demo").champion["run_id"]) == list(champion)
    with pytest.raises(StoreError, match=rule):
        recipe_of(champion.iloc[0], StudyReader(copy))


def test_a_recipe_that_was_the_champion_is_none(fresh_store: Fake) -> None:
    run_id = fresh_store.add()
    client, before = fresh_store.client, read_study(StudyReader(fresh_store.place)).champion
    newest = client.create_run(client.get_run(run_id).info.experiment_id, start_time=START + 9_000_000)
    tags = {"stage": "final", "state": "complete", "champion": "true", "source_trial": "0", "seed": "0"}
    for name, value in (tags | {"mlflow.parentRunId": run_id, "attempt": "0", "trial": "final-0-0"}).items():
        client.set_tag(newest.info.run_id, name, value)
    client.log_metric(newest.info.run_id, "test/accuracy", 0.93)
    for trial, champion in ((3, list(before["run_id"])), (0, [newest.info.run_id])):
        client.set_tag(run_id, "champion", str(trial))
        study = read_study(StudyReader(fresh_store.place))
        assert len(study.final) == 3
        assert study.champion_trial == trial
        assert list(study.champion["run_id"]) == champion
        assert [candidate.trial for candidate in candidates_of(study) if candidate.champion] == [trial] * (trial == 3)


def test_a_study_without_a_champion_on_record_has_none(fresh_store: Fake) -> None:
    fresh_store.client.delete_tag(fresh_store.add(), "champion")
    study = read_study(StudyReader(fresh_store.place))
    assert (len(study.final), study.champion_trial, len(study.champion)) == (2, None, 0)
    assert list(study.validated["run_id"]) == list(study.subject["run_id"]) == list(study.search["run_id"][3:4])


def test_figures_of_a_study_that_went_on_are_not_those_of_its_earlier_end(fresh_store: Fake) -> None:
    run_id = fresh_store.add()
    assert read_study(StudyReader(fresh_store.place)).metrics["study/seconds"] == 1290
    fresh_store.client.set_tag(run_id, "state", "interrupted")
    study = read_study(StudyReader(fresh_store.place))
    assert (study.state, study.metrics) == ("interrupted", {})


def test_a_study_that_runs_again_has_not_ended_when_it_ended_before(fresh_store: Fake) -> None:
    run_id = fresh_store.add()
    ended = read_study(StudyReader(fresh_store.place))
    fresh_store.client.set_tag(run_id, "state", "running")
    fresh_store.client.update_run(run_id, "RUNNING")
    running = read_study(StudyReader(fresh_store.place))
    assert fresh_store.client.get_run(run_id).info.end_time, "MLflow keeps it"
    assert (running.state, running.end) == ("running", max(running.attempts["end"].dropna()))
    assert running.end != ended.end


def test_a_run_of_a_label_curve_has_the_data_set_of_its_curve(fresh_store: Fake) -> None:
    own = replace(CIFAR10, name="garden", sha256="ab" * 32)
    run_id = fresh_store.add(name="labels/garden")
    fresh_store.client.set_tag(run_id, "stage", "label-curve")
    fresh_store.client.set_tag(run_id, "data_sha256", own.sha256)
    fresh_store.put(run_id, {"data.json": json.dumps(own.to_dict()).encode()})
    reader = StudyReader(fresh_store.place)
    experiment_id = fresh_store.client.get_run(run_id).info.experiment_id
    [trial] = fresh_store.client.search_runs([experiment_id], "tags.key = 'trial-0'")
    assert reader.data_set(trial) == own


def test_a_study_whose_experiment_was_renamed_keeps_its_name(fresh_store: Fake) -> None:
    run_id = fresh_store.add()
    fresh_store.add(name="labels/demo", trials=(Trial(),), champion=(), start=START - 1000)
    client = fresh_store.client
    for name, shown in (("demo", "nicer"), ("labels/demo", "my curve")):
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        client.rename_experiment(experiment.experiment_id, shown)
    reader = StudyReader(fresh_store.place)
    assert reader.studies() == ["demo", "labels/demo"]
    for given in (None, "demo", "nicer"):
        study = read_study(reader, given)
        assert (study.name, study.run_id, study.test_set_evaluations.study) == ("demo", run_id, 2)
    assert len(reader.runs(experiment="labels/demo")) == len(reader.runs(experiment="my curve")) == 2
    [trial] = runs_named("demo/trial-3", reader)
    assert runs_named("nicer/trial-3", reader)[0].info.run_id == trial.info.run_id


def test_an_experiment_that_has_the_name_of_a_renamed_one_is_another(fresh_store: Fake) -> None:
    fresh_store.add(start=START - 1000)
    experiment = fresh_store.client.get_experiment_by_name("demo")
    assert experiment is not None
    fresh_store.client.rename_experiment(experiment.experiment_id, "old")
    newer = fresh_store.add()
    reader = StudyReader(fresh_store.place)
    assert reader.studies() == ["demo", "old"]
    assert read_study(reader, "demo").run_id == newer
