"""Label curves on synthetic images: the runs that they leave, interruptions, and what the report reads of them."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from cifar_core.data import Splits, source
from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from cifar_core.transfer.backbone import Backbone, BackboneError, FeatureNetwork
from cifar_core.transfer.features import Features
from experiments import label_curve
from experiments.labels import adapting, training
from experiments.labels.plan import AdaptRun
from experiments.reading.label_curve import load_label_curve
from experiments.reading.load_study import read_study
from experiments.reading.study import LabelCurve
from experiments.reading.study_reader import StudyReader
from sweeps.command_line import Interrupted
from sweeps.lock import acquire
from sweeps.tracking import artifacts
from sweeps.tracking.artifacts import DATA_SET
from sweeps.tracking.tracker import MlflowTracker
from tests.conftest import Refused
from tests.experiments.fake_store import Fake
from tests.experiments.support import known
from tests.synthetic import synthetic_splits

SMALL = Recipe(model="three_conv", width=0.25, epochs=4.0, batch_size=40, learning_rate=0.02, val_fraction=0.0)
_ARTIFACTS = {"confusion.json": b"{}", "pictures/classes.png": b"a picture"}
IMAGES: Splits = synthetic_splits(torch.Generator().manual_seed(0), train=200, val=40)

pytestmark = pytest.mark.usefixtures("settings_of_this_process")


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic images in place of CIFAR-10, without pictures, speed and backbone."""
    monkeypatch.setattr(source, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(source, "load_train_val", lambda directory: IMAGES)
    monkeypatch.setattr(label_curve, "measure_speed", lambda recipe, hardware, data_set: 1e12)
    monkeypatch.setattr(label_curve, "load_backbone", Mock(side_effect=BackboneError("none is installed")))
    monkeypatch.setattr(artifacts, "of_training", lambda recipe, train: {})  # pictures take a second a run
    monkeypatch.setattr(artifacts, "of_predictions", lambda split, predictions: _ARTIFACTS)


@pytest.fixture
def studied(fresh_store: Fake) -> Fake:
    """A store with the study `demo`."""
    return with_a_small_champion(fresh_store)


def with_a_small_champion(store: Fake) -> Fake:
    """Add the study `demo`, whose champion is a small network, of as many images as there are."""
    data_set = replace(CIFAR10, train_images=len(IMAGES.train), val_images=len(IMAGES.val))
    store.put(store.add(), {DATA_SET: json.dumps(data_set.to_dict()).encode()})
    for run_id in read_study(StudyReader(store.place), "demo").subject["run_id"]:
        store.put(run_id, {"recipe.toml": SMALL.to_toml().encode()})
    return store


def call(store: Fake, *arguments: str) -> int:
    fixed = ("--store", str(store.folder), "--device", "cpu", "--shares", "0.1,1", "--pflop", "3.5e-6")
    return label_curve.main([*fixed, *arguments])


def curve_of(store: Fake) -> LabelCurve:
    return known(load_label_curve(StudyReader(store.place), "demo", CIFAR10))


def note_of(run_id: str, store: Fake) -> str:
    """The description of a run in MLflow."""
    return str(StudyReader(store.place).client.get_run(run_id).data.tags["mlflow.note.content"])


@pytest.mark.slow
def test_an_interrupted_curve_resumes_to_the_same_accuracies(
    studied: Fake, tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise AssertionError("the test set stays sealed")

    monkeypatch.setattr(source, "load_test", refuse)
    original, calls = MlflowTracker.point, itertools.count(1)

    def disturbed(self: MlflowTracker, key: str, point: Any, **options: Any) -> None:
        original(self, key, point, **options)
        if next(calls) == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "point", disturbed)
        assert call(studied) == 128 + signal.SIGTERM
    said = capsys.readouterr().out
    assert "labels/demo: three_conv" in said
    assert "no adapted network: none is installed" in said
    assert "2 with 20 labels, 1 with 200 labels" in said
    assert "CIFAR-10: 200 labels, 40 images to validate on, no test image" in said
    assert "stopped; the same command resumes the curve" in said
    begun = len(curve_of(studied).runs)
    assert 0 < begun < 3
    assert call(studied) == 0
    curve = curve_of(studied)
    assert (len(curve.runs), curve.planned) == (3, 3)
    others = load_label_curve(StudyReader(studied.place), "demo", replace(CIFAR10, sha256="of other labels"))
    assert known(others).runs == (), "runs of an earlier study of that name"
    assert not list((studied.folder / "checkpoints").glob("*/*"))
    assert [list(map(len, runs)) for runs in [curve.of_way("build").values()]] == [[2, 1]]
    assert curve.source == read_study(StudyReader(studied.place), "demo").subject["run_id"].iloc[0]
    assert "pictures/classes.png" in note_of(curve.runs[0].run_id, studied)

    whole = with_a_small_champion(Fake(tmp_path / "whole", blank))
    assert call(whole) == 0
    assert {(run.labels, run.seed): run.accuracy for run in curve_of(whole).runs} == {
        (run.labels, run.seed): run.accuracy for run in curve.runs
    }
    monkeypatch.setattr(training, "run_job", refuse)
    capsys.readouterr()
    assert call(studied) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    StudyReader(studied.place).client.set_tag(curve.runs[0].run_id, "state", "pruned")
    assert (len(curve_of(studied).runs), curve_of(studied).diverged) == (2, 1)


@pytest.mark.slow
def test_heads_on_a_pretrained_network_learn_from_the_same_shares(
    studied: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone(
        name="efficientnet_lite0",
        network=FeatureNetwork("efficientnet_lite0"),
        sha256="ab" * 32,
        source="a file",
        pretrained_on="other images",
    )
    asked: list[int] = []

    def pixels(of: Backbone, images: torch.Tensor, *rest: Any, progress: Any, **options: Any) -> Features:
        asked.append(len(images))
        progress(len(images), len(images))
        return Features(images.flatten(1).half() / 255, 1.0)

    monkeypatch.setattr(label_curve, "load_backbone", lambda wanted: backbone)
    monkeypatch.setattr(adapting, "features", pixels)
    monkeypatch.setattr(label_curve, "train_all", lambda runs, context: 0)
    assert call(studied) == 0
    said = capsys.readouterr().out
    assert "6 heads on efficientnet_lite0: features of 240 images" in said
    assert "at the speed just measured, and the heads" in said
    curve = curve_of(studied)
    assert {labels: len(runs) for labels, runs in curve.of_way("adapt").items()} == {20: 5, 200: 1}
    assert {(run.model, run.pretrained_on) for run in curve.runs} == {("efficientnet_lite0", "other images")}
    assert "pictures/classes.png" in note_of(curve.runs[0].run_id, studied)
    few, whole = (curve.of_way("adapt")[labels][0].accuracy for labels in (20, 200))
    assert 0.1 < few <= whole
    assert asked == [240]
    assert call(studied) == 0
    assert asked == [240], "features are asked for once"
    monkeypatch.setattr(label_curve, "to_do", lambda runs, tracker: [run for run in runs if isinstance(run, AdaptRun)])
    capsys.readouterr()
    assert call(studied) == 0
    assert "the heads alone, whose time is not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stopped", "ends", "code"), [(False, Mock(return_value=0), 1), (True, Mock(side_effect=Interrupted), 128)]
)
def test_entries_that_mlflow_lacks_are_said(
    studied: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped: bool,
    ends: Mock,
    code: int,
) -> None:
    close = MlflowTracker.close
    monkeypatch.setattr(
        MlflowTracker, "close", lambda tracker, at_once: close(tracker, at_once=at_once) + 2 * (at_once == stopped)
    )
    monkeypatch.setattr(label_curve, "train_all", ends)
    assert call(studied) == code
    kept = f"kept in {studied.place.queues('labels/demo')}"
    said = f"MLflow lacks 2 entries, {kept}; once it answers, the same command sends them"
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_run_that_fails_is_tried_again(
    studied: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(IMAGES, train=replace(IMAGES.train, labels=torch.full((200,), 99)))
    with monkeypatch.context() as patch:
        patch.setattr(source, "load_train_val", lambda directory: unknown)
        assert call(studied, "--shares", "1", "--pflop", "1e-6") == 1
    assert "200 labels/0: " in capsys.readouterr().out
    [traceback] = studied.folder.rglob("error.txt")
    assert traceback.read_text().startswith("Traceback")
    assert call(studied, "--shares", "1", "--pflop", "1e-6") == 0
    assert [run.labels for run in curve_of(studied).runs] == [200]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--study none", "--study must be one of demo, interrupted, unconfirmed, but got 'none'"),
        ("--shares 0.1,2", "argument --shares: must be numbers in (0, 1] with commas between them, but got '0.1,2'"),
        ("--shares 0_1", "argument --shares: must be numbers in (0, 1] with commas between them, but got '0_1'"),
        ("--pflop 1e300", "argument --pflop: must be a number above 0 and at most 1e9, but got '1e300'"),
        ("--backbone none", "none is installed"),
        ("--pflop 1e-12", "--pflop must be at least 0.0021 for these shares, but got 1e-12"),
    ],
)
def test_wrong_arguments_get_the_rule_and_the_value(
    store: Fake, refused: Refused, arguments: str, message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()}
    said = refused(label_curve.main, "--store", str(store.folder), "--device", "cpu", *arguments.split())
    assert said == message
    after = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()}
    assert after == before, "nothing is written"


