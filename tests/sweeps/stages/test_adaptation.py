"""Adapting a pretrained network as a study: resumed, recorded, tested once and registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_core.budget import Budget
from cifar_core.data.data_set import CIFAR10
from cifar_core.transfer.adapted import load_network
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.tuning import TuningRecipe
from sweeps.checks.verify import findings
from sweeps.console import SweepConsole
from sweeps.stages.adaptation import Adaptation, AdaptedResult, Stopped
from sweeps.store import Store
from sweeps.study import StudyError, open_storage
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.registry import champions
from sweeps.tracking.tracker import MlflowTracker
from tests.cifar_core.transfer.support import small_backbone
from tests.sweeps.small_data import CPU, SYNTHETIC

STUDY = "a study-adapted"


BUDGET = Budget(flops=None, max_epochs=1)  # 2 steps


def adapt(
    store: Store, backbone: Backbone, stop: Callable[[], bool] = lambda: False, budget: Budget | None = None
) -> AdaptedResult:
    tracker = MlflowTracker(store, STUDY)
    try:
        return Adaptation(
            study=STUDY,
            backbone=backbone,
            data=SYNTHETIC,
            data_set=CIFAR10,
            hardware=CPU,
            seed=0,
            store=store,
            storage=open_storage(store.storage_url),
            tracker=tracker,
            console=SweepConsole(),
            tags={"data": "CIFAR-10"},
            budget=budget,
            stop=stop,
        ).run()
    finally:
        assert tracker.close() == 0


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
    asked = iter([False] * 5 + [True])  # four passes and one head
    with pytest.raises(Stopped):
        adapt(store, backbone, lambda: next(asked))
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
    assert tested["cost/study_seconds"] > tested["cost/seconds"] > 0
    assert "learnt from images that its file does not name" in str(result)

    looks = [json.loads(line) for line in store.test_set_evaluations.read_text().splitlines()]
    assert [(look["study"], look["key"]) for look in looks] == [(STUDY, key)]
    [version] = champions(connect(store.tracking_uri))
    assert (version.run_id, version.tags["architecture"]) == (runs[key].info.run_id, "efficientnet_lite0")
    load_network({}, store.weights(STUDY, key))
    assert [str(finding) for finding in findings(store, STUDY)] == []

    backbone.network.side = 48
    with pytest.raises(StudyError, match=r"was started with .*'side': 32.*but got .*'side': 48"):
        adapt(store, backbone)


@pytest.mark.slow
def test_the_fine_tuned_network_is_tested_if_it_is_better_and_fine_tuning_resumes(
    empty_store: Callable[[Path], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sweeps.stages.adaptation.TRIALS", 1)
    store, backbone = empty_store(tmp_path / "store"), small_backbone(tmp_path)
    asked = iter([False] * 9 + [True])  # seven passes, a head, before the fine-tuning, and after its first step
    with pytest.raises(Stopped):
        adapt(store, backbone, lambda: next(asked), BUDGET)
    folder = store.checkpoints(STUDY, "tuning")
    assert (folder / "state.safetensors").exists()
    monkeypatch.setattr(TuningRecipe, "rate", lambda recipe, share: 0.0)  # the network stays as it was
    result = adapt(store, backbone, budget=BUDGET)
    printed = capsys.readouterr().out
    assert printed.count("fine-tuning, epoch 1.3 of 1.0:") == 1
    assert not folder.exists()
    assert adapt(store, backbone, budget=BUDGET) == result

    runs = {run.data.tags["key"]: run for run in runs_of(connect(store.tracking_uri), STUDY)}
    assert set(runs) == {"study", "trial-0", "final-0-1"} | ({"final-0-0"} if not result.tuned else set())
    tuned = metrics_of(runs["final-0-1"])
    assert tuned["val/accuracy"] == result.tuned_accuracy
    assert tuned["cost/training_flops"] > metrics_of(runs["trial-0"])["cost/training_flops"]
    assert runs[result.key].data.tags["tuned_accuracy"] == f"{result.tuned_accuracy:.4f}"
    looks = [json.loads(line) for line in store.test_set_evaluations.read_text().splitlines()]
    assert [look["key"] for look in looks] == [result.key]
    assert [str(finding) for finding in findings(store, STUDY)] == []
