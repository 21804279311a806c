"""A small MLflow store as a sweep leaves it, with real pictures and JSON but without any training."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param
from PIL import Image

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.serving import Timing
from experiments.decision.facts import Facts, gather
from experiments.reading.load_study import read_study
from experiments.reading.published import load_published
from experiments.reading.scenario import Scenario, load_scenario
from experiments.reading.study_reader import StudyReader
from sweeps.store import Store
from sweeps.tracking.figures import split_figures

EASE = (0.01, 0.03, -0.04, -0.09, 0.0, -0.06, 0.03, 0.02, 0.05, 0.03)  # of each class against the mean
TIMINGS = (Timing(1, 0.004, 0.006, 200, 0.004), Timing(256, 0.16, 0.2, 12, 0.16))
START = 1_795_000_000_000  # 2026-11-18, in milliseconds


@dataclass(kw_only=True)
class Trial:
    state: str = "complete"
    accuracy: float = 0.8
    model: str = "fast_resnet"
    attempt: int = 0
    number: int | None = None


def sure_answers(accuracy: float) -> bytes:
    """10,000 answers that are surer than right: right by `accuracy`, and 3 points surer."""
    draw = random.Random(round(1e4 * accuracy))
    answers = []
    for _ in range(10_000):
        right = draw.random() < accuracy
        probability = draw.betavariate(6, 0.35) if right else draw.betavariate(3, 1.2)
        answers.append((right, min(0.9999, max(0.11, probability))))
    return _predictions(answers)


def nested_answers(accuracy: float) -> bytes:
    """1,000 answers. The first images of each class are right, so a better network is right where a worse one is."""
    return _predictions([(index // 10 < round(100 * accuracy), 0.9) for index in range(1000)])


def _predictions(answers: Sequence[tuple[bool, float]]) -> bytes:
    """The file of answers, each (right, probability), to images of the classes in turn."""
    rows = ["index,true,predicted,probability"]
    for index, (right, probability) in enumerate(answers):
        true, other = CIFAR10.classes[index % 10], CIFAR10.classes[(index + 1) % 10]
        rows.append(f"{index},{true},{true if right else other},{probability:.4f}")
    return "\n".join([*rows, ""]).encode()


@dataclass(kw_only=True)
class Blueprint:
    """A study to write."""

    name: str = "demo"
    trials: Sequence[Trial] = (
        Trial(accuracy=0.71, model="five_conv"),
        Trial(state="pruned", accuracy=0.35, model="wide_resnet"),
        Trial(state="failed", model="vision_transformer"),
        Trial(accuracy=0.84),
        Trial(state="pruned", accuracy=0.41),
        Trial(state="pruned", accuracy=0.22, model="vision_transformer"),
    )
    champion: Sequence[float] = (0.921, 0.925)  # test accuracy of each final run; empty: no confirmation
    state: str = "finished"
    start: int = START
    omit: Sequence[str] = ()  # artifacts that are not there
    answers: Callable[[float], bytes] = sure_answers
    experiment: str = ""  # its id, once it is written


class Fake:
    """Writes studies through MLflow's client, as a sweep would."""

    def __init__(self, folder: Path, blank: Path | None = None) -> None:
        self.folder, self.place = folder, Store.locate(folder)
        folder.mkdir(parents=True)
        if blank:
            shutil.copyfile(blank, folder / "mlflow.db")
        self.client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")

    def add(self, **fields: Any) -> str:
        """Write the study that a `Blueprint` of these fields describes; returns the id of its parent run."""
        plan = Blueprint(**fields)
        location = (self.folder / "artifacts" / plan.name.replace("/", "-")).as_uri()
        plan.experiment = self.client.create_experiment(plan.name, artifact_location=location)
        how = {"seed": "0", "preset": "quick", "space": "default"}
        tags = {"stage": "study", "key": "study", "state": plan.state, "workers": "2"} | how
        spent = {"search_flops": 3.1e14, "full_flops": 8.2e14, "confirm_flops": 7e14, "seconds": 1290.0}
        spent |= {"saved_fraction": 0.62}
        metrics = {f"study/{name}": value for name, value in spent.items() if plan.state == "finished"}
        files = {"pictures/samples.png": _picture(1)}
        params = {"trials": len(plan.trials)} | how
        parent = self._run(plan, plan.name, plan.start, tags, params, _metrics(metrics, plan.start), files)
        for index, trial in enumerate(plan.trials):
            self._trial(plan, parent, index if trial.number is None else trial.number, trial)
        if plan.champion:
            best = max((t.accuracy, i) for i, t in enumerate(plan.trials) if t.state == "complete")[1]
            self.client.set_tag(parent, "champion", str(best))
            for seed, accuracy in enumerate(plan.champion):
                self._confirm(plan, parent, best, seed, accuracy)
                self._final(plan, parent, best, seed, accuracy)
        if plan.state == "finished":
            self.client.set_terminated(parent, "FINISHED", end_time=plan.start + 1_290_000)
        return parent

    def _trial(self, plan: Blueprint, parent: str, number: int, trial: Trial) -> None:
        tags = {"mlflow.parentRunId": parent, "stage": "search", "state": trial.state, "key": f"trial-{number}"}
        tags |= {"trial": str(number), "attempt": str(trial.attempt)}
        if trial.state in ("pruned", "failed"):
            tags["reason"] = "below the rung's median" if trial.state == "pruned" else "loss is not finite"
        at = plan.start + 20_000 * number + 1000 * trial.attempt
        metrics, files = [], {}
        if trial.state == "complete":
            metrics = _curve(trial.accuracy, at, points=24) + _end(trial.accuracy, at, seconds=95)
            files = _validated(trial.accuracy)
        elif trial.state in ("pruned", "interrupted"):
            metrics = _curve(trial.accuracy, at, points=6)
        run = self._run(plan, f"trial {number}", at, tags, _recipe(trial.model, number), metrics, files)
        if status := {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}.get(trial.state):
            self.client.set_terminated(run, status, end_time=at + 18_000)

    def _confirm(self, plan: Blueprint, parent: str, trial: int, seed: int, accuracy: float) -> None:
        key, at, validated = f"confirm-{trial}-{seed}", plan.start + 700_000 + 250_000 * seed, accuracy + 0.004
        tags = {"mlflow.parentRunId": parent, "stage": "confirm", "state": "complete", "trial": key, "key": key}
        tags |= {"source_trial": str(trial), "seed": str(seed), "attempt": "0"}
        metrics = _curve(validated, at, points=40) + _end(validated, at, seconds=240 + seed)
        run = self._run(plan, key, at, tags, _recipe("fast_resnet", seed), metrics, _validated(validated))
        self.client.set_terminated(run, "FINISHED", end_time=at + 240_000)

    def _final(self, plan: Blueprint, parent: str, trial: int, seed: int, accuracy: float) -> None:
        key, at = f"final-{trial}-{seed}", plan.start + 1_000_000 + 250_000 * seed
        tags = {"mlflow.parentRunId": parent, "stage": "final", "state": "complete", "trial": key, "key": key}
        tags |= {"source_trial": str(trial), "seed": str(seed), "attempt": "0", "champion": "true"}
        trained = _curve(accuracy + 0.004, at, points=40) + _end(accuracy, at, seconds=240 + seed)
        metrics = [metric for metric in trained if not metric.key.startswith("val")]
        metrics += _metrics({"test/accuracy": accuracy, "test/loss": 0.31} | _by_class("test", accuracy), at)
        files = {"recipe.toml": _validated(accuracy)["recipe.toml"], **_tested(accuracy, plan.answers)}
        run = self._run(plan, key, at, tags, _recipe("fast_resnet", seed), metrics, files)
        model = self.client.create_logged_model(plan.experiment, "model", source_run_id=run)
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        self.client.set_terminated(run, "FINISHED", end_time=at + 240_000)
        look = {"time": "2026-11-18T10:00:00Z", "study": plan.name, "key": key, "data_sha256": CIFAR10.sha256}
        with (self.folder / "test_looks.jsonl").open("a") as file:
            file.write(json.dumps(look) + "\n")

    def _run(
        self,
        plan: Blueprint,
        name: str,
        at: int,
        tags: dict[str, str],
        params: Mapping[str, Any],
        metrics: Sequence[Metric],
        files: Mapping[str, bytes],
    ) -> str:
        tags |= {
            "study": plan.name, "device": "cpu", "precision": "bf16", "threads": "1", "torch": "2.13.0",
            "git_commit": "0f" * 20, "data_sha256": CIFAR10.sha256, "cpu": "processor of 2 cores",
        }  # fmt: skip
        curves, figures = split_figures({metric.key: metric.value for metric in metrics})
        run_id = str(self.client.create_run(plan.experiment, at, tags | figures, name).info.run_id)
        shown = [metric for metric in metrics if metric.key in curves]
        self.client.log_batch(run_id, shown, [Param(k, str(v)) for k, v in params.items()])
        self.put(run_id, {name: content for name, content in files.items() if name not in plan.omit})
        return run_id

    def put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Write artifacts of a run, by name."""
        root = Path(url2pathname(self.client.get_run(run_id).info.artifact_uri.removeprefix("file://")))
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def facts(self, name: str = "demo", scenario: Scenario | None = None) -> Facts:
        """The facts of a study, by default under the shipped scenario."""
        published = load_published()
        study = read_study(StudyReader(self.place), name)
        return gather(study, published, scenario or load_scenario(published), (), {}, None)


def _metrics(values: Mapping[str, float], at: int) -> list[Metric]:
    return [Metric(k, v, at, 0) for k, v in values.items()]


def _curve(accuracy: float, at: int, points: int) -> list[Metric]:
    noise = random.Random(points)
    rows = []
    for i in range(1, points + 1):
        t = i / points
        reached = accuracy * (1 - math.exp(-4 * t)) / (1 - math.exp(-4))
        values = {
            "train/loss": 2.3 * math.exp(-2.2 * t * accuracy) + noise.uniform(0, 0.05) + 0.4,
            "train/accuracy": reached - 0.02 + noise.uniform(-0.01, 0.01),
            "lr": min(t / 0.2, (1 - t) / 0.8),
        }
        if i % 4 == 0 or i == points:
            values |= {"val/loss": 2.3 * math.exp(-2.4 * t * accuracy) + 0.4, "val/accuracy": reached}
        rows += [Metric(k, v, at + 100 * i, 20 * i) for k, v in values.items()]
    return rows


def _by_class(split: str, accuracy: float) -> dict[str, float]:
    return {f"{split}_class/{name}": min(1.0, accuracy + e) for name, e in zip(CIFAR10.classes, EASE, strict=True)}


def _end(accuracy: float, at: int, seconds: float) -> list[Metric]:
    costs = {"seconds": seconds, "training_flops": 9e13, "epochs": 8.0, "images_per_second": 780.0}
    return _metrics(_by_class("val", accuracy) | {f"cost/{name}": value for name, value in costs.items()}, at)


def _recipe(model: str, seed: int) -> dict[str, Any]:
    return {
        "model": model, "width": 1.0, "batch_size": 512, "epochs": 8.0, "optimizer": "sgd", "learning_rate": 1.0,
        "label_smoothing": 0.2, "seed": seed, "parameters": 1_972_792, "trial_flops": 9e13,
    }  # fmt: skip


def _validated(accuracy: float) -> dict[str, bytes]:
    return {
        "recipe.toml": b'model = "fast_resnet"\nepochs = 8.0\nlearning_rate = 1.0\n',
        "confusion.json": _confusion(accuracy, 500),
        "pictures/mistakes.png": _picture(2),
    }


def _tested(accuracy: float, answers: Callable[[float], bytes]) -> dict[str, bytes]:
    prediction = {"index": 4242, "true": "cat", "predicted": "dog", "probability": 0.71}
    return {
        "test/confusion.json": _confusion(accuracy, 1000),
        "test/mistakes.png": _picture(3),
        "test/prediction.png": _picture(4),
        "test/prediction.json": json.dumps(prediction).encode(),
        "test/predictions.csv": answers(accuracy),
        "test/serving.json": json.dumps([asdict(timing) for timing in TIMINGS]).encode(),
    }


def _confusion(accuracy: float, per_class: int) -> bytes:
    """Confusions in which cats are mostly taken for dogs, birds for deer, and all rows add up."""
    matrix = []
    for true, ease in enumerate(EASE):
        wrong = per_class - round(per_class * min(1.0, accuracy + ease))
        row = [0] * 10
        row[true] = per_class - wrong
        row[(8, 9, 4, 5, 7, 3, 7, 8, 0, 1)[true]] += wrong // 2
        for step in range(wrong - wrong // 2):
            row[step % 9 + (step % 9 >= true)] += 1
        matrix.append(row)
    return json.dumps({"classes": CIFAR10.classes, "matrix": matrix}).encode()


def _picture(seed: int) -> bytes:
    """Coloured tiles, so that a picture is seen to be there; the same bytes for the same seed."""
    tiles = np.random.default_rng(seed).integers(0, 256, (9, 21, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tiles).resize((420, 180), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()