def test_a_study_without_a_complete_trial(fresh_store: Fake, refused: Refused) -> None:
    fresh_store.add(trials=(), champion=(), state="interrupted")
    said = refused(label_curve.main, "--store", str(fresh_store.folder), "--device", "cpu")
    assert said == "--study must have a complete trial, but 'demo' has none yet"


def test_runs_of_other_images_are_refused_before_anything_is_written(studied: Fake, refused: Refused) -> None:
    client, old = studied.client, "1a2b3c4d5e6f" * 5
    experiment = client.create_experiment("labels/demo", (studied.folder / "artifacts").as_uri())
    client.create_run(experiment, run_name="labels/demo", tags={"key": "study", "data_sha256": old})
    client.create_run(experiment, run_name="20 labels", tags={"key": "adapt-20-0-00000000", "data_sha256": old})
    before = [run.data.to_dictionary() for run in client.search_runs([experiment])]
    said = refused(label_curve.main, "--store", str(studied.folder), "--device", "cpu")
    assert said == (
        f"all runs of labels/demo must be of the images {CIFAR10.sha256[:12]}, but '20 labels' is of 1a2b3c4d5e6f; "
        f"delete that experiment in MLflow, then run make clean-store STORE={studied.folder}"
    )
    uri = studied.place.tracking_uri
    elsewhere = "--store", str(studied.folder / "other"), "--tracking-uri", uri
    assert refused(label_curve.main, *elsewhere, "--device", "cpu").endswith(f"in MLflow, then run mlflow gc for {uri}")
    assert [run.data.to_dictionary() for run in client.search_runs([experiment])] == before


