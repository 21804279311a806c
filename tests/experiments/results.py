"""Result files of reproductions, as `reproduce.py` writes them, with synthetic numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_core.data.data_set import CIFAR10
from cifar_core.recipes import SYSTEMS, read_recipe
from experiments.reading.published import load_published
from experiments.reading.results import load_results
from experiments.systems.system import System, load_systems

RECIPES = {name: read_recipe(name).to_dict() for name in SYSTEMS}
PLANNED = {name: round(recipe["epochs"]) for name, recipe in RECIPES.items()}


def run_id(name: str, seed: int) -> str:
    return f"{SYSTEMS.index(name):04x}{seed:04x}" + "ab" * 12


def point(name: str, epoch: float, final: float) -> dict[str, Any]:
    """Curves that end at the accuracy `final`, with what was met at whole epochs alone."""
    share = 1 - math.exp(-9 * epoch / PLANNED[name])
    whole = epoch == int(epoch)
    return {
        "epoch": epoch,
        "step": round(epoch * 50_000 / RECIPES[name]["batch_size"]),
        "fraction": epoch / PLANNED[name],
        "train_loss": round(2.3 - 2.2 * share, 4),
        "train_accuracy": round((final + 0.02) * share, 4),
        "learning_rate": 0.01,
        "train_seconds": 12.5 * epoch,
        "validation_seconds": 0.5 * epoch,
        "val_loss": round(2.3 - 1.7 * share, 4) if whole else None,
        "val_accuracy": round(final * share / (1 - math.exp(-9)), 4) if whole else None,
        "group_accuracy": {},
    }


def confusion(right: Sequence[int]) -> list[list[int]]:
    """Counts of ten classes of 1,000 images, mistakes going to the next class."""
    rows = []
    for k, count in enumerate(right):
        row = [0] * 10
        row[k], row[(k + 1) % 10] = count, 1000 - count
        rows.append(row)
    return rows


def content(name: str, seed: int = 0, *, right: int = 8000, epochs: float | None = None, **changes: Any) -> Any:
    """The result of a run with `right` test images labelled right; of each class, a tenth."""
    planned = PLANNED[name]
    done = float(planned if epochs is None else epochs)
    watched = "validation" if name == "three_conv" else "test"
    points = [e + part for e in range(planned) for part in (0.64, 1.0) if e + part <= done]
    return {
        "schema": 1,
        "name": name,
        "seed": seed,
        "recipe": {**RECIPES[name], "seed": seed},
        "learning_rate_found": 0.0123 if name == "custom_resnet" else None,
        "epochs_planned": float(planned),
        "epochs_run": done,
        "watched": watched,
        "kept": "best" if name == "three_conv" else "last",
        "curve": [point(name, e, right / 10_000) for e in points],
        "test": {
            "accuracy": right / 10_000,
            "loss": 0.61,
            "images": 10_000,
            "class_accuracy": dict.fromkeys(CIFAR10.classes, right / 10_000),
            "confusion": confusion([right // 10] * 9 + [right // 10 + right % 10]),
        },
        "train_seconds": 12.5 * done,
        "wall_seconds": 13.5 * done,
        "training_flops": 1.2e15,
        "hardware": {"device": "cpu", "processor": "a processor of 2 cores", "precision": "bf16", "threads": 1},
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
        "commit": "0f" * 20,
        "data_sha256": "ab" * 32,
        "run_id": run_id(name, seed),
        "date": "2026-11-21",
        **changes,
    }


def write(folder: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-seed{seed}.json"
    path.write_text(json.dumps(content(name, seed, **changes)))
    return path


def systems(folder: Path) -> dict[str, System]:
    """The published systems with the results of a folder, by name."""
    return {s.name: s for s in load_systems(load_published(), load_results(folder))}


def system(folder: Path, name: str, *runs: dict[str, Any]) -> System:
    """A published system with a result for each seed, whose fields differ from those of `content` as `runs` say."""
    for seed, changes in enumerate(runs):
        write(folder, name, seed, **changes)
    return systems(folder)[name]
