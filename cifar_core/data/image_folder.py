"""Pictures and their labels in a folder: a folder for each class, or a CSV file with paths and labels."""

from __future__ import annotations

import csv
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cifar_core.data import DataError
from cifar_core.data.data_set import CLASS_RULE, is_class_name
from cifar_core.data.image_file import NO_PICTURES
from cifar_core.errors import cause, printable
from cifar_core.files import csv_reader, decode_text

SPLITS = ("train", "val", "test")
LAYOUTS = "a folder for each class, or train/ with those (and val/ and test/, if there are any), or --labels FILE"

# What people call the folders of splits, in any case.
_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
_SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition")
_OF_SYSTEMS = ("Thumbs.db", "desktop.ini", "__MACOSX")  # which Windows and macOS put among pictures
_SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Picture:
    """A file, its label, and the split that its place gives it."""

    path: Path
    label: int
    split: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a data set, sorted by name and then by folder.

    Attributes:
        given: splits that have a folder of their own; the others are drawn from the training pictures.
    """

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    given: tuple[str, ...]


def find_pictures(folder: Path, labels: Path | None) -> Layout:
    """List the files of a data set with their labels; files and folders whose names begin with a dot do not count.

    Args:
        labels: a CSV file with the columns path (from `folder`) and label, if any.

    Raises:
        DataError: the folder has none of the layouts, or classes that cannot be learned; the message is one line.
    """
    try:
        if not folder.is_dir():
            raise DataError(f"--images must be a folder with pictures, but {printable(folder)} is not one")
        found = list(_from_folders(folder) if labels is None else _from_table(folder, labels))
    except OSError as error:
        raise DataError(
            f"{printable(Path(error.filename or labels or folder))}: this must be readable, but got: {cause(error)}"
        ) from error
    classes = tuple(sorted({name for _, name, _ in found}))
    _check_classes(folder, classes)
    numbers = {name: label for label, name in enumerate(classes)}
    pictures = sorted((Picture(path, numbers[name], split) for path, name, split in found), key=_by_name)
    if unknown := sorted({p.label for p in pictures} - {p.label for p in pictures if p.split == "train"}):
        names = listed([classes[label] for label in unknown])
        raise DataError(f"each class must have training pictures, but these have some in val/ or test/ only: {names}")
    return Layout(classes, tuple(pictures), tuple(split for split in SPLITS if any(p.split == split for p in pictures)))


def listed(names: Sequence[str]) -> str:
    """Join the first names, and count the others."""
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*map(repr, names[:_SHOWN]), *more])


def _from_folders(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, class, split) of every file in a folder of a class."""
    place = printable(folder)
    has_splits = (folder / "train").is_dir() and any(_folders(folder / "train"))
    if has_splits and (others := [path.name for path in _folders(folder) if path.name not in SPLITS]):
        raise DataError(f"beside train/ only val/ and test/ are allowed, but {place} has {listed(others)}")
    if not has_splits and any((folder / split).is_dir() for split in SPLITS[1:]):
        raise DataError(f"beside val/ and test/ there must be train/ with folders of classes, but {place} has none")
    named = [path.name for path in _folders(folder) if path.name.casefold() in _SPLIT_NAMES]
    if not has_splits and len(named) > 1:  # else they would be classes, and the test pictures would be trained on
        raise DataError(f"the folders of splits must be called train, val and test, but {place} has {listed(named)}")
    places = {folder / split: split for split in SPLITS} if has_splits else {folder: "train"}
    for each in dict.fromkeys((folder, *places)):
        if loose := _loose(each):
            raise DataError(f"pictures must lie in the folder of their class, but {printable(each)} itself has {loose}")
    for each, split in places.items():
        for of_class in _folders(each):
            files = list(files_in(of_class))
            if split == "train" and not files:
                raise DataError(f"the folder of a class must have pictures, but {printable(of_class)} has none")
            yield from ((path, of_class.name, split) for path in files)


