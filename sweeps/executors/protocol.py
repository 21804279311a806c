"""Messages between the coordinator and an executor: jobs, and the events of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cifar_core.errors import UserError
from cifar_core.evaluation.metrics import Predictions
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, Progress


class RunsFailError(UserError):
    """The machine, or the code, is broken, so that no further run would succeed; running trials can resume."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Train a network."""

    key: str  # names the run in every event about it
    recipe: Recipe
    schedule: EvalSchedule
    weights: Path | None = None  # file to keep the final weights in
    checkpoints: Path | None = None  # folder of the run's checkpoints; the run resumes from the newest usable one
    threads: int | None = None  # on a CPU, in place of the worker's own number
    recorded: int | None = None  # step of the last point on record, if known: resume from no state beyond the next one


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJob:
    """Evaluate a trained network on the sealed test set."""

    key: str  # of the run that trained it
    recipe: Recipe
    weights: Path
    threads: int | None = None  # on a CPU, in place of the worker's own number


Job = TrainJob | EvaluateJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a run: of its last validation, or of the test set."""

    loss: float
    accuracy: float
    accuracies: Mapping[str, float]  # of each class and group of classes: "class/cat", "group/animals"
    files: dict[str, bytes]  # artifacts by path
    tta_accuracy: float | None = None  # with test-time augmentation
    balanced_accuracy: float | None = None  # where the classes have different numbers of images

    @classmethod
    def of(cls, predictions: Predictions, files: dict[str, bytes], tta_accuracy: float | None = None) -> Outcome:
        classes = zip(predictions.data_set.keys, predictions.class_accuracy(), strict=True)
        accuracies = {f"class/{name}": value for name, value in classes}
        accuracies |= {f"group/{name}": value for name, value in predictions.group_accuracy().items()}
        return cls(
            loss=predictions.loss,
            accuracy=predictions.accuracy,
            accuracies=accuracies,
            files=files,
            tta_accuracy=tta_accuracy,
            balanced_accuracy=None if predictions.even else predictions.balanced_accuracy,
        )


@dataclass(frozen=True, slots=True)
class Progressed:
    """A new point. If it holds a validation, the run waits for `Executor.reply`."""

    key: str
    point: Progress  # without the predictions
    system: Mapping[str, float] = field(default_factory=dict)  # load of the machine, by the names of MLflow's metrics


@dataclass(frozen=True, slots=True)
class Log:
    """A line for people, such as a warning about a damaged checkpoint; the run continues."""

    key: str
    line: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has reached its end."""

    key: str
    outcome: Outcome | None  # None: a run on all training images, which validates on none


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error, in its own code or because its worker died."""

    key: str
    reason: str  # one line
    details: str  # traceback, if any
    worker_died: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Diverged:
    """The run ended because its training loss was no longer finite."""

    key: str
    reason: str  # one line


@dataclass(frozen=True, slots=True)
class Paused:
    """The run ended because of `Executor.pause`; it can resume from a checkpoint if it has a folder of them."""

    key: str


@dataclass(frozen=True, slots=True)
class CheckpointWriteFailed:
    """The run ended because it could not write its state; its older checkpoints are untouched.

    The disk is at fault, not the run, which can resume from its checkpoints once there is room.
    """

    key: str
    reason: str  # one line: the file, and the system's message


Ending = Finished | Failed | Diverged | Paused | CheckpointWriteFailed
Event = Progressed | Log | Ending


class Executor(Protocol):
    """Runs jobs side by side."""

    @property
    def free(self) -> int:
        """Number of jobs that can be started now."""

    @property
    def pending_workers(self) -> int:
        """Number of workers of a cluster that wait for resources."""

    def start(self, job: Job) -> str | None:
        """Start `job` on a free worker; return its place, `node-1` or `node-1 GPU 0`, None if that is this machine."""

    def events(self, timeout: float) -> list[Event]:
        """Return the events since the last call; wait up to `timeout` seconds for one."""

    def reply(self, key: str, *, go_on: bool) -> None:
        """Answer a run that waits at a validation. After a "no" it ends without another event.

        A run that is told "no" writes nothing after this call returns.
        """

    def pause(self) -> None:
        """Ask every training run to save its state and end after its current step.

        Each answers `Paused`, unless it ends in another way first; points on their way arrive before that. No run gets
        a `reply` any more: one that waits for it answers too. An evaluation on the test set runs to its end.
        """

    def close(self) -> None:
        """Kill all workers, whatever they do; return within a few seconds."""
