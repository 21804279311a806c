"""A data set from a folder of pictures: found, decoded, split, checked for duplicates, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cifar_core.data import WHITENING_IMAGES, Bytes, DataError
from cifar_core.data.data_set import DataSet
from cifar_core.data.decoding import Decoded, decode, status
from cifar_core.data.duplicates import content_of
from cifar_core.data.image_folder import SPLITS, Layout, find_pictures, listed
from cifar_core.data.picture_cache import CachedPictures, find_cached, pictures_folder, store_pictures
from cifar_core.data.picture_notes import (
    blank_note,
    copies_note,
    drawn_note,
    duplicates_note,
    found_notes,
    lacking_notes,
    unreadable_note,
)
from cifar_core.data.splits import alternating, draw_splits, shares
from cifar_core.files import write_atomically

SIDES = (32, 48, 64)  # pixels

_VERSION = 1  # to be raised when the same files would give other arrays
_READ_AGAIN = 3  # to be raised when some files would give other splits, notes or refusals


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """Pictures that a user names.

    Attributes:
        folder: folder of the pictures, in one of the layouts of `find_pictures`.
        labels: a CSV file with the columns path and label.
        side: pixels of the images to make, one of `SIDES`.
        skip_unreadable: leave out files that are no pictures, in place of an error.
    """

    folder: Path
    labels: Path | None = None
    side: int = 32
    skip_unreadable: bool = False

    @property
    def name(self) -> str:
        """Name of the data set: that of the folder, with "_" for characters that cannot be printed or encoded."""
        name = "".join(letter if letter.isprintable() else "_" for letter in self.folder.resolve().name)
        return name.strip(" .") or "images"

    @property
    def notes_folder(self) -> Path:
        """Folder in the cache for what was found: the content, files that cannot be read, duplicates."""
        labels = None if self.labels is None else str(self.labels.resolve())
        given = [str(self.folder.resolve()), labels, self.side, self.skip_unreadable]
        return pictures_folder() / "folders" / hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]


def prepare(source: ImageSource, progress: Callable[[str, int, int | None], None]) -> CachedPictures:
    """Return the data set of a folder. Its pictures are decoded only if a file is new or has changed.

    Args:
        progress: called with a description, the bytes done, and their total.

    Raises:
        DataError: the folder is no data set, a file is no picture, or the cache cannot be written to.
    """
    layout = find_pictures(source.folder, source.labels)
    try:
        state = _state(layout)
        known = _last(source)
        if known.get("state") == state and "notes" in known and (cached := find_cached(known["content"])) is not None:
            # The same content may have had another name elsewhere, and other notes.
            named = replace(cached.data_set, name=source.name)
            return replace(cached, data_set=named, notes=tuple(known["notes"]))
        made = _make(source, layout, progress)
        content = made.data_set.sha256
        facts = {"state": state, "content": content, "notes": made.notes}
        write_atomically(source.notes_folder / "state.json", json.dumps(facts))
    except OSError as error:
        raise DataError(f"decoded pictures are kept in {pictures_folder()}, but: {error}") from error
    if known.get("content", content) != content:
        before = known["content"][:12]
        progress(f"the pictures have changed: their content was {before}, and is {content[:12]} now", 0, None)
    return made


def _make(source: ImageSource, layout: Layout, progress: Callable[[str, int, int | None], None]) -> CachedPictures:
    what = f"reading {len(layout.pictures):,} pictures"
    decoded, unreadable = decode(layout.pictures, source.side, lambda done, total: progress(what, done, total))
    left_out = unreadable_note(unreadable, len(layout.pictures), source.notes_folder, skip=source.skip_unreadable)
    contents = content_of(decoded.images, decoded.hashes)
    kept, copies = _without_copies(decoded, contents)
    to_draw_from = sum(decoded.pictures[i].split == "train" for i in kept)
    drawn = shares(to_draw_from, [split for split in SPLITS if split not in layout.given])
    left_out += copies_note([decoded.pictures[i].path for i in copies], source.notes_folder)
    _check_classes(layout, decoded, contents, kept, len(drawn), left_out)
    decoded, contents = decoded.part(kept), [contents[i] for i in kept]
    splits = _splits(decoded, contents, drawn)
    places = {split: [i for i, of in enumerate(splits) if of == split] for split in SPLITS}
    for split in ("train", "val"):
        labels = [decoded.pictures[i].label for i in places[split]]
        # Training pictures of a given split keep the order of their names, unless their beginning lacks a class.
        if split == "val" or drawn or set(labels[: min(WHITENING_IMAGES, len(labels) // 2)]) != set(labels):
            order = alternating(labels)
            places[split] = [places[split][i] for i in order]
    for split, chosen in places.items():
        if not chosen:
            raise DataError(
                f"{split}/ must have pictures of its own, but all of them are unreadable, or copies from a later split"
            )
    mean, std = _statistics(decoded.images, [*places["train"], *places["val"]])
    data_set = DataSet(
        name=source.name,
        classes=layout.classes,
        side=source.side,
        mean=mean,
        std=std,
        sha256=_content(source, layout, decoded, places),
        train_images=len(places["train"]),
        val_images=len(places["val"]),
        test_images=len(places["test"]),
    )
    notes = [
        *found_notes(data_set, decoded),
        *lacking_notes(decoded, data_set.classes, splits),
        *left_out,
        *drawn_note(drawn),
        *blank_note(decoded, source.notes_folder),
        *duplicates_note(decoded, data_set.classes, contents, splits, source.notes_folder),
    ]
    arrays = {
        split: (
            decoded.images[chosen].transpose(0, 3, 1, 2),
            np.array([decoded.pictures[i].label for i in chosen], dtype=np.int64),
        )
        for split, chosen in places.items()
    }
    return store_pictures(data_set, notes, arrays)


def _state(layout: Layout) -> str:
    """Return a hash that changes when a file is added, removed, renamed or written to."""
    digest = hashlib.sha256(f"{_VERSION} {_READ_AGAIN} {layout.classes} {layout.given}".encode())
    for picture in layout.pictures:
        found = status(picture.path)
        facts = (os.path.abspath(picture.path), picture.label, picture.split, found.st_size, found.st_mtime_ns)
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _last(source: ImageSource) -> dict[str, Any]:
    """Return the state, the content and the notes of the folder when it was last read."""
    try:
        found = json.loads((source.notes_folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("content"), str) else {}


def _content(source: ImageSource, layout: Layout, decoded: Decoded, places: dict[str, list[int]]) -> str:
    splits = {
        split: [(decoded.pictures[i].label, decoded.hashes[i]) for i in chosen] for split, chosen in places.items()
    }
    return hashlib.sha256(json.dumps([_VERSION, source.side, layout.classes, splits]).encode()).hexdigest()


def _without_copies(decoded: Decoded, contents: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the pictures to keep, and of copies of pictures that are also in a later split.

    A picture in both train/ and test/ would be memorised, so it stays in test/ only.
    """
    last: dict[str, int] = {}
    for picture, content in zip(decoded.pictures, contents, strict=True):
        last[content] = max(last.get(content, 0), SPLITS.index(picture.split))
    stays = [SPLITS.index(p.split) == last[c] for p, c in zip(decoded.pictures, contents, strict=True)]
    return [i for i, kept in enumerate(stays) if kept], [i for i, kept in enumerate(stays) if not kept]


