"""Judge a sweep at its end from outside: by its databases, its weights and the ground truth."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from optuna.trial import TrialState

from cifar_core.checkpoint import load_weights
from cifar_core.data import Splits, load_train_val
from cifar_core.data.download import default_data_dir
from cifar_core.hardware import Hardware, set_up_cpu
from cifar_core.recipe import Recipe
from cifar_core.training import TrainState, train
from sweeps.planning.plan import eval_schedule
from sweeps.planning.presets import fixed_epochs


@dataclass(frozen=True, slots=True)
class Judgement:
    """The faults of a sweep, counted by kind."""

    trials: int
    acknowledged: int  # points in the ground truth
    lost: int  # of these, missing from Optuna or MLflow, or there with another value; and trials that lack points
    doubled: int  # points and runs that are there more than once
    stuck: int  # trials that are not complete, or whose run is not
    unequal: int  # trials whose weights differ from those of an undisturbed training

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.stuck + self.unequal


def judge(
    store: Path, study: str, truth: Path, tracking_uri: str | None = None, storage: str | None = None
) -> Judgement:
    trials = optuna.load_study(study_name=study, storage=storage or f"sqlite:///{store}/optuna.db").get_trials()
    trials = [trial for trial in trials if trial.state != TrialState.WAITING]  # the space's own starting points
    client = MlflowClient(tracking_uri or f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'search'", max_results=1000)
    keys = Counter(run.data.tags["key"] for run in runs)
    by_key = {run.data.tags["key"]: run for run in runs}
    acknowledged = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    lost, stuck, unequal = 0, 0, 0
    doubled = sum(count - 1 for count in keys.values())
    recipes = [Recipe.from_dict(trial.user_attrs["recipe"]) for trial in trials]
    data = load_train_val(default_data_dir())
    for trial, recipe in zip(trials, recipes, strict=True):
        expected, curve = undisturbed(recipe, data)
        key = f"trial-{trial.number}"
        run = by_key.get(key)
        if trial.state != TrialState.COMPLETE or run is None or run.info.status != "FINISHED":
            stuck += 1
            continue
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        accuracies = client.get_metric_history(run.info.run_id, "val/accuracy")
        doubled += _doubled(losses) + _doubled(accuracies)
        told = {metric.step: metric.value for metric in accuracies}
        points = [point for point in acknowledged if point["key"] == key]
        lost += sum(told.get(point["step"]) != point["accuracy"] for point in points)
        lost += sum(point["accuracy"] not in trial.intermediate_values.values() for point in points)
        lost += set(told.values()) != set(trial.intermediate_values.values())
        lost += {metric.step: metric.value for metric in losses} != curve
        weights = load_weights(recipe, store / "weights" / study / f"{key}.safetensors")
        unequal += digest(weights.state_dict()) != expected
    return Judgement(len(trials), len(acknowledged), lost, doubled, stuck, unequal)


def undisturbed(recipe: Recipe, data: Splits) -> tuple[str, dict[int, float]]:
    """Digest of the weights, and the training-loss curve by step, of this recipe when nobody disturbs it."""
    set_up_cpu(1)
    hardware = Hardware.detect("cpu")
    schedule = eval_schedule(fixed_epochs(recipe.epochs).trial_validations())
    state = TrainState.create(recipe, data, hardware)
    curve = {progress.step: progress.train_loss for progress in train(state, data, schedule)}
    return digest(state.model.state_dict()), curve


def digest(tensors: dict[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _doubled(history: list[Metric]) -> int:
    return len(history) - len({metric.step for metric in history})
