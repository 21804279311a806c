"""Adapting a pretrained network as a study: resumed, recorded, tested once and registered."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
import torch
from torch import Tensor

from cifar_core.budget import Budget
from cifar_core.checkpoint import read_tensors, write_tensors
from cifar_core.data import Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.transfer.adapted import load_network
from cifar_core.transfer.backbone import Backbone, FeatureNetwork
from cifar_core.transfer.head import Head, HeadRecipe, fit
from cifar_core.transfer.tuning import TuningRecipe
from sweeps.checks.verify import findings
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.planning.presets import PRESETS
from sweeps.stages.adaptation import Adaptation
from sweeps.stages.adapted_result import AdaptedResult
from sweeps.store import Store
from sweeps.studies.settings import adaptation_settings, check_adaptation
from sweeps.studies.storage import StudyError, open_storage
from sweeps.studies.study import open_study
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.registry import champions
from sweeps.tracking.tracker import MlflowTracker
from tests.cifar_core.transfer.support import small_backbone
from tests.sweeps import support
from tests.sweeps.small_data import SYNTHETIC

STUDY = "a study-adapted"
PRESET = replace(PRESETS["smoke"], final=Budget(flops=None, max_epochs=2))  # 3 steps


def adapt(
    store: Store,
    backbone: Backbone,
    stop: Callable[[], bool] = lambda: False,
    *,
    seed: int = 0,
    fine_tune: bool = False,
    test: bool = True,
) -> AdaptedResult:
    tracker = MlflowTracker(store, STUDY)
    try:
        return Adaptation(
            study=STUDY,
            plan=support.plan(preset=PRESET, seed=seed, confirm=test),
            backbone=backbone,
            fine_tune=fine_tune,
            data=SYNTHETIC,
            store=store,
            storage=open_storage(store.storage_url),
            tracker=tracker,
            console=SweepConsole(),
            tags={"data": "CIFAR-10", "data_sha256": CIFAR10.sha256},
            command="",
            stop=stop,
        ).run()
    finally:
        assert tracker.close() == 0


def states(store: Store) -> dict[str, str]:
    """Return the states of all runs of the study by key."""
    runs = runs_of(connect(store.tracking_uri), STUDY)
    return {run.data.tags["key"]: run.data.tags["state"] for run in runs}


@pytest.mark.slow
def test_study_resumes_and_its_network_is_tested_once(
    empty_store: Callable[[Path], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sweeps.stages.adaptation.TRIALS", 3)
    store, backbone = empty_store(tmp_path / "store"), small_backbone(tmp_path)
    asked = iter([False] * 3 + [True])  # two passes and one head
    with pytest.raises(Interrupted):
        adapt(store, backbone, lambda: next(asked))
    assert adapt(store, backbone, test=False).test_accuracy is None
    assert not store.test_set_evaluations.exists()
    assert champions(connect(store.tracking_uri)) == []
    [head] = store.weights_folder(STUDY).glob("*.safetensors")
    head.write_bytes(head.read_bytes()[:-1])  # the head is fitted again
    result = adapt(store, backbone)
    printed = capsys.readouterr().out
    assert printed.count("head 0:") == printed.count("head 1:") == printed.count("head 2:") == 1
    assert adapt(store, backbone) == result  # nothing is left to do
    assert "head" not in capsys.readouterr().out

    runs = {run.data.tags["key"]: run for run in runs_of(connect(store.tracking_uri), STUDY)}
    key = f"final-{result.trial}-0"
    assert set(runs) == {"study", "trial-0", "trial-1", "trial-2", key}
    assert {run.data.tags["state"] for run in runs.values()} == {"complete", "finished"}
    tested = metrics_of(runs[key])
    assert tested["test/accuracy"] == result.test_accuracy
    assert tested["test/accuracy"] > 0.15
    assert tested["cost/training_flops"] > 300 * 3e6
    assert tested["cost/model_bytes"] == store.weights(STUDY, key).stat().st_size
    assert max(metrics_of(runs[f"trial-{n}"])["val/accuracy"] for n in range(3)) == result.val_accuracy
    assert runs[key].data.tags["pretrained_on"] == ""
    assert runs[key].data.tags["mlflow.note.content"].split("\n\n")[1].startswith("Trained for ")
    assert tested["cost/study_seconds"] > tested["cost/seconds"] > 0
    assert "learnt from images that its file of weights does not name" in result.lines()[2]

    looks = [json.loads(line) for line in store.test_set_evaluations.read_text().splitlines()]
    assert [(look["study"], look["key"]) for look in looks] == [(STUDY, key)]
    [version] = champions(connect(store.tracking_uri))
    assert (version.run_id, version.tags["architecture"]) == (runs[key].info.run_id, "efficientnet_lite0")
    network = load_network(store.weights(STUDY, key)).network
    weights = str(sum(each.numel() for each in network.parameters()))
    assert {run.data.params["parameters"] for name, run in runs.items() if name != "study"} == {weights}
    assert [str(finding) for finding in findings(store, STUDY)] == []

    # A process that died between a look and its result: the next one must not take another network to the test set.
    again = empty_store(tmp_path / "again")
    monkeypatch.setattr("sweeps.stages.adaptation.TRIALS", 1)
    with monkeypatch.context() as dies:
        dies.setattr("sweeps.stages.adaptation.time_serving", lambda *_: next(iter(())))
        with pytest.raises(StopIteration):
            adapt(again, backbone)
    shutil.copytree(again.root, tmp_path / "other")
    capsys.readouterr()
    assert adapt(again, backbone, fine_tune=True).tuned_accuracy is None
    said = "efficientnet_lite0 is not fine-tuned: its head has been tested, and a study tests once"
    assert said in capsys.readouterr().out
    assert {json.loads(line)["key"] for line in again.test_set_evaluations.read_text().splitlines()} == {"final-0-0"}

    other = Store.locate(tmp_path / "other")  # a look of an earlier study of that name, which is gone
    record = other.test_set_evaluations.read_text()
    other.test_set_evaluations.write_text(record.replace(CIFAR10.sha256, "ab" * 32))
    assert adapt(other, backbone, fine_tune=True).tuned_accuracy is not None

    backbone.network.side = 48
    with pytest.raises(StudyError, match=r"was started with side 32, but got side 48; give it another name"):
        adapt(store, backbone)
    backbone.network.side = 32
    with pytest.raises(StudyError, match=r"was started with seed 0, but got seed 1; give it another name"):
        adapt(store, backbone, seed=1)


def test_a_sweep_of_that_name_is_named(empty_store: Callable[[Path], Store], tmp_path: Path) -> None:
    store = empty_store(tmp_path / "store")
    storage = open_storage(store.storage_url)
    open_study(support.plan(study=STUDY), storage)
    with pytest.raises(StudyError, match=r"^study 'a study-adapted' must be one that adapts a network, but it is a"):
        adapt(store, small_backbone(tmp_path))
    optuna.create_study(study_name="adapts", storage=storage).set_user_attr("adaptation", {})
    with pytest.raises(StudyError, match=r"^study 'adapts' must be a sweep, but it adapts a network; give it another"):
        open_study(support.plan(study="adapts"), storage)


def test_other_settings_can_be_refused_before_anything_is_trained(
    empty_store: Callable[[Path], Store], tmp_path: Path
) -> None:
    backbone, storage = small_backbone(tmp_path), open_storage(empty_store(tmp_path / "store").storage_url)
    settings = adaptation_settings(CIFAR10, backbone, "quick", 0)
    check_adaptation(storage, "new", settings)
    optuna.create_study(study_name="s-adapted", storage=storage).set_user_attr("adaptation", settings)
    check_adaptation(storage, "s-adapted", settings)
    with pytest.raises(StudyError, match=r"^study 's-adapted' was started with preset quick, but got preset smoke"):
        check_adaptation(storage, "s-adapted", adaptation_settings(CIFAR10, backbone, "smoke", 0))


def test_the_better_of_two_is_the_network() -> None:
    backbone = Backbone(name="resnet18", network=FeatureNetwork("resnet18"), sha256="", source="", pretrained_on="")
    head, tie, tuned = (AdaptedResult(backbone, 3, 0.8, accuracy) for accuracy in (None, 0.8, 0.9))
    assert [(each.key, each.val_accuracy) for each in (head, tie, tuned)] == [
        ("final-3-0", 0.8),
        ("final-3-0", 0.8),
        ("final-3-1", 0.9),
    ]
    assert head.lines()[0] == "resnet18, with a head fitted to all images: not tested"
    assert head.lines()[1] == "Validation accuracy: 80.00 % with the head of trial 3"
    assert replace(tuned, test_accuracy=0.875).lines()[:2] == (
        "resnet18, fine-tuned: 87.50 % test accuracy",
        "Validation accuracy: 80.00 % with the head of trial 3, 90.00 % fine-tuned from there",
    )


@pytest.mark.slow
def test_fine_tuning_resumes_and_its_network_is_tested_once(
    empty_store: Callable[[Path], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shifts = itertools.chain([1], itertools.repeat(0))  # the trial learns wrong labels, so fine-tuning is better

    def fitted(views: Sequence[Tensor], labels: Tensor, recipe: HeadRecipe, classes: int) -> Head:
        return fit(views, (labels + next(shifts)) % classes, recipe, classes)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sweeps.stages.adaptation.TRIALS", 1)
    monkeypatch.setattr("sweeps.stages.adaptation.fit", fitted)
    monkeypatch.setattr(TuningRecipe, "rate", lambda recipe, share: 0.0)  # random weights would only suffer
    store, backbone = empty_store(tmp_path / "store"), small_backbone(tmp_path)
    asked = iter([False] * 6 + [True])  # four passes, a head, before the fine-tuning, and after its first step
    with pytest.raises(Interrupted):
        adapt(store, backbone, lambda: next(asked), fine_tune=True)
    folder = store.checkpoints(STUDY, "tuning")
    assert (folder / "state.safetensors").exists()
    rule = "cannot resume: its activations must fit into half of the free memory, 0.0 GB, but have 0.0 GB; --no-fine-"
    with monkeypatch.context() as patch:
        patch.setattr("sweeps.stages.adaptation.free_memory", lambda: 1)
        patch.setattr(Splits, "everything", Mock(side_effect=AssertionError("images are copied where there is room")))
        with pytest.raises(StudyError, match=rule):
            adapt(store, backbone, fine_tune=True)
    shutil.copytree(store.root, tmp_path / "copy")
    shutil.copytree(store.root, tmp_path / "damaged")
    assert states(store) == {"study": "interrupted", "trial-0": "complete", "final-0-1": "interrupted"}
    capsys.readouterr()
    result = adapt(store, backbone, fine_tune=True)
    printed = capsys.readouterr().out
    assert (printed.count("head 0:"), printed.count("fine-tuning, epoch 1.3 of 2.0:")) == (0, 1)
    assert (result.tuned, folder.exists()) == (True, False)
    assert adapt(store, backbone, fine_tune=True) == result
    assert adapt(store, backbone) == result  # without fine-tuning now: it is there already

    damaged = Store.locate(tmp_path / "damaged")
    state = damaged.checkpoints(STUDY, "tuning") / "state.safetensors"
    facts, tensors = read_tensors(state)
    tensors = {name: torch.zeros_like(value) for name, value in tensors.items() if name != "generator"}
    write_tensors(state, facts, tensors)
    assert adapt(damaged, backbone, fine_tune=True, test=False).tuned_accuracy == result.tuned_accuracy
    assert "state.safetensors: it must be a state of this version" in (said := capsys.readouterr().out)
    assert "fine-tuning begins again\n" in said
    weights = damaged.weights(STUDY, "final-0-1")
    weights.write_bytes(weights.read_bytes()[:-1])
    ways = "bring that file back from a copy, or delete the run final-0-1 in MLflow and run make clean-store STORE="
    with pytest.raises(StudyError, match=rf"^{weights}: SHA-256 must be .*; {ways}{damaged.root}: then the same "):
        adapt(damaged, backbone, fine_tune=True)
    assert not damaged.test_set_evaluations.exists()

    without = Store.locate(tmp_path / "copy")
    assert not adapt(without, backbone).tuned
    capsys.readouterr()
    assert not adapt(without, backbone, fine_tune=True).tuned
    assert "is not fine-tuned: its fine-tuning failed before, or was given up" in capsys.readouterr().out
    assert states(without) == {
        "study": "finished",
        "trial-0": "complete",
        "final-0-1": "failed",
        "final-0-0": "complete",
    }

    runs = {run.data.tags["key"]: run for run in runs_of(connect(store.tracking_uri), STUDY)}
    assert set(runs) == {"study", "trial-0", "final-0-1"}
    run = runs["final-0-1"]
    tuned, first = metrics_of(run), metrics_of(runs["trial-0"])
    assert (tuned["val/accuracy"], tuned["test/accuracy"]) == (result.tuned_accuracy, result.test_accuracy)
    assert tuned["cost/training_flops"] > first["cost/training_flops"]
    assert tuned["cost/study_seconds"] > tuned["cost/tuning_seconds"] > 0
    assert (run.data.tags["stage"], run.data.tags["tuned_accuracy"]) == ("adapted", f"{result.tuned_accuracy:.4f}")
    looks = [json.loads(line) for line in store.test_set_evaluations.read_text().splitlines()]
    assert [look["key"] for look in looks] == [result.key]
    [version] = champions(connect(store.tracking_uri))
    assert (version.run_id, version.tags["val_accuracy"]) == (run.info.run_id, f"{result.val_accuracy:.4f}")
    assert [str(finding) for finding in findings(store, STUDY)] == []
