"""Helpers for tests of sweeps: a plan, points and outcomes, and a tracker in memory."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cifar_core.data.data_set import CIFAR10
from cifar_core.training import Progress
from sweeps.executors.protocol import Outcome
from sweeps.planning.plan import Plan
from sweeps.planning.presets import PRESETS
from sweeps.planning.space_file import SPACES
from sweeps.store import Store
from sweeps.tracking.figures import figures_of
from sweeps.tracking.mlflow_queue import Entry, MlflowQueue
from sweeps.tracking.mlflow_sender import MlflowSender
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.sweeps.small_data import CPU

STUDY = RunLabel(key="study", name="s", tags={"stage": "study"}, params={})


def plan(**changes: Any) -> Plan:
    """A plan of a small sweep on the CPU."""
    whole = Plan(
        study="s",
        trials=10,
        space=SPACES["fast"],
        preset=PRESETS["smoke"],
        seed=0,
        sampler="random",
        pruner="none",
        confirm=True,
        data_set=CIFAR10,
        hardware=CPU,
        workers=2,
        threads=1,
        cores=2,
        flops_per_second=1e12,
    )
    return replace(whole, **changes)


def outcome(accuracy: float = 0.5, files: Mapping[str, bytes] = {}) -> Outcome:
    accuracies = {f"class/{name}": accuracy for name in CIFAR10.classes}
    return Outcome(loss=1.0, accuracy=accuracy, accuracies=accuracies, files=dict(files))


def point(step: int, val_accuracy: float | None = None, *, steps: int = 8, epoch: float | None = None) -> Progress:
    """A point of a run of `steps` steps."""
    return Progress(
        step=step,
        fraction=step / steps,
        epoch=2 * step / steps if epoch is None else epoch,
        train_loss=2.0 / step,
        train_accuracy=0.5,
        learning_rate=0.1 * step,
        train_seconds=step * 0.09,
        validation_seconds=step * 0.01,
        val_loss=None if val_accuracy is None else 1.0,
        val_accuracy=val_accuracy,
    )


@dataclass(slots=True)
class MemoryRun:
    """A run as MLflow would have it."""

    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)  # of the training curve
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    models: list[Path] = field(default_factory=list)  # weights of the networks that were logged
    version: Mapping[str, str] | None = None  # tags of it in the model registry

    @property
    def state(self) -> str:
        return self.tags["state"]

    @property
    def reason(self) -> str:
        return self.tags.get("reason", "")


class MemoryTracker(MlflowTracker):
    """A tracker whose entries stay in memory; it serves one process after another."""

    def __init__(self) -> None:
        super().__init__(Store.locate(Path("/nowhere")), "s")
        self._everything: dict[str, MemoryRun] = {}

    @property
    def study(self) -> MemoryRun:
        return self._everything["study"]

    @property
    def runs(self) -> dict[str, MemoryRun]:
        return {key: run for key, run in self._everything.items() if key != "study"}

    def open(self) -> None:
        self._sender = _Memory(self._everything)

    def recorded(self, key: str) -> int:
        return self._step.get(key, 0)

    def artifact(self, key: str, path: str) -> bytes | None:
        return self._everything[key].files.get(path) if key in self._everything else None


class _Memory(MlflowSender):
    def __init__(self, runs: dict[str, MemoryRun]) -> None:
        self._runs = runs

    def put(self, entry: Entry, *, sync: bool) -> None:
        run = self._runs.setdefault(entry.key, MemoryRun())
        if entry.name is not None:
            run.name = entry.name
            run.tags.pop("reason", None)
        if not entry.step or entry.step > max(run.steps, default=0) or "train/loss" not in entry.metrics:
            run.metrics |= {**entry.metrics, **figures_of(entry.tags)}
        if "train/loss" in entry.metrics and entry.step > max(run.steps, default=0):
            run.steps.append(entry.step)
        run.tags |= entry.tags
        run.params |= entry.params
        run.files |= entry.files
        run.models += [Path(entry.weights)] if entry.weights is not None else []
        run.version = entry.registered or run.version

    def flush(self, seconds: float, model_seconds: float, most: float = math.inf) -> bool:
        return True

    def close(self, seconds: float, model_seconds: float, most: float = math.inf) -> int:
        return 0


def record(tracker: MlflowTracker, key: str, points: Sequence[Progress]) -> None:
    for each in points:
        tracker.point(key, each)


def write_queue(path: Path, *entries: Entry) -> Path:
    """Write a queue as a process that has ended leaves it."""
    queue = MlflowQueue(path)
    for entry in entries:
        queue.append(entry, sync=True)
    queue.close()
    return path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Context in which no file can grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
