"""The real command on the real data: interrupted, finished, and asked for its state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from PIL import Image

from cifar_core.data.data_set import CIFAR10
from sweeps.run_study import main
from sweeps.states import STATE_OF_TRIAL, STATUS_OF_STATE
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import connect, runs_of

ROOT = Path(__file__).parents[1]
TRIALS = 3
STUDY = "epochs-0.15-narrow"
KB = 1000
# Every network of the space `full`, so narrow that a processor without matrix units trains it in seconds.
SPACE = """
description = "narrow networks"

[[hold]]
width = 0.125
label_smoothing = 0.2

[parameters.model]
choices = ["fast_resnet", "five_conv", "airbench", "vision_transformer", "wide_resnet"]

[parameters.optimizer]
choices = ["sgd", "muon"]
start = "muon"

[parameters.batch_size]
choices = [64, 128]
start = 128
"""


def options(store: Path, trials: int) -> list[str]:
    space = store.with_name("narrow.toml")
    space.write_text(SPACE)
    length = ["--trials", str(trials), "--space", str(space), "--epochs", "0.15"]
    return [*length, "--device", "cpu", "--store", str(store)]


def command(store: Path, trials: int) -> list[str]:
    return [sys.executable, "sweeps/run_study.py", *options(store, trials)]


def interrupt(store: Path) -> None:
    """Start a sweep of four trials, and press Ctrl-C as soon as the first of them runs."""
    process = subprocess.Popen(
        command(store, TRIALS + 1),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that the signal reaches every process of the sweep, as from a terminal
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if re.search(r"\b[1-9]\d* running", line):
                break
        os.killpg(process.pid, signal.SIGINT)
        said = "".join(lines) + process.stdout.read()
        assert process.wait() == 130, said
    finally:
        process.kill()
        process.stdout.close()
    assert "stopped; the same command resumes the sweep" in said.splitlines()[-2:]
    assert "Traceback" not in said


def run(store: Path) -> str:
    done = subprocess.run(
        command(store, TRIALS), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert "Warning" not in done.stdout
    return done.stdout


def curve(client: MlflowClient, run: Run, name: str) -> list[int]:
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
    assert len(set(steps)) == len(steps), f"{run.info.run_name} has doubled points"
    return sorted(steps)


def files(run: Run, store: Path) -> dict[str, Path]:
    folder = store / "artifacts" / STUDY / run.info.run_id / "artifacts"
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def looks(store: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (store / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()]


def check_search(trials: list[optuna.trial.FrozenTrial], runs: dict[str, Run], store: Path) -> None:
    for trial in trials:
        run = runs[f"trial-{trial.number}"]
        state, tags = STATE_OF_TRIAL[trial.state], run.data.tags
        assert (tags["state"], run.info.status) == (state, STATUS_OF_STATE[state])
        assert "stopped" not in tags.get("reason", "")
        assert (state == "complete") == ("reason" not in tags)
        assert (tags["stage"], tags["threads"]) == ("search", "1")
        assert tags["git_commit"]
        assert run.data.params["model"] == trial.user_attrs["recipe"]["model"]
        assert "recipe.toml" in files(run, store)


def check_complete(client: MlflowClient, run: Run, store: Path) -> None:
    steps = curve(client, run, "train/loss")
    assert len(steps) >= min(20, steps[-1])
    assert curve(client, run, "val/accuracy")[-1] == steps[-1]
    assert {f"val_class/{name}" for name in CIFAR10.classes} <= set(metrics_of(run))
    assert 0.05 < metrics_of(run)["val/accuracy"] < 1
    assert 0 < metrics_of(run)["cost/validation_share"] < 1
    left = {name: path for name, path in files(run, store).items() if not name.startswith("test/")}
    pictures = {f"pictures/{name}.png" for name in ("augmented", "classes", "confusion", "mistakes", "predictions")}
    assert set(left) == {"recipe.toml", "confusion.json", "predictions.csv", "summary.txt", "weakness.md"} | pictures
    assert sum(path.stat().st_size for path in left.values()) <= 400 * KB  # some 120 of predictions
    for name in pictures:
        with Image.open(left[name]) as picture:
            picture.verify()


def check_champion(client: MlflowClient, champion: Run, store: Path) -> None:
    assert {f"test_class/{name}" for name in CIFAR10.classes} <= set(metrics_of(champion))
    assert 0.2 < metrics_of(champion)["test/accuracy"] < 1
    assert metrics_of(champion)["test/tta_accuracy"] == pytest.approx(metrics_of(champion)["test/accuracy"], abs=0.1)
    assert champion.data.params["val_fraction"] == "0.0"
    assert not {name for name in metrics_of(champion) if name.startswith("val")}
    [kept] = client.search_logged_models([champion.info.experiment_id])
    assert kept.source_run_id == champion.info.run_id
    location = Path(kept.artifact_location.removeprefix("file://").replace("%20", " "))
    assert location.is_relative_to(store)
    answers = mlflow.pyfunc.load_model(str(location)).predict(np.zeros((3, 32, 32, 3), np.uint8))
    assert [len(answer["probabilities"]) for answer in answers] == [10, 10, 10]
    version = client.get_model_version_by_alias("cifar10", "champion")
    assert (version.run_id, version.tags["study"]) == (champion.info.run_id, STUDY)
    assert float(version.tags["test_accuracy"]) == pytest.approx(champion.data.metrics["test/accuracy"], abs=1e-4)


@pytest.mark.long
@pytest.mark.real_data
@pytest.mark.timeout(700)
def test_a_sweep_from_ctrl_c_to_its_champion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "my store"
    interrupt(store)
    said = run(store)

    storage = f"sqlite:///{store}/optuna.db"
    assert optuna.get_all_study_names(storage) == [STUDY]
    trials = optuna.load_study(study_name=STUDY, storage=storage).get_trials()
    states = Counter(trial.state for trial in trials)
    assert states.pop(TrialState.WAITING) == 2, "starting points of the space beyond the planned trials"
    trials = [trial for trial in trials if trial.state in states]
    assert sum(states.values()) == TRIALS
    assert set(states) <= set(STATE_OF_TRIAL), "no trial is left running"
    assert states[TrialState.COMPLETE] >= 1
    assert states[TrialState.FAIL] == 0
    complete, pruned = states[TrialState.COMPLETE], states[TrialState.PRUNED]
    assert f"Search: {complete} complete, {pruned} pruned, 0 failed; pruning saved " in said

    client = connect(f"sqlite:///{store}/mlflow.db")
    runs = {run.data.tags["key"]: run for run in runs_of(client, STUDY)}
    study = runs.pop("study")
    assert (study.info.status, study.data.tags["state"]) == ("FINISHED", "finished")
    assert 0 <= metrics_of(study)["study/saved_fraction"] < 1
    assert all(run.data.tags["mlflow.parentRunId"] == study.info.run_id for run in runs.values())
    confirmations = {key for key in runs if key.startswith("confirm-")}
    [final] = {key for key in runs if key.startswith("final-")}
    assert set(runs) - confirmations - {final} == {f"trial-{number}" for number in range(TRIALS)}
    assert "confirm-0-0" in confirmations, "the starting recipe, however it fared"
    assert len(confirmations) == 1 + sum(trial.state == TrialState.COMPLETE for trial in trials[1:])
    check_search(trials, runs, store)
    for one in runs.values():
        if one.data.tags["state"] == "complete" and one.data.tags["stage"] != "final":
            check_complete(client, one, store)

    tested = [one for one in runs.values() if "test/accuracy" in metrics_of(one)]
    best = max(confirmations, key=lambda key: metrics_of(runs[key])["val/accuracy"])
    chosen = best if metrics_of(study)["study/search_gain_low"] > 0 else "confirm-0-0"
    assert [one.data.tags["key"] for one in tested] == [final] == [chosen.replace("confirm", "final")]
    assert tested[0].data.tags["champion"] == "true"
    check_champion(client, tested[0], store)
    [look] = looks(store)
    assert (look["study"], look["key"]) == (STUDY, tested[0].data.tags["key"])
    accuracy = metrics_of(tested[0])["test/accuracy"]
    assert f"{100 * accuracy:.2f} % test accuracy" in said

    assert not list((store / "checkpoints").rglob("*.safetensors")), "checkpoints of runs that have ended"
    assert main([*options(store, TRIALS), "--status"]) == 0
    told = capsys.readouterr().out
    assert f"trials    3 started: {complete} complete" in re.sub(" {4,}", "    ", told)
    assert f"test          {100 * accuracy:.2f} %" in told
