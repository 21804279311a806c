"""Files of answers: what a vendor said of each exported image, and the class that it meant."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_core.data.data_set import DataSet
from cifar_core.errors import cause, printable
from cifar_core.files import csv_reader, decode_text, read_text
from sweeps.validation import InvalidFileError
from sweeps.words import to_number

COLUMNS = ("image", "answer", "seconds", "usd", "state")
ANSWERED, NOT_ANSWERED = "answered", "failed"  # of a state; empty: answered
DESCRIPTION = "test-images.json"  # of the data set, beside its exported images
PROMPT = "prompt.txt"
MOST_FILE_BYTES = 100_000_000
MOST_LETTERS = 2000  # of an answer: what lies beyond is not read


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of a file of answers.

    Attributes:
        seconds: time that the service took; None if not recorded.
        usd: cost of the request; None if not recorded.
    """

    image: str
    text: str
    seconds: float | None = None
    usd: float | None = None
    state: str = ANSWERED


def read_data_set(folder: Path) -> DataSet:
    """Read which data set the images are of that `export_test.py` wrote to a folder.

    Raises:
        OSError, ValueError: its description is missing, or damaged.
    """
    path = folder / DESCRIPTION
    try:
        return DataSet.from_dict(json.loads(read_text(path)))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def image_name(index: int) -> str:
    """The file name of a test image: its place in the test set, which says nothing of its class."""
    return f"{index:05d}.png"


_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[-_\u2010-\u2015\u2212 ](?=[^\W_])")


def prompt_for(classes: Sequence[str]) -> str:
    """The instruction that goes with each image."""
    names = ("; " if any("," in name for name in classes) else ", ").join(classes)
    return f"Which of these does the image show: {names}? Answer with one of these names and nothing else."


def meant_class(text: str, classes: Sequence[str]) -> str | None:
    """The class that an answer names; None if it names none, or several.

    Letters may be large or small. Where a class has several words, "_" and dashes between words are spaces. Both hold
    unless classes differ in nothing else. In "rose bush" only that class is named, and not the class "rose".

    >>> meant_class("A **Cat**.", ("cat", "dog")), meant_class("cat or dog", ("cat", "dog")), meant_class("", ("cat",))
    ('cat', None, None)
    """
    said, *names = (unicodedata.normalize("NFC", each) for each in (text[:MOST_LETTERS], *classes))  # macOS does not
    words = [_words] if any(_BETWEEN_WORDS.search(_plain(name)) for name in names) else []
    for simple in (_plain, str.casefold, *words):
        if len({*map(simple, names)} - {""}) == len(names):
            said, *names = map(simple, (said, *names))
    by_name = dict(zip(names, classes, strict=True))
    if exact := by_name.get(said):
        return exact
    longest_first = sorted(map(re.escape, by_name), key=len, reverse=True)
    # "non-cat" names no cat, and "-1" no 1
    named = set(re.findall(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?!\w)", said))
    return by_name[named.pop()] if len(named) == 1 else None


def _plain(text: str) -> str:
    """Return the text with single spaces, and without the "_" around words that Markdown has for emphasis."""
    return " ".join(re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", " ", text).split())


def _words(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", text)


def parse_answers(content: bytes, file: str) -> tuple[Answer, ...]:
    """Read a CSV file with the columns image and answer, and maybe seconds, usd and state.

    Raises:
        InvalidFileError: it is no such file, or too large.
    """
    if len(content) > MOST_FILE_BYTES:
        raise InvalidFileError(f"{file} must have at most {MOST_FILE_BYTES:,} bytes, but has {len(content):,}")
    try:
        text = decode_text(content)
    except ValueError as error:
        raise InvalidFileError(f"{file} must be a text file, but: {error}") from error
    limit = csv.field_size_limit(MOST_FILE_BYTES)
    try:
        reader = csv_reader(text)
        if missing := [name for name in COLUMNS[:2] if name not in (reader.fieldnames or ())]:
            raise InvalidFileError(
                f"{file} must have the columns image and answer, separated by a comma, but lacks "
                f"{' and '.join(missing)}; its first line is {text.partition(chr(10))[0][:80]!r}"
            )
        return tuple(_answers(reader, file))
    except csv.Error as error:
        raise InvalidFileError(f"{file} must be a CSV file, but: {error}") from error
    finally:
        csv.field_size_limit(limit)


def read_content(path: Path) -> bytes:
    """Read a file of answers as it is.

    Raises:
        InvalidFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFileError(f"{printable(path)} must be a readable file, but: {cause(error)}") from error


def write_row(answer: Answer) -> str:
    """A row of a file of answers, with its line end. The text is cut, and is on one line."""
    line = io.StringIO()
    text = " ".join("".join(c if c.isprintable() else " " for c in answer.text[:MOST_LETTERS]).split())
    numbers = ["" if value is None else f"{value:.9g}" for value in (answer.seconds, answer.usd)]
    csv.writer(line, lineterminator="\n").writerow([answer.image, text, *numbers, answer.state])
    return line.getvalue()


def _answers(rows: csv.DictReader[str], file: str) -> Iterator[Answer]:
    for row in rows:
        place = f"{file}, line {rows.line_num}"
        state = row.get("state") or ANSWERED
        if state not in (ANSWERED, NOT_ANSWERED):
            raise InvalidFileError(
                f"{place}: state must be {ANSWERED}, {NOT_ANSWERED} or empty, but got {state[:40]!r}"
            )
        seconds, usd = (_number(row, name, place) for name in ("seconds", "usd"))
        yield Answer(row["image"] or "", row["answer"] or "", seconds, usd, state)


def _number(row: Mapping[str, str | None], name: str, place: str) -> float | None:
    text = row.get(name) or ""
    try:
        value = to_number(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 <= value < 1e12:
        raise InvalidFileError(f"{place}: {name} must be a number >= 0 or empty, but got {text[:40]!r}")
    return value
