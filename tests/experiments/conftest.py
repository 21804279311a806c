"""A small MLflow store as a sweep leaves it, with real pictures and JSON but without any training."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param
from PIL import Image

from cifar_core.evaluation.serving import Timing
from experiments.decision.measures import Measures, measure
from experiments.reading.published import Published, load_published
from experiments.reading.scenario import Scenario, load_scenario
from experiments.reading.studies import Reader
from sweeps.store import Store

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EASE = (0.01, 0.03, -0.04, -0.09, 0.0, -0.06, 0.03, 0.02, 0.05, 0.03)  # of each class against the mean
TIMINGS = (Timing(1, 0.004, 0.006, 200), Timing(256, 0.16, 0.2, 12))
START = 1_795_000_000_000  # 2026-11-18, in milliseconds


@dataclass(kw_only=True)
class Trial:
    state: str = "complete"
    accuracy: float = 0.8
    model: str = "fast_resnet"
    attempt: int = 0
    number: int | None = None


@dataclass(kw_only=True)
class Blueprint:
    """What a study is to look like."""

    name: str = "demo"
    trials: Sequence[Trial] = (
        Trial(accuracy=0.71, model="five_conv"),
        Trial(state="pruned", accuracy=0.35, model="wide_resnet"),
        Trial(state="failed", model="vision_transformer"),
        Trial(accuracy=0.84),
        Trial(state="pruned", accuracy=0.41),
        Trial(state="pruned", accuracy=0.22, model="vision_transformer"),
    )
    champion: Sequence[float] = (0.921, 0.925)  # test accuracy of each run; empty: no confirmation
    tested: bool = True
    state: str = "finished"
    device: str = "cpu"
    seconds: float | None = 1290.0
    saved: float | None = 0.62
    start: int = START
    omit: Sequence[str] = field(default_factory=tuple)  # artifacts that are not there


class Fake:
    """Writes studies through MLflow's client, as a sweep would."""

    def __init__(self, folder: Path, blank: Path | None = None) -> None:
        self.folder, self.place = folder, Store.locate(folder)
        folder.mkdir(parents=True)
        if blank:
            shutil.copyfile(blank, folder / "mlflow.db")
        self.client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")

    trial = Trial

    def add(self, **fields: Any) -> str:
        """Write the study that a `Blueprint` of these fields describes; returns the id of its parent run."""
        plan = Blueprint(**fields)
        location = (self.folder / "artifacts" / plan.name.replace("/", "-")).as_uri()
        experiment = self.client.create_experiment(plan.name, artifact_location=location)
        tags = {
            "stage": "study", "study": plan.name, "seed": "0", "preset": "quick", "space": "default",
            "device": plan.device, "precision": "bf16", "threads": "1", "workers": "2",
            "git_commit": "0f" * 20, "data_sha256": "ab" * 32, "torch": "2.13.0",
            "cpu": "processor of 2 cores", "state": plan.state,
        }  # fmt: skip
        params: dict[str, Any] = {
            "trials": len(plan.trials),
            "preset": "quick",
            "space": "default",
            "seed": 0,
        }
        metrics = {"study/search_flops": 3.1e14, "study/full_flops": 8.2e14, "study/confirm_flops": 7e14}
        metrics |= {} if plan.seconds is None else {"study/seconds": plan.seconds}
        metrics |= {} if plan.saved is None else {"study/saved_fraction": plan.saved}
        if plan.state != "finished":
            metrics = {}
        parent = self._run(experiment, plan.name, tags, params, metrics, plan.start)
        self._files(parent, {"pictures/samples.png": _picture(1, 420, 180)}, plan.omit)
        for index, trial in enumerate(plan.trials):
            self._trial(plan, experiment, parent, index if trial.number is None else trial.number, trial)
        for seed, accuracy in enumerate(plan.champion):
            self._confirm(plan, experiment, parent, seed, accuracy)
        if plan.state == "finished":
            self.client.set_terminated(parent, "FINISHED", end_time=plan.start + 1_290_000)
        return parent

    def _trial(self, plan: Blueprint, experiment: str, parent: str, number: int, trial: Trial) -> None:
        tags = _child_tags(plan, parent, "search", trial.state) | {
            "trial": str(number),
            "attempt": str(trial.attempt),
            "key": f"trial-{number}",
        }
        if trial.state in ("pruned", "failed"):
            tags["reason"] = "below the rung's median" if trial.state == "pruned" else "loss is not finite"
        start = plan.start + 20_000 * number + 1000 * trial.attempt
        accuracy = None if trial.state in ("failed", "running") else trial.accuracy
        run = self._run(experiment, f"trial {number}", tags, _recipe(trial.model, number), {}, start)
        if accuracy is not None:
            self._curve(run, accuracy, start, points=24 if trial.state == "complete" else 6)
        if trial.state == "complete":
            self._end(run, trial.accuracy, start, seconds=95)
            self._files(run, _artifacts(trial.accuracy, 500, ""), plan.omit)
        if trial.state not in ("running", "interrupted"):
            status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial.state]
            self.client.set_terminated(run, status, end_time=start + 18_000)

    def _confirm(self, plan: Blueprint, experiment: str, parent: str, seed: int, accuracy: float) -> None:
        best = max((t.accuracy, i) for i, t in enumerate(plan.trials) if t.state == "complete")[1]
        tags = _child_tags(plan, parent, "confirm", "complete")
        tags |= {"source_trial": str(best), "seed": str(seed), "champion": "true", "attempt": "0"}
        tags["trial"] = tags["key"] = f"confirm-{best}-{seed}"
        start = plan.start + 700_000 + 250_000 * seed
        run = self._run(experiment, f"confirm {best} seed {seed}", tags, _recipe("fast_resnet", seed), {}, start)
        self._curve(run, accuracy + 0.004, start, points=40)
        self._end(run, accuracy + 0.004, start, seconds=240 + seed)
        self._files(run, _artifacts(accuracy + 0.004, 500, ""), plan.omit)
        model = self.client.create_logged_model(experiment, "model", source_run_id=run)
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        if plan.tested:
            ours = {"test/accuracy": accuracy, "test/loss": 0.31}
            ours |= {f"test_class/{c}": min(1.0, accuracy + e) for c, e in zip(CLASSES, EASE, strict=True)}
            self._log(run, ours, start)
            self._files(run, _artifacts(accuracy, 1000, "test/"), plan.omit)
            look = {"time": "2026-11-18T10:00:00Z", "study": plan.name, "run_id": run, "accuracy": accuracy}
            with (self.folder / "test_looks.jsonl").open("a") as file:
                file.write(json.dumps({**look, "images": 10_000}) + "\n")
        self.client.set_terminated(run, "FINISHED", end_time=start + 240_000)

    def _run(
        self,
        experiment: str,
        name: str,
        tags: dict[str, str],
        params: dict[str, Any],
        metrics: dict[str, float],
        at: int,
    ) -> str:
        run_id = str(self.client.create_run(experiment, start_time=at, tags=tags, run_name=name).info.run_id)
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        self._log(run_id, metrics, at)
        return run_id

    def _log(self, run_id: str, metrics: dict[str, float], at: int) -> None:
        self.client.log_batch(run_id, metrics=[Metric(k, v, at, 0) for k, v in metrics.items()])

    def _curve(self, run_id: str, accuracy: float, at: int, points: int) -> None:
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
        self.client.log_batch(run_id, metrics=rows)

    def _end(self, run_id: str, accuracy: float, at: int, seconds: float) -> None:
        metrics = {f"val_class/{c}": min(1.0, accuracy + e) for c, e in zip(CLASSES, EASE, strict=True)}
        metrics |= {"cost/seconds": seconds, "cost/training_flops": 9e13, "cost/epochs": 8.0}
        self._log(run_id, metrics | {"cost/images_per_second": 780.0}, at)

    def _files(self, run_id: str, files: dict[str, bytes], omit: Sequence[str]) -> None:
        root = Path(self.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
        for name, content in files.items():
            if name not in omit:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)

    def measures(self, name: str, published: Published | None = None, scenario: Scenario | None = None) -> Measures:
        outside = published or load_published()
        return measure(Reader(self.place).read(name), outside, scenario or load_scenario(outside))


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("blank") / "mlruns"
    Fake(folder).client.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Fake:
    """A store with three studies: `demo` (whole, the most recent), `unconfirmed` and `interrupted`."""
    made = Fake(tmp_path_factory.mktemp("store") / "mlruns", blank)
    made.add(name="unconfirmed", champion=(), start=START - 90_000_000)
    half = (Trial(accuracy=0.6), Trial(state="running"), Trial(state="interrupted", accuracy=0.3))
    made.add(name="interrupted", trials=half, champion=(), state="interrupted", start=START - 80_000_000)
    made.add()
    return made


