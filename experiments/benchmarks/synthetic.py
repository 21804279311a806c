"""Synthetic stores: studies of many runs without training."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from mlflow import MlflowClient

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions
from cifar_core.recipe import Recipe
from sweeps.planning.space_file import SPACES
from sweeps.store import Store
from sweeps.tracking import artifacts
from sweeps.tracking.figures import split_figures

_START = 1_795_000_000_000  # milliseconds
_POINTS = 5  # of each curve


def fill_store(store: Store, runs: int, study: str = "many") -> None:
    """Create a store with a study of `runs` search trials, two confirmations and two finals, without training.

    A third of the trials is complete. Rows are written directly to MLflow's tables; its client would take an hour.
    """
    store.create()
    client = MlflowClient(store.tracking_uri)
    experiment = client.create_experiment(study, artifact_location=store.artifacts(study))
    tags = {
        "stage": "study", "key": "study", "study": study, "state": "finished", "device": "cpu", "precision": "bf16",
        "threads": "1", "workers": "2", "preset": "quick", "space": "full", "champion": "0",
    }  # fmt: skip
    parent = client.create_run(experiment, start_time=_START, tags=tags, run_name=study).info.run_id
    for name, value in {"trials": runs, "preset": "quick", "space": "full", "seed": 0}.items():
        client.log_param(parent, name, value)
    spent = {"seconds": 1290.0, "search_flops": 3e14, "full_flops": 8e14, "saved_fraction": 0.62}
    for name, text in split_figures({f"study/{name}": value for name, value in spent.items()})[1].items():
        client.set_tag(parent, name, text)
    client.set_terminated(parent, "FINISHED", end_time=_START + 20 * runs)
    with contextlib.closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        many = _Study(database, store, experiment, study, parent)
        for number in range(runs):
            _insert(many, number, f"trial-{number}", {"stage": "search"}, "complete" if number % 3 == 0 else "pruned")
        for seed in range(2):
            again = {"source_trial": "0", "seed": str(seed)}
            _insert(many, runs + seed, f"confirm-0-{seed}", {"stage": "confirm"} | again)
            _insert(many, runs + 2 + seed, f"final-0-{seed}", {"stage": "final", "champion": "true"} | again)


@dataclass(frozen=True)
class _Study:
    """The study that runs are inserted into."""

    database: sqlite3.Connection
    store: Store
    experiment: str
    name: str
    parent: str


def _insert(study: _Study, number: int, key: str, tags: Mapping[str, str], state: str = "complete") -> None:
    """Insert the run `number` of a study; a final has its test in place of a validation."""
    draw = random.Random(number)
    run_id = f"{draw.getrandbits(128):032x}"
    folder = study.store.root / "artifacts" / study.name / run_id / "artifacts"
    at, name = _START + 10 * number, key.replace("-", " ")
    study.database.execute(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
        "end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
        "VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', ?, ?, ?, '', 'active', ?, ?)",
        (
            *(run_id, name, "FINISHED" if state == "complete" else "KILLED", at, at + 10),
            *(folder.as_uri(), int(study.experiment)),
        ),
    )
    params = {**_recipe(draw, number).to_dict(), "parameters": 1_972_792, "trial_flops": 1.1e13, "flops_per_image": 2e9}
    study.database.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", [(k, str(v), run_id) for k, v in params.items()]
    )
    whole = {
        "mlflow.parentRunId": study.parent, "mlflow.runName": name, "mlflow.source.name": "sweeps/run_study.py",
        "mlflow.source.git.commit": "0f" * 20, "key": key, "study": study.name, "state": state,
        "trial": str(number) if key.startswith("trial") else key, "attempt": "1", "git_commit": "0f" * 20,
        "data_sha256": "ab" * 32, "device": "cpu", "precision": "bf16", "threads": "1", "torch": "2.13.0",
        "cpu": "a processor of 2 cores", "workers": "2", "preset": "quick", "space": "full", **tags,
    }  # fmt: skip
    curves, end = _metrics(draw, complete=state == "complete", stage=tags["stage"])
    last, figures = split_figures(end)
    whole |= figures
    study.database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", [(k, v, run_id) for k, v in whole.items()]
    )
    _insert_metrics(study.database, run_id, at, curves, last)
    if tags["stage"] == "final":
        _files(folder, draw)


def _recipe(draw: random.Random, seed: int) -> Recipe:
    return Recipe(
        model=draw.choice(SPACES["full"].models),
        width=draw.choice((0.75, 1.0)),
        batch_size=draw.choice((64, 128, 256)),
        optimizer=draw.choice(("sgd", "adamw", "muon")),
        learning_rate=math.exp(draw.uniform(math.log(1e-3), math.log(1.0))),
        weight_decay=math.exp(draw.uniform(math.log(1e-4), math.log(1e-1))),
        label_smoothing=draw.uniform(0, 0.25),
        translate=draw.randrange(5),
        color_jitter=draw.uniform(0, 0.4),
        seed=seed,
    )


def _metrics(draw: random.Random, *, complete: bool, stage: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the last values of the curves of a run, and the metrics that it ends with."""
    reached = 0.9 - abs(draw.gauss(0, 0.08)) if complete else 0.3 + draw.uniform(0, 0.2)
    last = {"train/loss": 1 - reached / 2, "train/accuracy": reached, "lr": 0.01}
    end = {"cost/seconds": 30.0, "cost/training_flops": 1.1e13 if complete else 2e12, "cost/epochs": 2.0}
    end |= {"cost/images_per_second": 800.0, "cost/validation_share": 0.08}
    if stage == "final":
        end |= {"test/accuracy": reached, "test/loss": 0.5}
        end |= {f"test_class/{name}": reached for name in CIFAR10.classes}
    else:
        last |= {"val/loss": 1 - reached / 2, "val/accuracy": reached}
        names = [f"val_class/{name}" for name in CIFAR10.classes] + ["val_group/animals", "val_group/vehicles"]
        end |= dict.fromkeys(names, reached) if complete else {}
    return last, end


def _insert_metrics(
    database: sqlite3.Connection, run_id: str, at: int, curves: Mapping[str, float], end: Mapping[str, float]
) -> None:
    """Insert curves, by their last values, and metrics of the end of a run."""
    curve = [
        (key, value * (step + 1) / _POINTS, at + step, run_id, step, 0)
        for key, value in curves.items()
        for step in range(_POINTS)
    ]
    insert = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    database.executemany(insert, [*curve, *((key, value, at, run_id, 0, 0) for key, value in end.items())])
    database.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(key, value, at, run_id, _POINTS - 1 if key in curves else 0) for key, value in {**curves, **end}.items()],
    )


def _files(folder: Path, draw: random.Random) -> None:
    """Write the recipe, confusion matrix and single predictions of a final run."""
    generator = torch.Generator().manual_seed(draw.getrandbits(32))
    labels = torch.arange(10_000) % len(CIFAR10.classes)
    scores = torch.randn(10_000, len(CIFAR10.classes), generator=generator) + 3 * F.one_hot(
        labels, len(CIFAR10.classes)
    )
    split = Split(torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8), labels)
    predictions = Predictions(scores.softmax(1), labels)
    files = artifacts.of_test(split, predictions)
    for name, content in {**files, "recipe.toml": Recipe().to_toml().encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
