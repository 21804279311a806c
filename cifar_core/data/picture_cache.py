"""Arrays of decoded pictures in the user's cache, in a folder that is named by their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar_core.data import Bytes, DataError, Integers, Split, Splits
from cifar_core.data.data_set import DataSet
from cifar_core.files import cache_folder, sync_folder, write_atomically

_FACTS = "data.json"
_LETTERS = 24  # of the hash of the content, in the name of a folder


@dataclass(frozen=True, slots=True)
class CachedPictures:
    """A data set in the cache.

    Attributes:
        notes: lines for people about what was found.
        folder: folder of its arrays.
    """

    data_set: DataSet
    notes: tuple[str, ...]
    folder: Path

    def load_train_val(self) -> Splits:
        """Load the training and validation images.

        Raises:
            DataError: an array is missing or damaged.
        """
        return Splits(self._load("train"), self._load("val"))

    def load_test(self) -> Split:
        """Load the test images. Never choose anything by them.

        Raises:
            DataError: an array is missing or damaged.
        """
        return self._load("test")

    def _load(self, split: str) -> Split:
        arrays, mend = [], "delete its folder to read the pictures again"
        try:
            files = _facts(self.folder)["files"][split]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.folder}: these pictures must be readable, but: {error}; {mend}") from error
        for name, digest in files.items():
            path = self.folder / name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != digest:
                    raise DataError(f"{path}: SHA-256 must be {digest}, but got {found}; {mend}")
                # Processes share the pages of a file that is mapped.
                arrays.append(torch.from_numpy(np.load(path, mmap_mode="c")))
            except OSError as error:
                raise DataError(f"{path}: these pictures must be readable, but: {error}; {mend}") from error
        return Split(arrays[0], arrays[1], self.data_set)


def pictures_folder() -> Path:
    """Return the folder of all data sets in the cache."""
    return cache_folder() / "pictures"


def find_cached(content: str) -> CachedPictures | None:
    """Return the data set with this SHA-256, if it is in the cache with all of its arrays."""
    folder = pictures_folder() / content[:_LETTERS]
    try:
        facts = _facts(folder)
        data_set = DataSet.from_dict(facts["data_set"])
        whole = all((folder / name).is_file() for split in facts["files"].values() for name in split)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return CachedPictures(data_set, tuple(facts["notes"]), folder) if whole and data_set.sha256 == content else None


def store_pictures(
    data_set: DataSet, notes: Sequence[str], splits: Mapping[str, tuple[Bytes, Integers]]
) -> CachedPictures:
    """Write a data set to the cache; another process may do the same.

    Args:
        splits: images uint8 (N, 3, side, side) and labels int64 (N,) of "train", "val" and "test".

    Raises:
        OSError: writing failed; nothing is left behind.
    """
    root = pictures_folder()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".new-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "pictures"
        files: dict[str, dict[str, str]] = {}
        folder.mkdir()
        for split, arrays in splits.items():
            files[split] = {}
            for name, array in zip(("images", "labels"), arrays, strict=True):
                path = folder / f"{split}-{name}.npy"
                np.save(path, np.ascontiguousarray(array))
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    files[split][path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        facts = {"data_set": data_set.to_dict(), "notes": list(notes), "files": files}
        write_atomically(folder / _FACTS, json.dumps(facts))
        final = root / data_set.sha256[:_LETTERS]
        if find_cached(data_set.sha256) is None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(final, Path(scratch) / "damaged")
            try:
                os.replace(folder, final)
            except OSError:
                if find_cached(data_set.sha256) is None:  # else another process has done the same just now
                    raise
        sync_folder(root)
    return CachedPictures(data_set, tuple(notes), final)


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return facts