def _loose(folder: Path) -> str:
    """Return the names of pictures that lie in no folder of `folder`; empty if it is not there."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind not in NO_PICTURES}
    files = folder.iterdir() if folder.is_dir() else ()
    shown = (path for path in files if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return listed(sorted(path.name for path in shown if path.is_file()))


def _from_table(folder: Path, table: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, class, split) of every line of a CSV file."""
    try:
        reader = csv_reader(decode_text(table.read_bytes()))
        rows, columns = [(reader.line_num, row) for row in reader], reader.fieldnames or []
    except (ValueError, csv.Error) as error:
        raise DataError(f"{printable(table)}: this must be a CSV file, but: {error}") from error
    if missing := [name for name in ("path", "label") if name not in columns]:
        raise DataError(
            f"{printable(table)}: its first line must name the columns path and label, separated by a comma, but lacks "
            f"{listed(missing)}"
        )
    if twice := [name for name in ("path", "label") if columns.count(name) > 1]:
        raise DataError(f"{printable(table)}: its columns must have different names, but got {listed(twice)} again")
    if not rows:
        raise DataError(f"{printable(table)}: it must list pictures, but has only its first line")
    others = {name: {str(row[name] or "").strip().casefold() for _, row in rows} for name in columns}
    del others["path"], others["label"]
    if given := [
        name
        for name, values in others.items()
        if name.strip().casefold() in _SPLIT_COLUMNS or values <= {*_SPLIT_NAMES}
    ]:
        raise DataError(
            f"{printable(table)}: splits of your own must be folders train/, val/ and test/, but this has the column "
            f"{listed(given)}; remove it to have them drawn"
        )
    seen: dict[str, int] = {}
    found: list[tuple[Path, str, str]] = []
    for line, row in rows:
        if any(map(str.strip, row.get(None, ()))):  # the key of surplus fields
            raise DataError(
                f"{printable(table)}: each line must have {len(columns)} fields as the first, those with a comma in "
                f"quotes, but line {line} has more"
            )
        place, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        if not place or not label:
            raise DataError(f"{printable(table)}: each line must have a path and a label, but line {line} lacks one")
        path = folder / place
        if (before := seen.setdefault(os.path.abspath(path), line)) != line:
            raise DataError(
                f"{printable(table)}: each path must be there once, but {place!r} is in lines {before} and {line}"
            )
        if not path.is_file():
            raise DataError(
                f"{printable(table)}: each path must lead from {printable(folder)} to a file, but line {line} has "
                f"{place!r}"
            )
        found.append((path, label, Path(place).parts[0]))
    tops = sorted({top for _, _, top in found})
    has_splits = sum(top.casefold() in _SPLIT_NAMES for top in tops) > 1  # else their test pictures would be trained on
    if has_splits and (beside := [top for top in tops if top not in SPLITS]):
        raise DataError(
            f"{printable(table)}: where paths are in folders of splits, all must be in train/, val/ and test/, but "
            f"others are in {listed(beside)}"
        )
    yield from ((path, label, top if has_splits else "train") for path, label, top in found)


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    if not classes:
        raise DataError(f"--images must have {LAYOUTS}, but {printable(folder)} has no pictures in such places")
    if len(classes) == 1:
        raise DataError(f"--images must have at least two classes, but {printable(folder)} has only {classes[0]!r}")
    if foreign := [name for name in classes if any("\ud800" <= letter <= "\udfff" for letter in name)]:
        encoding = sys.getfilesystemencoding()
        hint = "" if encoding == "utf-8" else "; with LC_ALL=C.UTF-8 they are read as UTF-8"
        raise DataError(f"names of classes must be {encoding}, but got {listed(foreign)}{hint}")
    if bad := [name for name in classes if not is_class_name(name)]:
        raise DataError(f"{CLASS_RULE}, but got {listed(bad)}")
    folded = Counter(map(_folded, classes))
    if twice := [name for name in classes if folded[_folded(name)] > 1]:
        rule = "classes must differ in more than capital letters, needless spaces and the encoding of accents"
        raise DataError(f"{rule}, but got {listed(twice)}")


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in found if path.name not in _OF_SYSTEMS)


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, except hidden ones and those that systems create.

    Raises:
        OSError: a folder cannot be read.
    """
    top, seen = folder.resolve(), set[Path]()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = Path(place).resolve()
        if real in seen or (real != top and top.is_relative_to(real)):  # links can form a loop, or lead upwards
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith(".") and name not in _OF_SYSTEMS)


def _raise(error: OSError) -> None:
    raise error


def _by_name(picture: Picture) -> tuple[str, str]:
    return picture.path.name, str(picture.path.parent)
