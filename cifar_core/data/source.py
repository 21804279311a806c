"""Loaders of a data set that can be sent to another process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifar_core.data import Split, Splits, load_test, load_train_val
from cifar_core.data.picture_cache import CachedPictures


@dataclass(frozen=True, slots=True)
class DataSource:
    """Loaders of the data set. A worker calls them, so they must pickle."""

    train_val: Callable[[], Splits]
    test: Callable[[], Split]

    @classmethod
    def cifar10(cls, directory: Path) -> DataSource:
        """CIFAR-10 from the files in `directory`."""
        return cls(functools.partial(load_train_val, directory), functools.partial(load_test, directory))

    @classmethod
    def pictures(cls, cached: CachedPictures) -> DataSource:
        """A user's pictures from the cache."""
        return cls(cached.load_train_val, cached.load_test)