def _check_classes(
    layout: Layout,
    decoded: Decoded,
    contents: Sequence[str],
    kept: Sequence[int],
    drawn: int,
    left_out: Sequence[str],
) -> None:
    label_of: dict[str, int] = {}  # the first one, under which `draw_splits` counts a picture too
    for i in kept:
        if decoded.pictures[i].split == "train":
            label_of.setdefault(contents[i], decoded.pictures[i].label)
    counts = Counter(label_of.values())
    least = 1 + drawn
    if few := [f"{name} ({counts[label]})" for label, name in enumerate(layout.classes) if counts[label] < least]:
        each = "" if least == 1 else ", one for each split"
        raise DataError(
            f"each class must have at least {least} different training pictures of its own{each}, but these have "
            + "; ".join([f"fewer: {listed(few)}", *left_out])
        )


def _splits(decoded: Decoded, contents: Sequence[str], drawn: dict[str, float]) -> list[str]:
    splits = [picture.split for picture in decoded.pictures]
    training = [i for i, split in enumerate(splits) if split == "train"]
    found = draw_splits([decoded.pictures[i].label for i in training], [contents[i] for i in training], drawn)
    for i, split in zip(training, found, strict=True):
        splits[i] = split
    return splits


def _statistics(images: Bytes, chosen: Sequence[int]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel, in [0, 1], to eight places; the same on every machine."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(chosen), 1000):
        part = images[chosen[start : start + 1000]]
        for channel in range(3):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    means, deviations = [], []
    for histogram in counts.tolist():  # whole numbers of any length: no rounding before the end
        total = sum(histogram)
        first = sum(value * count for value, count in enumerate(histogram))
        second = sum(value**2 * count for value, count in enumerate(histogram))
        means.append(round(first / total / 255, 8))
        # A channel that never changes would be divided by zero.
        deviations.append(max(round(math.sqrt(second * total - first**2) / total / 255, 8), 1 / 255))
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])