@pytest.fixture
def fresh_store(tmp_path: Path, blank: Path) -> Fake:
    """An empty store, for a test that wants a study of its own."""
    return Fake(tmp_path / "mlruns", blank)


@pytest.fixture(scope="session")
def rivals(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Fake:
    """A store with studies that confirmed one run (`good`, `level`, `bad`) or two (`twice`, `again`), each with its
    answers to 1,000 test images, and one that confirmed none (`searched`)."""
    made = Fake(tmp_path_factory.mktemp("rivals") / "mlruns", blank)
    accuracies = {"good": (0.92,), "level": (0.918,), "bad": (0.8,), "twice": (0.92, 0.922), "again": (0.85, 0.853)}
    trials = (Trial(accuracy=0.71, model="five_conv"), Trial(state="pruned", accuracy=0.35), Trial(accuracy=0.84))
    for index, (name, champion) in enumerate({**accuracies, "searched": ()}.items()):
        made.add(name=name, trials=trials, champion=champion, start=START - 10_000_000 * index)
    champions = made.client.search_runs(
        [e.experiment_id for e in made.client.search_experiments()], "tags.champion = 'true'"
    )
    for run in champions:
        made._files(run.info.run_id, {"test/predictions.csv": _predictions(run.data.metrics["test/accuracy"])}, ())
    return made


def _predictions(accuracy: float) -> bytes:
    """1,000 test images, a hundred of each class in turn: the first of a class are right, and a few hard ones never."""
    lines = ["index,true,predicted,probability"]
    for index in range(1000):
        true, nth = CLASSES[index % 10], index // 10
        right = nth < round(100 * accuracy)
        lines.append(f"{index},{true},{true if right else CLASSES[(index + 1) % 10]},0.9")
    return "\n".join(lines).encode()


def _child_tags(plan: Blueprint, parent: str, stage: str, state: str) -> dict[str, str]:
    return {
        "mlflow.parentRunId": parent, "stage": stage, "study": plan.name, "state": state,
        "git_commit": "0f" * 20, "data_sha256": "ab" * 32, "threads": "1", "device": plan.device,
        "precision": "bf16", "torch": "2.13.0", "cpu": "processor of 2 cores",
    }  # fmt: skip


def _recipe(model: str, seed: int) -> dict[str, Any]:
    recipe = {
        "model": model,
        "width": 1.0,
        "batch_size": 512,
        "epochs": 8.0,
        "optimizer": "sgd",
        "learning_rate": 1.0,
    }
    return recipe | {"label_smoothing": 0.2, "seed": seed, "parameters": 1_972_792, "trial_flops": 9e13}


def _artifacts(accuracy: float, per_class: int, folder: str) -> dict[str, bytes]:
    confusion = json.dumps({"classes": CLASSES, "matrix": _matrix(accuracy, per_class)}).encode()
    if folder:
        prediction = {"index": 4242, "true": "cat", "predicted": "dog", "probability": 0.71}
        return {
            "test/confusion.json": confusion,
            "test/mistakes.png": _picture(3, 420, 180),
            "test/prediction.png": _picture(4, 160, 160),
            "test/prediction.json": json.dumps(prediction).encode(),
            "test/predictions.csv": _answers(accuracy),
            "test/serving.json": json.dumps([asdict(timing) for timing in TIMINGS]).encode(),
        }
    return {
        "recipe.toml": b'model = "fast_resnet"\nepochs = 8.0\nlearning_rate = 1.0\n',
        "confusion.json": confusion,
        "pictures/mistakes.png": _picture(2, 420, 180),
    }


def _answers(accuracy: float) -> bytes:
    """10,000 answers that are surer than right: right by `accuracy`, and 3 points surer."""
    draw = random.Random(round(1e4 * accuracy))
    rows = []
    for index in range(10_000):
        true = CLASSES[index % 10]
        right = draw.random() < accuracy
        probability = min(0.9999, max(0.11, draw.betavariate(6, 0.35) if right else draw.betavariate(3, 1.2)))
        rows.append(f"{index},{true},{true if right else CLASSES[(index + 1) % 10]},{probability:.4f}")
    return "\n".join(["index,true,predicted,probability", *rows, ""]).encode()


def _matrix(accuracy: float, per_class: int) -> list[list[int]]:
    """Confusions in which cats are mostly taken for dogs, birds for deer, and all rows add up."""
    rows = []
    for true, ease in enumerate(EASE):
        right = round(per_class * min(1.0, accuracy + ease))
        row = [0] * 10
        row[true] = right
        favourite = {3: 5, 5: 3, 2: 4, 4: 7, 0: 8, 8: 0, 1: 9, 9: 1}.get(true, (true + 1) % 10)
        wrong = per_class - right
        row[favourite] += wrong // 2
        for step in range(wrong - wrong // 2):
            row[[j for j in range(10) if j != true][step % 9]] += 1
        rows.append(row)
    return rows


def _picture(seed: int, width: int, height: int) -> bytes:
    """Coloured tiles, so that a picture is seen to be there; the same bytes for the same seed."""
    image = Image.new("RGB", (width // 20, height // 20))
    digest = b"".join(hashlib.sha256(bytes([seed, i])).digest() for i in range(32))
    image.putdata([tuple(digest[(3 * k) % 1000 : (3 * k) % 1000 + 3]) for k in range(image.width * image.height)])
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()
