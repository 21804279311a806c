"""What the coordinator and an executor say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cifar_core.evaluation.metrics import Predictions
from cifar_core.recipe import Recipe
from cifar_core.training import Progress, Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training run to carry out."""

    key: str  # names the run in every event about it
    recipe: Recipe
    watch: Watch
    weights: Path | None = None  # where to keep the final weights, if anywhere
    checkpoints: Path | None = None  # folder of the run's checkpoints; the newest that serves is gone on from
    recorded: int | None = None  # step of the last point on record, if known: a state beyond the next would lose it
    open_test_set: bool = False  # meet the sealed test set instead of training: load `weights` and evaluate


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A point of a run's curves; losses in nats per image, accuracies in [0, 1]."""

    step: int
    fraction: float
    epoch: float
    train_loss: float
    train_accuracy: float
    learning_rate: float
    train_seconds: float
    validation_seconds: float
    val_loss: float | None = None
    val_accuracy: float | None = None

    @classmethod
    def of(cls, progress: Progress) -> Point:
        """`progress` without the predictions."""
        validation = progress.validation
        return cls(
            step=progress.step,
            fraction=progress.fraction,
            epoch=progress.epoch,
            train_loss=progress.train_loss,
            train_accuracy=progress.train_accuracy,
            learning_rate=progress.learning_rate,
            train_seconds=progress.train_seconds,
            validation_seconds=progress.validation_seconds,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What is left of a run at its end: of its last validation, or of the test set."""

    loss: float
    accuracy: float
    class_accuracy: Sequence[float]
    images: int
    group_accuracy: Mapping[str, float]  # of animals and vehicles
    files: dict[str, bytes]  # artifacts by path

    @classmethod
    def of(cls, predictions: Predictions, files: dict[str, bytes]) -> Outcome:
        return cls(
            loss=predictions.loss,
            accuracy=predictions.accuracy,
            class_accuracy=tuple(predictions.class_accuracy()),
            images=len(predictions),
            group_accuracy=predictions.group_accuracy(),
            files=files,
        )


@dataclass(frozen=True, slots=True)
class Progressed:
    """A new point. Where it holds a validation, the run waits for `Executor.reply`."""

    key: str
    point: Point


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that people may want to know, such as a checkpoint that is damaged; the run goes on."""

    key: str
    line: str


@dataclass(frozen=True, slots=True)
class Finished:
    key: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error, in its own code or because its worker died."""

    key: str
    reason: str  # one line
    details: str  # traceback, if any
    worker_died: bool = False


@dataclass(frozen=True, slots=True)
class Diverged:
    """The training loss is no longer finite, and the run has ended."""

    key: str
    reason: str  # one line


@dataclass(frozen=True, slots=True)
class Paused:
    """The run has ended as `Executor.pause` asked, and goes on from a checkpoint if it has a folder of them."""

    key: str


@dataclass(frozen=True, slots=True)
class Unkept:
    """The run has ended because its state could not be written: its older checkpoints are untouched.

    That is the fault of the disk, not of the run, which goes on from these once there is room.
    """

    key: str
    reason: str  # one line: the file, and what the system said


Ending = Finished | Failed | Diverged | Paused | Unkept
Event = Progressed | Noted | Ending


class Executor(Protocol):
    """Runs jobs side by side."""

    @property
    def free(self) -> int:
        """Jobs that can be started now."""

    def start(self, job: Job) -> None:
        """Begin `job` on a free worker."""

    def events(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout` seconds for something to happen."""

    def reply(self, key: str, *, go_on: bool) -> None:
        """Answer a run that waits at a validation; a run that shall not go on ends without another event.

        By the return of a "no", the run writes no more.
        """

    def pause(self) -> None:
        """Ask every run to keep its state and end, after the step that it is at.

        Each answers `Paused`, unless it ends in another way first; points on their way come before that. A run that
        waits for `reply` answers too: it may still be replied to, but need not be. One that meets the test set
        finishes. Asking again changes nothing.
        """

    def close(self) -> None:
        """End all workers at once, whatever they do; returns within a few seconds."""
