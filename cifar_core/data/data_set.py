"""Facts about a data set, which travel with its images: names, sizes and statistics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_FOREIGN = re.compile(r"[^\w \-.]")  # characters that MLflow allows in no name of a metric, and the slash
_LONGEST_KEY = 100  # characters
_LONGEST_CLASS = 200  # characters
CLASS_RULE = f"a class must have a name of at most {_LONGEST_CLASS} letters without control characters"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Facts about a labelled set of images that training, records and reports go by.

    Attributes:
        classes: names of the classes; a label is a place in them.
        side: pixels of an image, in x and in y.
        mean, std: mean and standard deviation of each channel in [0, 1], over all images but those for the test.
        sha256: identifies the content.
        train_images, val_images, test_images: sizes of the splits.
        groups: names of groups of classes, and their members; the groups are disjoint.
    """

    name: str
    classes: tuple[str, ...]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sha256: str
    train_images: int
    val_images: int
    test_images: int
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The classes as parts of MLflow's metric names, which allow few characters; all differ."""
        found: list[str] = []
        for name in self.classes:
            plain = key = _FOREIGN.sub("_", name)[:_LONGEST_KEY].strip(" .") or "_"
            number = 1
            while key.casefold() in map(str.casefold, found):  # some databases do not tell a from A
                number += 1
                key = f"{plain} {number}"
            found.append(key)
        return tuple(found)

    def group_of(self, name: str) -> str | None:
        """Return the group of a class, if it is in one."""
        return next((group for group, members in self.groups if name in members), None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> bytes:
        """Return the content of a JSON file, for `from_dict`."""
        return json.dumps(self.to_dict(), ensure_ascii=False).encode()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a data set from the content of a JSON file, where tuples are lists.

        Raises:
            TypeError: fields are missing, or unknown, or hold what no data set has.
        """
        found = cls(**{name: _frozen(value) for name, value in values.items()})
        if bad := [name for name in found.classes if not is_class_name(name)]:
            raise TypeError(f"{CLASS_RULE}, but got {bad[0]!r}")
        side, sha256 = values["side"], values["sha256"]  # parts of commands
        if not (isinstance(side, int) and isinstance(sha256, str) and re.fullmatch("[0-9a-z]*", sha256)):
            raise TypeError(f"side must be a whole number, and sha256 a hash, but got {side!r}, {sha256!r}")
        return found


def is_class_name(name: object) -> bool:
    """Return true if a class may have this name, which terminals and pages show."""
    return isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_CLASS


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


CIFAR10 = DataSet(
    name="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    side=32,
    mean=(0.49139968, 0.48215841, 0.44653091),
    std=(0.24703223, 0.24348513, 0.26158784),
    sha256="9a5bcfec531a52ec23c8b757ae038db2a9db1b0c869b7da8543f4cd0cfb14034",  # of the hashes of its six files
    train_images=45_000,
    val_images=5_000,
    test_images=10_000,
    groups=(
        ("animals", ("bird", "cat", "deer", "dog", "frog", "horse")),
        ("vehicles", ("airplane", "automobile", "ship", "truck")),
    ),
)
