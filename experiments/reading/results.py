"""Results of `experiments/reproduce.py`: one JSON file per run."""

from __future__ import annotations

import datetime
import reprlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.metrics import Predictions
from cifar_core.recipes import SYSTEMS
from sweeps.validation import STRICT, InvalidFileError, NonNegative, Positive, Share, Text, read_json
from sweeps.words import counted

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"

_FILE = STRICT | ConfigDict(extra="ignore")  # files of older versions have more fields


@dataclass(config=_FILE, frozen=True, kw_only=True, slots=True)
class Point:
    """A point of a training curve. Losses are mean nats per image since the previous point, accuracies shares."""

    epoch: Positive
    step: Annotated[int, Field(ge=1)]
    train_loss: NonNegative
    train_accuracy: Share
    learning_rate: NonNegative
    train_seconds: NonNegative  # time of training alone, so far
    watched_loss: Annotated[NonNegative | None, Field(alias="val_loss")]  # on the images that the run was watched on
    watched_accuracy: Annotated[Share | None, Field(alias="val_accuracy")]


@dataclass(config=_FILE, frozen=True, kw_only=True, slots=True)
class Tested:
    """An evaluation on the test images."""

    accuracy: Share
    loss: NonNegative  # mean nats per image
    images: Annotated[int, Field(ge=1)]
    class_accuracy: Mapping[str, Share]
    confusion: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...]  # rows: true classes, columns: predicted ones
    tta_accuracy: Share | None = None  # with the recipe's test-time augmentation

    def __post_init__(self) -> None:
        if sorted(self.class_accuracy) != sorted(CIFAR10.classes):
            raise ValueError(
                f"class_accuracy must name {', '.join(CIFAR10.classes)}, but got {sorted(self.class_accuracy)}"
            )
        if [len(row) for row in self.confusion] != [len(CIFAR10.classes)] * len(CIFAR10.classes):
            raise ValueError(f"confusion must be 10 rows of 10 counts, but got {reprlib.repr(self.confusion)}")
        if (total := sum(map(sum, self.confusion))) != self.images:
            raise ValueError(f"confusion must count the {self.images} images, but got {total}")
        right = sum(row[k] for k, row in enumerate(self.confusion))
        if abs(right / self.images - self.accuracy) > 0.5 / self.images:
            rule = f"accuracy must be that of confusion, {right} of {self.images}"
            raise ValueError(f"{rule}, but got {self.accuracy}")

    @classmethod
    def of(cls, predictions: Predictions, tta_accuracy: float | None) -> Tested:
        return cls(
            accuracy=predictions.accuracy,
            loss=predictions.loss,
            images=len(predictions),
            class_accuracy=dict(zip(CIFAR10.classes, predictions.class_accuracy(), strict=True)),
            confusion=tuple(tuple(row) for row in predictions.confusion().tolist()),
            tta_accuracy=tta_accuracy,
        )


@dataclass(config=_FILE, frozen=True, kw_only=True, slots=True)
class Machine:
    """The hardware of a run."""

    device: Text
    processor: Text
    precision: Text
    threads: Annotated[int, Field(ge=1)]


@dataclass(config=_FILE, frozen=True, kw_only=True, slots=True)
class Versions:
    """The software of a run."""

    python: Text
    torch: Text


