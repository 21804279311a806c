"""The runs that `experiments/reproduce.py` made: one JSON file a run, written here, and read back and checked."""

from __future__ import annotations

import datetime
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cifar_core.data import CLASSES
from cifar_core.evaluation.metrics import Predictions
from cifar_core.files import write_atomically
from cifar_core.recipes import SYSTEMS, read_recipe
from cifar_core.training import Progress

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"

_SCHEMA = 1
_WRITTEN = {"watched_loss": "val_loss", "watched_accuracy": "val_accuracy"}  # names in the file, where they differ
_STEP = 0.02  # epochs: as far as rounding to whole steps may move a whole number of them


class ResultError(ValueError):
    """A result file breaks a rule; the message is one line with the file, the rule and the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A point of a training curve. Losses are mean nats an image since the point before, accuracies shares."""

    epoch: float
    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    train_seconds: float  # of training alone, so far
    watched_loss: float | None  # on the images that the run was watched on
    watched_accuracy: float | None

    @classmethod
    def of(cls, progress: Progress) -> Point:
        met = progress.validation
        return cls(
            epoch=progress.epoch,
            step=progress.step,
            train_loss=progress.train_loss,
            train_accuracy=progress.train_accuracy,
            learning_rate=progress.learning_rate,
            train_seconds=progress.train_seconds,
            watched_loss=met.loss if met else None,
            watched_accuracy=met.accuracy if met else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """One look at the test images."""

    accuracy: float
    loss: float  # mean nats an image
    images: int
    class_accuracy: Mapping[str, float]
    confusion: tuple[tuple[int, ...], ...]  # rows: true classes, columns: predicted ones

    @classmethod
    def of(cls, predictions: Predictions) -> Tested:
        return cls(
            accuracy=predictions.accuracy,
            loss=predictions.loss,
            images=len(predictions),
            class_accuracy=dict(zip(CLASSES, predictions.class_accuracy(), strict=True)),
            confusion=tuple(tuple(row) for row in predictions.confusion().tolist()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One reproduction of one published system."""

    name: str
    seed: int
    recipe: Mapping[str, Any]  # as in `cifar_core.recipe.Recipe.to_dict`, its learning rate may be "range-test"
    learning_rate_found: float | None  # by a range test, where the recipe asks for one
    epochs_planned: float
    epochs_run: float
    watched: str  # validation | test: what the curve was measured on beside the training images
    curve: tuple[Point, ...]
    test: Tested | None  # None while the run goes on, and where it was interrupted
    kept: str  # last | best: the weights that were tested; best: of the lowest validation loss
    train_seconds: float
    wall_seconds: float
    training_flops: float
    device: str
    processor: str
    precision: str
    threads: int
    python: str
    torch: str
    commit: str
    data_sha256: str
    run_id: str
    date: datetime.date

    @property
    def whole(self) -> bool:
        """The schedule was run to its end, and the test set met."""
        return self.epochs_run > self.epochs_planned - _STEP and self.test is not None

    @property
    def seconds_an_epoch(self) -> float:
        return self.train_seconds / self.epochs_run

    @property
    def machine(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.device}, {self.processor}, {threads}, {self.precision}, torch {self.torch}"


def write_result(path: Path, result: Result) -> None:
    """Replace the file at `path`, at once, by one that `read_result` takes."""
    test = result.test
    values = {
        "schema": _SCHEMA,
        "name": result.name,
        "seed": result.seed,
        "recipe": dict(result.recipe),
        "learning_rate_found": result.learning_rate_found,
        "epochs_planned": result.epochs_planned,
        "epochs_run": result.epochs_run,
        "watched": result.watched,
        "kept": result.kept,
        "test": None if test is None else asdict(test),
        "train_seconds": result.train_seconds,
        "wall_seconds": result.wall_seconds,
        "training_flops": result.training_flops,
        "hardware": {
            "device": result.device,
            "processor": result.processor,
            "precision": result.precision,
            "threads": result.threads,
        },
        "versions": {"python": result.python, "torch": result.torch},
        "commit": result.commit,
        "data_sha256": result.data_sha256,
        "run_id": result.run_id,
        "date": result.date.isoformat(),
        "curve": [{_WRITTEN.get(name, name): value for name, value in asdict(point).items()} for point in result.curve],
    }
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def load_results(folder: Path = RESULTS) -> tuple[Result, ...]:
    """The runs of the published systems in a folder, by system and seed; none where there is no such folder.

    Files of other recipes may lie beside them.

    Raises:
        ResultError: a file is not what `reproduce.py` writes.
    """
    results = [read_result(path) for name in SYSTEMS for path in sorted(folder.glob(f"{name}-seed*.json"))]
    ids = [result.run_id for result in results]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise ResultError(f"{folder.name}: run_id must be unique, but two files have {twice[0]!r}")
    return tuple(sorted(results, key=lambda result: (SYSTEMS.index(result.name), result.seed)))


def load_recipes() -> Mapping[str, Mapping[str, Any]]:
    """The fields of the shipped recipe of each published system, by name.

    Raises:
        RecipeError: a file is missing or is no valid recipe.
    """
    return {name: read_recipe(name).to_dict() for name in SYSTEMS}


def departures(result: Result, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a run's recipe is not the shipped one, such as "width 0.125 instead of 1.0"; the seed may differ."""
    free = ("seed", "deterministic")
    return tuple(
        f"{name} {value} instead of {recipe[name]}"
        for name, value in result.recipe.items()
        if name in recipe and name not in free and value != recipe[name]
    )


def read_result(path: Path) -> Result:
    """The run in one file, checked.

    Raises:
        ResultError: not JSON, a missing field, a wrong type, a value out of range, or a name that is not its own.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path.name} must be a readable JSON file, but: {error}") from error
    if not isinstance(values, dict):
        raise ResultError(f"{path.name} must hold a JSON object, but got {reprlib.repr(values)}")
    root = _Object(path.name, "", values)
    root.whole_number("schema", _SCHEMA, _SCHEMA)
    name, seed = root.choice("name", SYSTEMS), root.whole_number("seed")
    if path.name != f"{name}-seed{seed}.json":
        raise ResultError(f"{path.name}: a file of this run must be named {name}-seed{seed}.json")
    hardware, versions = root.object("hardware"), root.object("versions")
    planned = root.number("epochs_planned", above=0)
    return Result(
        name=name,
        seed=seed,
        recipe=root.object("recipe").values,
        learning_rate_found=root.optional_number("learning_rate_found", above=0),
        epochs_planned=planned,
        epochs_run=root.number("epochs_run", above=0, most=planned + _STEP),
        watched=root.choice("watched", ("validation", "test")),
        curve=_curve(root),
        test=None if values.get("test", 0) is None else _tested(root.object("test")),
        kept=root.choice("kept", ("last", "best")),
        train_seconds=root.number("train_seconds", above=0),
        wall_seconds=root.number("wall_seconds", above=0),
        training_flops=root.number("training_flops", least=0),
        device=hardware.text("device"),
        processor=hardware.text("processor"),
        precision=hardware.text("precision"),
        threads=hardware.whole_number("threads", 1),
        python=versions.text("python"),
        torch=versions.text("torch"),
        commit=root.text("commit"),
        data_sha256=root.text("data_sha256"),
        run_id=root.text("run_id", r"[0-9a-f]{32}", "32 hexadecimal digits"),
        date=root.date("date"),
    )


def _curve(root: _Object) -> tuple[Point, ...]:
    points = [
        Point(
            epoch=at.number("epoch", above=0),
            step=at.whole_number("step", 1),
            train_loss=at.number("train_loss", least=0),
            train_accuracy=at.number("train_accuracy", least=0, most=1),
            learning_rate=at.number("learning_rate", least=0),
            train_seconds=at.number("train_seconds", least=0),
            watched_loss=at.optional_number("val_loss", least=0),
            watched_accuracy=at.optional_number("val_accuracy", least=0, most=1),
        )
        for at in root.objects("curve")
    ]
    for before, after in pairwise(points):
        if after.epoch <= before.epoch or after.step <= before.step:
            raise root.fault("curve must rise in epoch and step", [(p.epoch, p.step) for p in (before, after)])
    return tuple(points)


def _tested(test: _Object) -> Tested:
    images = test.whole_number("images", 1)
    accuracy = test.number("accuracy", least=0, most=1)
    classes = test.object("class_accuracy")
    names = sorted(CLASSES)
    if sorted(classes.values) != names:
        raise test.fault(f"class_accuracy must name {', '.join(names)}", sorted(classes.values))
    confusion = test.get("confusion", list, "a list")
    rows = [row for row in confusion if isinstance(row, list) and len(row) == len(names)]
    counts = [count for row in rows for count in row if type(count) is int and count >= 0]
    if len(confusion) != len(names) or len(counts) != len(names) ** 2:
        raise test.fault("confusion must be 10 rows of 10 counts", confusion)
    if sum(counts) != images:
        raise test.fault(f"confusion must count the {images} images", sum(counts))
    right = sum(row[k] for k, row in enumerate(confusion))
    if abs(right / images - accuracy) > 0.5 / images:
        raise test.fault(f"accuracy must be that of confusion, {right} of {images}", accuracy)
    return Tested(
        accuracy=accuracy,
        loss=test.number("loss", least=0),
        images=images,
        class_accuracy={name: classes.number(name, least=0, most=1) for name in CLASSES},
        confusion=tuple(tuple(row) for row in confusion),
    )


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object of a file, whose fields are taken out with their rules."""

    file: str
    path: str  # such as "test."
    values: Mapping[str, Any]

    def fault(self, rule: str, value: object) -> ResultError:
        return ResultError(f"{self.file}: {self.path}{rule}, but got {reprlib.repr(value)}")

    def get(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        if name not in self.values:
            raise ResultError(f"{self.file}: field {self.path + name!r} must be there, but is missing")
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self.fault(f"{name} must be {what}", value)
        return value

    def number(self, name: str, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf) -> float:
        value = self.get(name, (int, float), "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and above < number and least <= number <= most):
            rules = [f"> {above:g}"] * (above > -math.inf) + [f">= {least:g}"] * (least > -math.inf)
            rules += [f"<= {most:g}"] * (most < math.inf)
            raise self.fault(f"{name} must be finite{''.join(f', {rule}' for rule in rules)}", value)
        return number

    def optional_number(self, name: str, **limits: float) -> float | None:
        return None if name in self.values and self.values[name] is None else self.number(name, **limits)

    def whole_number(self, name: str, least: int = 0, most: int | None = None) -> int:
        value: int = self.get(name, int, "a whole number")
        if value < least or (most is not None and value > most):
            rule = f"{least}" if least == most else f"at least {least}"
            raise self.fault(f"{name} must be {rule}", value)
        return value

    def text(self, name: str, pattern: str = r".+", rule: str = "not empty") -> str:
        value: str = self.get(name, str, "text")
        if not re.fullmatch(pattern, value):
            raise self.fault(f"{name} must be {rule}", value)
        return value

    def date(self, name: str) -> datetime.date:
        text = self.text(name)
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            raise self.fault(f"{name} must be YYYY-MM-DD", text) from None

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value: str = self.get(name, str, "text")
        if value not in choices:
            raise self.fault(f"{name} must be one of {', '.join(choices)}", value)
        return value

    def object(self, name: str) -> _Object:
        return _Object(self.file, f"{self.path}{name}.", self.get(name, dict, "an object"))

    def objects(self, name: str) -> list[_Object]:
        items = self.get(name, list, "a list")
        for k, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.fault(f"{name}[{k}] must be an object", item)
        return [_Object(self.file, f"{self.path}{name}[{k}].", item) for k, item in enumerate(items)]
