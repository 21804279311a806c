"""Synthetic stores: studies of many runs without training."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
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

_START = 1_795_000_000_000  # milliseconds
_POINTS = 5  # of each curve


def fill_store(store: Store, runs: int, study: str = "many") -> None:
    """Create a store with a study of `runs` search trials and two runs of a champion, without training.

    A third of the trials is complete. Rows are written directly to MLflow's tables; its client would take an hour.
    """
    store.create()
    client = MlflowClient(store.tracking_uri)
    experiment = client.create_experiment(study, artifact_location=store.artifacts(study))
    tags = {
        "stage": "study", "study": study, "state": "finished", "device": "cpu", "precision": "bf16", "threads": "1",
        "workers": "2", "preset": "quick", "space": "full",
    }  # fmt: skip
    parent = client.create_run(experiment, start_time=_START, tags=tags, run_name=study).info.run_id
    for name, value in {"trials": runs, "preset": "quick", "space": "full", "seed": 0}.items():
        client.log_param(parent, name, value)
    for name, number in {"seconds": 1290.0, "search_flops": 3e14, "full_flops": 8e14, "saved_fraction": 0.62}.items():
        client.log_metric(parent, f"study/{name}", number)
    client.set_terminated(parent, "FINISHED", end_time=_START + 20 * runs)
    with contextlib.closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        for number in range(runs):
            _insert(database, store, experiment, study, parent, number, seed=None)
        for seed in range(2):
            _insert(database, store, experiment, study, parent, runs + seed, seed=seed)


def _insert(
    database: sqlite3.Connection, store: Store, experiment: str, study: str, parent: str, number: int, seed: int | None
) -> None:
    draw = random.Random(number)
    run_id = f"{draw.getrandbits(128):032x}"
    champion, complete = seed is not None, seed is not None or number % 3 == 0
    folder = store.root / "artifacts" / study / run_id / "artifacts"
    at = _START + 10 * number
    status = "FINISHED" if complete else "KILLED"
    database.execute(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
        "end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
        "VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', ?, ?, ?, '', 'active', ?, ?)",
        (run_id, f"trial {number}", status, at, at + 10, folder.as_uri(), int(experiment)),
    )
    recipe = Recipe(
        model=draw.choice(SPACES["full"].models),
        width=draw.choice((0.75, 1.0)),
        batch_size=draw.choice((64, 128, 256)),
        optimizer=draw.choice(("sgd", "adamw", "muon")),
        learning_rate=math.exp(draw.uniform(math.log(1e-3), math.log(1.0))),
        weight_decay=math.exp(draw.uniform(math.log(1e-4), math.log(1e-1))),
        label_smoothing=draw.uniform(0, 0.25),
        translate=draw.randrange(5),
        color_jitter=draw.uniform(0, 0.4),
        seed=number,
    )
    params = {**recipe.to_dict(), "parameters": 1_972_792, "trial_flops": 1.1e13, "flops_per_image": 2e9}
    database.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", [(k, str(v), run_id) for k, v in params.items()]
    )
    tags = {
        "mlflow.parentRunId": parent, "mlflow.runName": f"trial {number}", "mlflow.source.name": "sweeps/run_study.py",
        "mlflow.source.git.commit": "0f" * 20, "key": f"trial-{number}", "stage": "search", "study": study,
        "state": "complete" if complete else "pruned", "trial": str(number), "attempt": "1", "git_commit": "0f" * 20,
        "data_sha256": "ab" * 32, "device": "cpu", "precision": "bf16", "threads": "1", "torch": "2.13.0",
        "cpu": "a processor of 2 cores", "workers": "2", "preset": "quick", "space": "full",
    }  # fmt: skip
    if champion:
        tags |= {"stage": "confirm", "trial": f"confirm-0-{seed}", "source_trial": "0", "seed": str(seed)}
        tags |= {"champion": "true"}
    database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", [(k, v, run_id) for k, v in tags.items()]
    )
    reached = 0.9 - abs(draw.gauss(0, 0.08)) if complete else 0.3 + draw.uniform(0, 0.2)
    last = {"train/loss": 1 - reached / 2, "train/accuracy": reached, "lr": 0.01}
    last |= {"val/loss": 1 - reached / 2, "val/accuracy": reached}
    curve = [
        (key, value * (step + 1) / _POINTS, at + step, run_id, step, 0)
        for key, value in last.items()
        for step in range(_POINTS)
    ]
    end = {"cost/seconds": 30.0, "cost/training_flops": 1.1e13 if complete else 2e12, "cost/epochs": 2.0}
    end |= {"cost/images_per_second": 800.0, "cost/validation_share": 0.08}
    if complete:
        end |= {f"val_class/{name}": reached for name in CIFAR10.classes} | {
            f"val_group/{g}": reached for g in ("animals", "vehicles")
        }
    if champion:
        end |= {"test/accuracy": reached, "test/loss": 0.5} | {
            f"test_class/{name}": reached for name in CIFAR10.classes
        }
        _files(folder, draw)
    insert = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    database.executemany(insert, [*curve, *((key, value, at, run_id, 0, 0) for key, value in end.items())])
    database.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(key, value, at, run_id, _POINTS if key in last else 0) for key, value in {**last, **end}.items()],
    )


def _files(folder: Path, draw: random.Random) -> None:
    """Write confusion matrices and single predictions of a champion's run."""
    generator = torch.Generator().manual_seed(draw.getrandbits(32))
    labels = torch.arange(10_000) % len(CIFAR10.classes)
    scores = torch.randn(10_000, len(CIFAR10.classes), generator=generator) + 3 * F.one_hot(
        labels, len(CIFAR10.classes)
    )
    split = Split(torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8), labels)
    predictions = Predictions(scores.softmax(1), labels)
    files = artifacts.of_predictions(split, predictions) | artifacts.of_test(split, predictions)
    for name, content in {**files, "recipe.toml": Recipe().to_toml().encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
