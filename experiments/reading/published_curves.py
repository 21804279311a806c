"""Load the published curves of the systems, in epochs, mean nats per image, shares and seconds.

The files in `data/curves/` have the figures as printed; `_COLUMNS` converts them.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cifar_core.errors import first_line
from cifar_core.files import read_text
from sweeps.validation import InvalidFileError

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "data" / "curves"

# quantity: (column as published, divisor that converts it to our unit), of each system.
# three_conv printed sums over the images of a split, divided by all 50,000; 80 % of them train, 20 % validate.
# custom_resnet printed the mean test loss times its 20 test batches, divided by 10,000 images; its training loss is
# left out, because it is that of the last batch alone. Shares come from percent or from counts.
_COLUMNS: Mapping[str, Mapping[str, tuple[str, float]]] = {
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
_CLASSES = ("three_conv",)  # systems with a published accuracy for each class

# The loss of five_conv is the mean over the first 250 batches of 128 images of an epoch, so it belongs where those
# batches end.
FIRST_BATCHES = 250 * 128 / 50_000  # of an epoch


@dataclass(frozen=True, slots=True)
class Series:
    """A quantity at rising epochs."""

    epochs: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, epoch: float) -> float | None:
        """The value at that epoch, or None; there is no interpolation."""
        return next((v for e, v in zip(self.epochs, self.values, strict=True) if abs(e - epoch) < 1e-6), None)

    @property
    def highest(self) -> tuple[float, float]:
        """(epoch, value) of the highest value, the first of equals."""
        return max(zip(self.epochs, self.values, strict=True), key=lambda point: point[1])


@dataclass(frozen=True, slots=True)
class PublishedCurves:
    """Published figures of a system by epoch and by class, possibly none.

    Attributes:
        series: train_, val_ or test_accuracy (shares), train_, val_ or test_loss (mean nats per image), and seconds.
        classes: test accuracy of each class, as a share.
    """

    series: Mapping[str, Series]
    classes: Mapping[str, float]

    @property
    def best(self) -> tuple[float, float] | None:
        """(epoch, share) of the highest test accuracy."""
        tested = self.series.get("test_accuracy")
        return None if tested is None else tested.highest

    @property
    def seconds(self) -> float | None:
        """Mean seconds per epoch."""
        timed = self.series.get("seconds")
        return None if timed is None else statistics.fmean(timed.values)


def load_curves(name: str, folder: Path = DEFAULT_FOLDER) -> PublishedCurves:
    """Load the published curves of a system, empty if none were published.

    Raises:
        InvalidFileError: a file or a column is missing, or has something else than numbers > 0.
    """
    series: dict[str, Series] = {}
    classes: dict[str, float] = {}
    if columns := _COLUMNS.get(name):
        table = _numbers(folder / f"{name}.csv", ["epoch", *(column for column, _ in columns.values())])
        epochs = tuple(table["epoch"] + (FIRST_BATCHES - 1 if name == "five_conv" else 0))
        series = {quantity: Series(epochs, tuple(table[c] / divisor)) for quantity, (c, divisor) in columns.items()}
    if name in _CLASSES:
        table = _numbers(folder / f"{name}_classes.csv", ["correct", "total"])
        classes = dict(zip(table["class"], table["correct"] / table["total"], strict=True))
    return PublishedCurves(series, classes)


def _numbers(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Load a CSV file of text; convert these columns to numbers."""
    try:
        table = pd.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InvalidFileError(f"{path.name} must be a readable CSV file, but: {first_line(error)}") from error
    for column in columns:
        if column not in table:
            raise InvalidFileError(f"{path.name}: column {column!r} is missing")
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        valid = numbers.between(0, math.inf, inclusive="neither")
        if not valid.all():
            raise InvalidFileError(f"{path.name}: {column} > 0 must hold, but got {table[column][~valid].iloc[0]!r}")
        table[column] = numbers
    return table