@dataclass(config=_FILE, frozen=True, kw_only=True, slots=True)
class Result:
    """A reproduction of a published system."""

    schema: int = 1
    name: Text
    seed: Annotated[int, Field(ge=0)]
    recipe: Mapping[str, Any]  # as `Recipe.to_dict` returns it; its learning rate may be "range-test"
    learning_rate_found: Positive | None  # by a range test, if the recipe asks for one
    epochs_planned: Positive
    epochs_run: Positive
    watched: Literal["validation", "test"]  # the images that the curve was measured on, beside the training images
    kept: Literal["last", "best", "average"]  # the weights that were tested; best: of the lowest validation loss
    test: Tested | None  # None for a run that is not complete
    train_seconds: Positive
    wall_seconds: Positive
    training_flops: NonNegative
    hardware: Machine
    versions: Versions
    commit: Text
    data_sha256: Text
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    date: datetime.date
    curve: tuple[Point, ...]

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ValueError(f"schema must be 1, but got {self.schema}")
        batch_size, share = self.recipe.get("batch_size"), self.recipe.get("val_fraction", 0.0)
        if not (isinstance(batch_size, int) and isinstance(share, int | float) and batch_size > 0 and 0 <= share < 1):
            given = {"batch_size": batch_size, "val_fraction": share}
            raise ValueError(f"recipe must have a batch_size above 0, and val_fraction in [0, 1), but got {given}")
        if self.epochs_run > self.epochs_planned + self._step:
            raise ValueError(f"epochs_run must be at most {self.epochs_planned:g}, but got {self.epochs_run:g}")
        for before, after in pairwise((p.epoch, p.step) for p in self.curve):
            if after[0] <= before[0] or after[1] <= before[1]:
                raise ValueError(f"curve must rise in epoch and step, but got {[before, after]}")

    @property
    def _step(self) -> float:
        """Epochs by which rounding to whole steps may move the end of the run."""
        images = CIFAR10.train_images + CIFAR10.val_images
        share = 1 - float(self.recipe.get("val_fraction", 0.0))
        of_a_step = 0.51 * int(self.recipe["batch_size"]) / (images * share)
        return max(0.02, of_a_step)  # published schedules are quoted with two digits

    @property
    def complete(self) -> bool:
        """The schedule has ended, and the test set was evaluated."""
        return self.epochs_run > self.epochs_planned - self._step and self.test is not None

    @property
    def seconds_an_epoch(self) -> float:
        return self.train_seconds / self.epochs_run

    @property
    def costs(self) -> Mapping[str, float]:
        """Metrics of what the run cost, as MLflow has them."""
        steps = self.curve[-1].step if self.curve else 0
        return {
            "cost/seconds": self.wall_seconds,
            "cost/training_flops": self.training_flops,
            "cost/epochs": self.epochs_run,
            "cost/images_per_second": steps * int(self.recipe["batch_size"]) / self.train_seconds,
        }

    @property
    def machine(self) -> str:
        used = self.hardware
        threads = counted(used.threads, "thread")
        return f"{used.device}, {used.processor}, {threads}, {used.precision}, torch {self.versions.torch}"


def read_result(path: Path) -> Result:
    """Load a result.

    Raises:
        InvalidFileError: the file is not JSON, breaks a rule, or has the name of another run.
    """
    result = read_json(path, Result)
    name = f"{result.name}-seed{result.seed}.json"
    if path.name != name:
        raise InvalidFileError(f"{path.name}: a file of this run must be named {name}")
    return result


def load_results(folder: Path = RESULTS, names: Sequence[str] = SYSTEMS) -> tuple[Result, ...]:
    """Load the runs of recipes, by name and seed: of the published systems, if no `names` are given.

    There are none if the folder does not exist.

    Raises:
        InvalidFileError: a file is not what `reproduce.py` writes.
    """
    files = sorted(folder.glob("*-seed*.json"))
    results = [read_result(path) for path in files if path.name.rpartition("-seed")[0] in names]
    ids = [result.run_id for result in results]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise InvalidFileError(f"{folder.name}: run_id must be unique, but two files have {twice[0]!r}")
    return tuple(sorted(results, key=lambda result: (names.index(result.name), result.seed)))


def recipes_in(folder: Path) -> list[str]:
    """Return the names of the recipes that have a file in `folder`."""
    return sorted({path.name.rpartition("-seed")[0] for path in folder.glob("*-seed*.json")})


def departures(result: Result, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Differences from the shipped recipe, such as "width 0.125 instead of 1.0"; the seed may differ."""
    free = ("seed", "deterministic")
    return tuple(
        f"{name} {value} instead of {recipe[name]}"
        for name, value in result.recipe.items()
        if name in recipe and name not in free and value != recipe[name]
    )
