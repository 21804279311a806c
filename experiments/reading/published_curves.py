"""The published curves of the systems, in the units of this project: epochs, mean nats an image, shares, seconds.

The files in `curves/` hold what was printed. `_COLUMNS` is the one place where that is converted.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from experiments.reading.published import PublishedError

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "data" / "curves"

# Of three_conv, printed losses are sums over the images of a split, divided by all 50,000: 80 % of them train, 20 %
# validate. Of custom_resnet, the printed test loss is the mean times the 20 test batches, divided by 10,000 images,
# and its training loss is left out, being that of the last batch alone. Shares come from percent or from counts.
_COLUMNS: Mapping[str, Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        # name: quantity: (column as published, what it is divided by to come to the unit of this project)
        "five_conv": {"train_loss": ("train_loss_first_250_batches", 1.0)},
        "three_conv": {
            "train_loss": ("train_loss_as_printed", 0.8),
            "val_loss": ("val_loss_as_printed", 0.2),
            "seconds": ("seconds", 1.0),
        },
        "dynamic_conv": {
            "train_accuracy": ("train_accuracy_percent", 100.0),
            "test_accuracy": ("test_accuracy_percent", 100.0),
            "train_loss": ("train_loss", 1.0),
            "test_loss": ("test_loss", 1.0),
        },
        "custom_resnet": {
            "train_accuracy": ("train_accuracy_percent", 100.0),
            "test_accuracy": ("test_correct_of_10000", 10_000.0),
            "test_loss": ("test_loss_as_printed", 20 / 10_000),
            "seconds": ("train_seconds", 1.0),
        },
    }
)
_CLASSES = ("three_conv",)  # systems with a published accuracy for each class

# The loss of five_conv is the mean over the first 250 batches of 128 images of an epoch, so that of epoch n belongs
# where those batches end.
FIRST_BATCHES = 250 * 128 / 50_000  # of an epoch


@dataclass(frozen=True, slots=True)
class Series:
    """Values at rising epochs."""

    epochs: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, epoch: float) -> float | None:
        """The value at that epoch, or None where there is none; nothing is read between two."""
        return next((v for e, v in zip(self.epochs, self.values, strict=True) if abs(e - epoch) < 1e-6), None)


@dataclass(frozen=True, slots=True)
class PublishedCurves:
    """What was published of a system by epoch and by class; empty where there is nothing.

    Attributes:
        series: train_, val_ or test_accuracy (shares), train_, val_ or test_loss (mean nats an image), and seconds.
        classes: share of each class's test images that were labelled right.
    """

    series: Mapping[str, Series]
    classes: Mapping[str, float]

    @property
    def best(self) -> tuple[float, float] | None:
        """(epoch, share) of the highest test accuracy of any epoch, the first of equals."""
        tested = self.series.get("test_accuracy")
        if tested is None:
            return None
        best = max(tested.values)
        return tested.epochs[tested.values.index(best)], best

    @property
    def seconds(self) -> float | None:
        """Mean seconds an epoch."""
        timed = self.series.get("seconds")
        return None if timed is None else math.fsum(timed.values) / len(timed.values)


def load_curves(name: str, folder: Path = DEFAULT_FOLDER) -> PublishedCurves:
    """The published curves of a system, empty where none were published.

    Raises:
        PublishedError: a file is missing, or holds something else than numbers in the columns that it must have.
    """
    columns = _COLUMNS.get(name)
    series: dict[str, Series] = {}
    if columns:
        table = _read(folder / f"{name}.csv", ("epoch", *(column for column, _ in columns.values())))
        shift = FIRST_BATCHES - 1 if name == "five_conv" else 0.0
        epochs = tuple(row["epoch"] + shift for row in table)
        for quantity, (column, divisor) in columns.items():
            series[quantity] = Series(epochs, tuple(row[column] / divisor for row in table))
    classes: dict[str, float] = {}
    if name in _CLASSES:
        path = folder / f"{name}_classes.csv"
        counts = _read(path, ("correct", "total"))
        classes = {label: row["correct"] / row["total"] for label, row in zip(_labels(path), counts, strict=True)}
    return PublishedCurves(MappingProxyType(series), MappingProxyType(classes))


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, float]]:
    """The rows of a table as numbers, in the columns asked for."""
    rows = _rows(path)
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise PublishedError(f"{path.name}: column {missing[0]!r} must be there, but is missing")
    return [{column: _number(path, column, row[column]) for column in columns} for row in rows]


def _labels(path: Path) -> list[str]:
    return [row["class"] for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PublishedError(f"{path.name} must be a readable CSV file, but: {error}") from error


def _number(path: Path, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise PublishedError(f"{path.name}: {column} > 0 must hold, but got {text!r}")
    return value
