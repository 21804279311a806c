"""A sweep whose workers and coordinator are killed ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from cifar_core.budget import affordable_watch
from cifar_core.checkpoint import load_weights
from cifar_core.data import load_train_val
from cifar_core.download import default_data_dir
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, train
from sweeps.plan import LOSS_POINTS, SEARCH_VALIDATIONS

ROOT = Path(__file__).parents[1]
TRIALS = 4
WORKER_KILLS, COORDINATOR_KILLS = 3, 2


def command(store: Path) -> list[str]:
    options = ["--trials", str(TRIALS), "--epochs", "0.04", "--space", "fast", "--no-confirm", "--keep-weights"]
    return [
        sys.executable,
        "sweeps/run_study.py",
        *options,
        *("--device", "cpu", "--pruner", "none", "--study", "torture", "--store", str(store)),
    ]


def workers(coordinator: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-ww", "--ppid", str(coordinator), "-o", "pid=,args="], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "worker_process" in line]


def disturb(store: Path, generator: random.Random, kills: Counter[str]) -> str | None:
    """Run the command once, killing what `kills` still asks for; returns what it printed once it came to its end."""
    with subprocess.Popen(
        command(store), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if not (re.search(r"\b[1-9]\d* running", line) and kills.total()):
                continue
            time.sleep(generator.uniform(0, 2))
            victim = generator.choice(list(kills.elements()))
            kills[victim] -= 1
            if victim == "coordinator":
                process.kill()
                break
            alive = workers(process.pid)
            if alive:
                os.kill(generator.choice(alive), signal.SIGKILL)
        rest = process.stdout.read()
    return None if process.returncode == -signal.SIGKILL else "".join(said) + rest


def undisturbed(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights that this recipe ends with when nobody is killed."""
    data, hardware = load_train_val(default_data_dir()), Hardware.detect("cpu")
    watch = affordable_watch(recipe, len(data.train), len(data.val), losses=LOSS_POINTS, validations=SEARCH_VALIDATIONS)
    state = TrainState.create(recipe, data, hardware)
    for _ in train(state, data, watch):
        pass
    return state.model.state_dict()


@pytest.mark.end_to_end
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_kills_leave_no_trace(tmp_path: Path) -> None:
    store = tmp_path / "store"
    generator = random.Random(0)
    kills = Counter(worker=WORKER_KILLS, coordinator=COORDINATOR_KILLS)
    said = None
    while said is None:
        said = disturb(store, generator, kills)
    assert "Traceback" not in said
    assert f"Search: {TRIALS} complete, 0 pruned, 0 failed" in said

    study = optuna.load_study(study_name="torture", storage=f"sqlite:///{store}/optuna.db")
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("torture")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'search'")
    by_key = {run.data.tags["key"]: run for run in runs}
    assert sorted(by_key) == sorted(f"trial-{trial.number}" for trial in trials)
    assert len(runs) == TRIALS, "no run is there twice"
    torch.set_num_threads(1)
    for trial in trials:
        run = by_key[f"trial-{trial.number}"]
        assert (run.data.tags["state"], run.info.status) == ("complete", "FINISHED")
        for name in ("train/loss", "val/accuracy"):
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps)), f"{name} of trial {trial.number} has doubled points"
        validated = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert sorted(metric.value for metric in validated) == sorted(trial.intermediate_values.values())
        assert trial.value == max(validated, key=lambda metric: metric.step).value
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        kept = load_weights(recipe, store / "weights" / "torture" / f"trial-{trial.number}.safetensors").state_dict()
        expected = undisturbed(recipe)
        assert all(torch.equal(kept[name], value) for name, value in expected.items()), f"trial {trial.number}"
    checked = subprocess.run([*command(store), "--verify"], cwd=ROOT, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "nothing found: databases, trials and files agree\n")
    assert not list((store / "checkpoints").rglob("*.safetensors"))
