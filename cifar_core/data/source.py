"""Loaders of a data set that can be sent to another process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cifar_core.data import DataError, Split, Splits, load_test, load_train_val
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.download import ProgressCallback, default_data_dir, ensure_cifar10
from cifar_core.data.picture_cache import CachedPictures, find_cached


@dataclass(frozen=True, slots=True)
class DataSource:
    """Loaders of the data set. A worker calls them, so they must pickle."""

    train_val: Callable[[], Splits]
    test: Callable[[], Split]

    @classmethod
    def find(cls, sha256: str, name: str, directory: Path | None, progress: ProgressCallback) -> DataSource:
        """Return the data set with this SHA-256, called `name`: CIFAR-10, or a user's pictures from the cache.

        Raises:
            DataError: as for `cifar10`, or the pictures are not in the cache.
        """
        if sha256 == CIFAR10.sha256:
            return cls.cifar10(directory, progress)
        if (cached := find_cached(sha256)) is None:
            raise DataError(
                f"the pictures of {name} ({sha256[:12]}) must be in the cache, but are not; run_study.py --images "
                "reads them again"
            )
        # Folders with the same pictures share an entry, whatever their names.
        return cls.pictures(replace(cached, data_set=replace(cached.data_set, name=name)))

    @classmethod
    def cifar10(cls, directory: Path | None, progress: ProgressCallback) -> DataSource:
        """Return CIFAR-10 from the files in `directory`, None for the default one; missing files are downloaded.

        Raises:
            DataError: files are missing or damaged, and no source could provide them.
        """
        directory = directory or default_data_dir()
        ensure_cifar10(directory, progress)
        return cls(functools.partial(load_train_val, directory), functools.partial(load_test, directory))

    @classmethod
    def pictures(cls, cached: CachedPictures) -> DataSource:
        """Return a user's pictures from the cache."""
        return cls(cached.load_train_val, cached.load_test)
