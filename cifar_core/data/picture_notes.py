"""Lines for people about a folder of pictures: what was found in it, and what to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_core.data import DataError
from cifar_core.data.data_set import DataSet
from cifar_core.data.decoding import Decoded
from cifar_core.data.duplicates import near_duplicates
from cifar_core.data.image_folder import listed
from cifar_core.data.splits import ENOUGH, LARGER_VAL_SHARE, VAL_SHARE
from cifar_core.errors import printable
from cifar_core.files import write_atomically

_NAMED = 2  # unreadable files in a message
_UNEVEN = 2.0  # the largest class against the smallest, from which on classes are called uneven


def found_notes(data_set: DataSet, decoded: Decoded) -> list[str]:
    """Return a line about what was found, and one about classes that are uneven."""
    counts = Counter(picture.label for picture in decoded.pictures)
    few, many = (chosen(counts, key=counts.__getitem__) for chosen in (min, max))
    each = f"{counts[few]:,}" if counts[few] == counts[many] else f"{counts[few]:,} to {counts[many]:,}"
    small, large = (chosen(decoded.sizes, key=lambda size: size[0] * size[1]) for chosen in (min, max))
    sizes = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys((small, large)))
    lines = [
        f"found {len(decoded.pictures):,} pictures of {len(counts)} classes ({each} of each): "
        f"{data_set.train_images:,} to train, {data_set.val_images:,} to validate, {data_set.test_images:,} to test; "
        f"{sizes} pixels, cropped to the square in the middle and scaled to {data_set.side} x {data_set.side}"
    ]
    if counts[many] >= _UNEVEN * counts[few]:
        lines.append(
            f"classes are uneven, from {data_set.classes[few]!r} ({counts[few]:,}) to {data_set.classes[many]!r} "
            f"({counts[many]:,}): balanced accuracy is recorded beside accuracy"
        )
    return lines


def lacking_notes(decoded: Decoded, classes: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Return a line for each of val/ and test/ that lacks classes."""
    lines = []
    for name in ("val", "test"):
        present = {picture.label for picture, split in zip(decoded.pictures, splits, strict=True) if split == name}
        if lacking := [of_class for label, of_class in enumerate(classes) if label not in present]:
            lines.append(f"{name}/ has no pictures of {listed(lacking)}, so it tells nothing of them")
    return lines


def drawn_note(drawn: Mapping[str, float]) -> list[str]:
    """Return a line about the splits that were drawn, if any were."""
    if not drawn:
        return []
    words = {"test": "to test", "val": "to validate"}
    parts = " and ".join(f"{100 * share:g} % {words[split]}" for split, share in drawn.items())
    line = f"{parts} are drawn by the content of the pictures, so that they stay when others are added"
    line += ", except in small classes"
    if drawn.get("val") == LARGER_VAL_SHARE:
        line += f"; {100 * VAL_SHARE:g} % to validate would be under {ENOUGH:,} pictures"
    return [line]


def unreadable_note(lines: Sequence[str], files: int, folder: Path, *, skip: bool) -> list[str]:
    """Return a line about files that are no pictures, if there are any, and list them in `folder`.

    Raises:
        DataError: there are some, and they are not to be skipped.
        OSError: the list cannot be written.
    """
    if not lines:
        return []
    path = folder / "unreadable.txt"
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    if skip:
        return [f"{len(lines):,} of {files:,} files are left out, as they are no readable pictures; {path} lists them"]
    more = f"; and {len(lines) - _NAMED:,} more" if len(lines) > _NAMED else ""
    raise DataError(
        f"{len(lines):,} of {files:,} files are no readable pictures: {'; '.join(lines[:_NAMED])}{more} "
        f"({path} lists them all; --skip-unreadable leaves them out)"
    )


def copies_note(copies: Sequence[Path], folder: Path) -> list[str]:
    """Return a line about pictures that are in a later split as well, if there are any, and list them in `folder`.

    Raises:
        OSError: the list cannot be written.
    """
    if not copies:
        return []
    path = folder / "copies.txt"
    write_atomically(path, "".join(f"{printable(copy)}\n" for copy in copies))
    return [f"{len(copies):,} pictures are left out, as val/ or test/ has them too; {path} lists them"]


def blank_note(decoded: Decoded, folder: Path) -> list[str]:
    """Return a line about pictures of a single colour, if there are any, and list them in `folder`.

    A transparent picture that is drawn in white alone is one of them.

    Raises:
        OSError: the list cannot be written.
    """
    blank = (decoded.images.max((1, 2)) == decoded.images.min((1, 2))).all(1)
    names = [printable(picture.path) for picture, found in zip(decoded.pictures, blank, strict=True) if found]
    if not names:
        return []
    path = folder / "blank.txt"
    write_atomically(path, "".join(f"{name}\n" for name in names))
    return [f"pictures of a single colour: {len(names):,}; {path} lists them"]


def duplicates_note(
    decoded: Decoded, classes: Sequence[str], contents: Sequence[str], splits: Sequence[str], folder: Path
) -> list[str]:
    """Return a line about duplicates that may mislead, if there are any, and list them in `folder`.

    Raises:
        OSError: the list cannot be written.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for place, content in enumerate(contents):
        same[content].append(place)
    doubted = [found for found in same.values() if len({decoded.pictures[place].label for place in found}) > 1]
    near = near_duplicates(decoded.images, contents, splits)
    if not doubted and not near:
        return []

    def shown(places: Sequence[int]) -> str:
        pictures = [(decoded.pictures[place], splits[place]) for place in places]
        return ", ".join(f"{printable(p.path)} ({classes[p.label]}, {split})" for p, split in pictures)

    path = folder / "duplicates.txt"
    lines = [f"one picture with several labels: {shown(found)}\n" for found in doubted]
    lines += [f"nearly the same picture in two splits: {shown(found)}\n" for found in near]
    write_atomically(path, "".join(lines))
    numbers = [f"pictures with several labels: {len(doubted):,}"] if doubted else []
    numbers += [f"pairs of nearly the same pictures in different splits: {len(near):,}"] if near else []
    return [f"{', '.join(numbers)}; {path} lists them"]