def test_a_curve_that_was_renamed_is_not_trained_again(
    studied: Fake, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_curve, "train_all", lambda runs, context: 0)
    assert call(studied) == 0
    experiment = known(studied.client.get_experiment_by_name("labels/demo"))
    studied.client.rename_experiment(experiment.experiment_id, "my curve")
    assert known(load_label_curve(StudyReader(studied.place), "demo", CIFAR10)).planned == 3
    said = refused(label_curve.main, "--store", str(studied.folder), "--device", "cpu")
    assert said == (
        "the MLflow experiment 'labels/demo' must have this name, but is now called 'my curve'; rename it back in "
        "MLflow"
    )


def test_one_process_measures_a_curve(studied: Fake, refused: Refused) -> None:
    with acquire(studied.place.lock("labels/demo"), "labels/demo"):
        said = refused(label_curve.main, "--store", str(studied.folder), "--device", "cpu")
    assert said.startswith(f"study 'labels/demo' is being run by process {os.getpid()} on ")


def test_a_store_without_studies_gets_the_curve_of_a_known_recipe(fresh_store: Fake) -> None:
    found = label_curve.subject_of(None, fresh_store.place)
    assert (found.study, found.recipe.model, found.source) == ("fast94", "airbench", "")
    with pytest.raises(UserError, match="a store must hold at least one study"):
        label_curve.subject_of("x", fresh_store.place)


def test_a_study_without_a_curve_has_none(studied: Fake) -> None:
    assert load_label_curve(StudyReader(studied.place), "demo", CIFAR10) is None
